"""`adytum pipe` as a process: bytes go through, and it ends cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from adytum.cli import main
from adytum.cli.pipe import kms_host

ADYTUM = str(Path(sys.executable).parent / "adytum")
ARN = "arn:aws:kms:us-east-1:111122223333:key/abc"


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_bytes_of_the_enclave_reach_the_target(echo: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="ad-"))
    settings = {
        "tee": {"kmsKeyARN": ARN, "allowedPCRs": ["PCR0=" + "11" * 48 + ",PCR1=" + "22" * 48 + ",PCR2=" + "33" * 48]}
        | {"developmentDirectory": str(directory)},
        "database": {"dsn": "postgresql:///none"},
    }
    (directory / "adytum.yaml").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [ADYTUM, "pipe", "-c", str(directory / "adytum.yaml"), "--dial", f"127.0.0.1:{echo}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert "kms.us-east-1.amazonaws.com:443" in line
        reader, writer = await asyncio.open_unix_connection(directory / "host_8000.sock")
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.read(100), 10) == b"hello"
        writer.close()
        process.send_signal(signal.SIGTERM)
        rest = await asyncio.to_thread(process.communicate, None, 15)
        assert "carried 5 bytes up, 5 down" in rest[0]
        assert process.returncode == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_target_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(click.UsageError):
        kms_host("arn:aws:kms")
    assert kms_host(ARN.replace("aws", "aws-cn", 1)) == "kms.us-east-1.amazonaws.com.cn"
    done = CliRunner().invoke(main, ["pipe", "-c", "/nonexistent/adytum.yaml"])
    assert done.exit_code in (1, 2)
    assert "Traceback" not in done.output
