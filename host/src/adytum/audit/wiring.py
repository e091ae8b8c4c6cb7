"""The second copies that the settings name."""

from __future__ import annotations

from collections.abc import Callable

from adytum.audit.file_sink import FileSink
from adytum.audit.ports import Sink
from adytum.audit.s3_sink import S3Sink
from adytum.service.ports import CredentialsProvider
from adytum.settings import Audit


def make_sinks(settings: Audit, *, credentials: CredentialsProvider, now_ms: Callable[[], int]) -> list[Sink]:
    """Errors: OSError when the directory of files cannot be written: the service then does not start."""
    made: list[Sink] = []
    if settings.fileDirectory is not None:
        file = FileSink(settings.fileDirectory, receipts=settings.fileReceipts, now_ms=now_ms)
        file.check()
        made.append(file)
    if settings.s3Bucket:
        made.append(
            S3Sink(
                bucket=settings.s3Bucket,
                prefix=settings.s3Prefix,
                region=settings.s3Region,
                retention_days=settings.s3RetentionDays,
                credentials=credentials,
                now_ms=now_ms,
                endpoint=settings.s3Endpoint,
            )
        )
    return made
