"""Second copies: files that only grow, and S3 under Object Lock (against moto, which we did not write)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from adytum.audit.file_sink import FileSink
from adytum.audit.ports import Entry, SinkError
from adytum.audit.s3_sink import S3Sink
from adytum_wire.messages import Credentials

CHAIN = "ab" * 16
NOW = 1_790_000_000_000  # 2026-09-21
DAY = 86_400_000


def entry(n: int) -> Entry:
    return Entry(kind="checkpoint", chain=CHAIN, sequence=n, line=b'{"checkpoint":{"n":%d}}' % n)


# --- files


async def test_lines_are_appended_and_a_file_ends_with_the_day(tmp_path: Path) -> None:
    now = [NOW]
    sink = FileSink(tmp_path, receipts=False, now_ms=lambda: now[0])
    await sink.put([entry(1), entry(2)])
    await sink.put([entry(3)])
    now[0] += DAY
    await sink.put([entry(4)])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["adytum-audit-2026-09-21.jsonl", "adytum-audit-2026-09-22.jsonl"]
    assert files[0].read_bytes() == b"".join(entry(n).line + b"\n" for n in (1, 2, 3))
    assert files[1].read_bytes() == entry(4).line + b"\n"
    assert stat.S_IMODE(files[0].stat().st_mode) & 0o027 == 0


async def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "adytum-audit-2026-09-21.jsonl"
    path.write_bytes(entry(1).line + b"\n" + entry(2).line[:9])
    sink = FileSink(tmp_path, receipts=False, now_ms=lambda: NOW)
    await sink.put([entry(2)])
    assert path.read_bytes().split(b"\n") == [entry(1).line, entry(2).line[:9], entry(2).line, b""]


async def test_everything_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_size), real(descriptor)))
    sink = FileSink(tmp_path, receipts=False, now_ms=lambda: NOW)
    await sink.put([entry(1)])
    assert len(entry(1).line) + 1 in synced  # the file with its content
    assert len(synced) == 2  # and the directory, for its name


def test_a_directory_that_is_not_there_is_told_at_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for directory in (tmp_path / "absent", file):
        with pytest.raises(OSError, match=r"absent|file"):
            FileSink(directory, receipts=False, now_ms=lambda: NOW).check()


async def test_a_directory_that_went_away_is_a_typed_failure(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "gone", receipts=True, now_ms=lambda: NOW)
    with pytest.raises(SinkError) as caught:
        await sink.put([entry(1)])
    assert caught.value.reason == "FILE_NO_SUCH_FILE_OR_DIRECTORY"


# --- S3


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="x"
    )


async def credentials() -> Credentials:
    return Credentials("AKIDEXAMPLE", "secret", "", 0)


def s3_sink(endpoint: str, bucket: str, provide: Any = credentials) -> S3Sink:
    return S3Sink(
        bucket=bucket, prefix="adytum/prod/", region="eu-west-1", retention_days=30, credentials=provide,
        now_ms=lambda: int(datetime.now(UTC).timestamp() * 1000), endpoint=endpoint,
    )  # fmt: skip


async def test_s3_objects_are_locked_and_hold_the_line(s3_endpoint: str) -> None:
    s3 = client(s3_endpoint)
    s3.create_bucket(
        Bucket="locked", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}, ObjectLockEnabledForBucket=True
    )
    await s3_sink(s3_endpoint, "locked").put([entry(7), entry(8)])
    key = f"adytum/prod/{CHAIN}/0000000000000007.jsonl"
    found = s3.get_object(Bucket="locked", Key=key)
    assert found["Body"].read() == entry(7).line + b"\n"
    assert found["ObjectLockMode"] == "COMPLIANCE"
    days = (found["ObjectLockRetainUntilDate"] - datetime.now(UTC)).total_seconds() / 86_400
    assert 29 < days <= 30
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.delete_object(Bucket="locked", Key=key, VersionId=found["VersionId"])
    assert s3.list_objects_v2(Bucket="locked")["KeyCount"] == 2


async def test_s3_refusals_have_amazons_name_and_silence_has_ours(s3_endpoint: str) -> None:
    async def none() -> None:
        return None

    for sink, reason in (
        (s3_sink(s3_endpoint, "no-such-bucket"), "S3_NoSuchBucket"),
        (s3_sink("http://127.0.0.1:1", "locked"), "S3_UNREACHABLE"),
        (s3_sink(s3_endpoint, "locked", none), "S3_NO_CREDENTIALS"),
    ):
        with pytest.raises(SinkError) as caught:
            await sink.put([entry(1)])
        assert caught.value.reason == reason


def test_our_signature_is_botocores() -> None:
    """The same request, signed by AWS's own library."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as BotoCredentials

    from adytum.releases.sigv4 import signed

    theirs = AWSRequest("PUT", "https://s3.eu-west-1.amazonaws.com/bucket/adytum/x.jsonl", data=b"line\n")
    theirs.headers["content-type"] = "application/json"
    theirs.headers["x-amz-object-lock-mode"] = "COMPLIANCE"
    S3SigV4Auth(BotoCredentials("AKIDEXAMPLE", "secret", "token"), "s3", "eu-west-1").add_auth(theirs)
    when = datetime.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    headers = {
        "content-type": "application/json",
        "host": "s3.eu-west-1.amazonaws.com",
        "x-amz-content-sha256": theirs.headers["X-Amz-Content-SHA256"],
        "x-amz-object-lock-mode": "COMPLIANCE",
    }
    ours = signed(
        "PUT", "/bucket/adytum/x.jsonl", headers, body=b"line\n", service="s3", region="eu-west-1",
        credentials=Credentials("AKIDEXAMPLE", "secret", "token", 0), now_ms=int(when.timestamp() * 1000),
    )  # fmt: skip
    assert ours["authorization"] == theirs.headers["Authorization"]
