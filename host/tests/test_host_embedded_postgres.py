"""The embedded PostgreSQL: starts, keeps its data, stops, and goes with the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from adytum.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="adytum-pg-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        yield Path(path)


def ask(dsn: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_data_survive_a_restart_and_no_network_port_is_open(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "pg", durable=False)
    with server:
        assert ask(server.dsn(), "SHOW listen_addresses") == ""
        ask(server.dsn(), "CREATE TABLE kept AS SELECT 7 AS n")
    server.stop()  # idempotent
    with pytest.raises(OSError):
        ask(server.dsn(), "SELECT 1")
    with server:
        assert ask(server.dsn(), "SELECT n FROM kept") == 7
        if os.geteuid() == 0:
            assert ask(server.dsn(), "SHOW data_directory") == str(directory / "pg" / "data")


def test_a_path_too_long_for_a_socket_still_works(directory: Path) -> None:
    deep = directory / ("d" * 60) / ("e" * 40)
    with EmbeddedPostgres(deep, durable=False) as server:
        assert ask(server.dsn(), "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as somebody else")
def test_a_directory_that_the_server_cannot_enter_is_said(directory: Path) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=r"o\+x"):
        EmbeddedPostgres(private / "pg").start()


def test_it_stops_when_its_owner_is_killed(directory: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from adytum.storage.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]), durable=False); server.start(); print('up', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory / "pg")], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        pid = int((directory / "pg" / "data" / "postmaster.pid").read_text().splitlines()[0])
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert not (directory / "pg" / "data" / "postmaster.pid").exists()  # a clean shutdown
