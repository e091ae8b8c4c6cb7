"""The second copy in S3, under Object Lock in compliance mode: nobody can change or delete it before its time, the
account's root included (S3 User Guide, "Using S3 Object Lock").

One object a checkpoint, `<prefix><chain>/<sequence, 16 digits>.jsonl`, one line each. A repeated write makes another
version of the same bytes. Receipts are not copied: with the checkpoints their absence shows.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import httpx

from adytum.audit.ports import Entry, SinkError
from adytum.bounded import MAX_AWS_ANSWER, PLAIN, UnboundedError, read
from adytum.releases.sigv4 import signed
from adytum.service.ports import CredentialsProvider

_TIMEOUT_S: Final = 10.0
_CODE: Final = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


class S3Sink:
    """`endpoint`: e.g. "https://s3.eu-central-1.amazonaws.com"; the bucket goes into the path. `retention_days`: how
    long an object cannot be deleted. `credentials`: need `s3:PutObject` and `s3:PutObjectRetention`, nothing else."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        region: str,
        retention_days: int,
        credentials: CredentialsProvider,
        now_ms: Callable[[], int],
        endpoint: str = "",
        name: str = "s3",
    ) -> None:
        self._endpoint = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
        self._host = urlsplit(self._endpoint).netloc
        self._bucket = bucket
        self._prefix = prefix
        self._region = region
        self._retention = timedelta(days=retention_days)
        self._credentials = credentials
        self._now_ms = now_ms
        self._name = name
        self._context = ssl.create_default_context()

    @property
    def name(self) -> str:
        return self._name

    @property
    def takes_receipts(self) -> bool:
        return False

    async def put(self, entries: Sequence[Entry]) -> None:
        async with httpx.AsyncClient(verify=self._context, timeout=_TIMEOUT_S, trust_env=False) as http:
            for entry in entries:
                await self._put(http, entry)

    async def _put(self, http: httpx.AsyncClient, entry: Entry) -> None:
        credentials = await self._credentials()
        if credentials is None:
            raise SinkError("S3_NO_CREDENTIALS")
        body = entry.line + b"\n"
        digest = hashlib.sha256(body)
        now_ms = self._now_ms()
        until = datetime.fromtimestamp(now_ms / 1000, UTC) + self._retention
        path = f"/{self._bucket}/{self._prefix}{entry.chain}/{entry.sequence:016}.jsonl"
        headers = signed(
            "PUT",
            path,
            {
                "content-type": "application/json",
                "host": self._host,
                "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
                "x-amz-content-sha256": digest.hexdigest(),
                "x-amz-object-lock-mode": "COMPLIANCE",
                "x-amz-sdk-checksum-algorithm": "SHA256",  # asked for wherever a retention is set
                "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            body=body,
            service="s3",
            region=self._region,
            credentials=credentials,
            now_ms=now_ms,
        )
        try:
            sent = http.stream("PUT", self._endpoint + path, content=body, headers={**headers, **PLAIN})
            async with sent as answer:
                said = await read(answer, MAX_AWS_ANSWER)
        except (httpx.HTTPError, OSError):
            raise SinkError("S3_UNREACHABLE") from None
        except UnboundedError:
            raise SinkError("S3_ANSWER_INVALID") from None
        if answer.status_code != httpx.codes.OK:
            code = _CODE.search(said[:4096])
            raise SinkError(f"S3_{code.group(1).decode()}" if code else f"S3_STATUS_{answer.status_code}")
