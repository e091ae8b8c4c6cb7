"""`adytum bench enclave` against a real enclave process, briefly. No figure is judged, only that it is there."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from adytum_sim.bench.command import bench
from adytum_sim.bench.drive import drive, frames_of
from adytum_sim.bench.enclave import WARM
from adytum_sim.bench.workload import Kind, StampBy, open_wallet
from adytum_sim.enclave.config import enclave_socket
from adytum_sim.stack import running_stack
from adytum_wire import limits
from adytum_wire.types import SigningScheme


@pytest.fixture
def short_path() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ad-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_the_command_prints_one_json_object() -> None:
    arguments = ["enclave", "--seconds", "0.1", "--depth", "1,8", "--stamp", "secp256k1", "--cold", "--json"]
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    lines = report["measured"]
    assert [(line["case"]["kind"], line["case"]["depth"], line["case"]["strict"]) for line in lines] == [
        ("raw", 1, False),
        ("raw", 8, False),
        ("transfer", 1, False),
        ("transfer", 8, False),
        ("raw", 1, True),
        ("raw", 8, True),
    ]
    for line in lines:
        assert line["errors"] == 0
        assert line["requests"] > 0
        assert 0 < line["p50_ms"] <= line["p95_ms"] <= line["p99_ms"]
        assert line["of_needed"] > 0
    assert report["primitives_us"]["secp256k1-sign"] > 0


def test_a_wrong_list_is_a_usage_error() -> None:
    for arguments in (["--depth", "0"], ["--depth", "a"], ["--scheme", "rsa"], ["--stamp", ""]):
        assert CliRunner().invoke(bench, ["enclave", *arguments]).exit_code == 2


async def test_refused_requests_are_counted_as_errors(short_path: Path) -> None:
    async with running_stack(short_path, bounds=WARM) as stack:
        wallet = await open_wallet(stack)
        good = wallet.payloads(20, stamp=StampBy.ED25519, scheme=SigningScheme.ECDSA_P256, kind=Kind.RAW)
        bad = wallet.payloads(4, stamp=StampBy.P256, scheme=SigningScheme.BIP340, kind=Kind.RAW)
        bad = [payload.replace(b"raw-digest", b"raw-digost") for payload in bad]  # the stamp no longer holds
        driven = await asyncio.to_thread(
            drive,
            enclave_socket(stack.directory, limits.DATA_PORT),
            frames_of(good + bad),
            depth=5,
            pid=stack.process.pid,
        )
        assert (driven.count, driven.errors) == (24, 4)
        assert len(driven.latencies) == 24
        assert driven.cpu_seconds > 0
        health = await stack.client.health()
        assert health.counters["executed"] == 4 + 20  # three keys and a session were made
        assert health.counters["error_STAMP_INVALID"] == 4
