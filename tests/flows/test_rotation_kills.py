"""The kill mode of `adytum bench rotation`, small: every part is killed once in the middle of a rotation, and the judge
who then finds nothing wrong does find what is made wrong."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adytum_sim.bench.apart import Apart, running_apart
from adytum_sim.bench.kills import after
from adytum_sim.bench.rotation import GENERATION, RotationMeasured, rotate
from adytum_sim.bench.signing import read_evidence
from adytum_sim.bench.verdict import Verdict, judge

RECORDS = 150


@pytest.fixture
async def apart() -> AsyncIterator[Apart]:
    path = Path(tempfile.mkdtemp(prefix="ad-", dir="/tmp"))
    path.chmod(0o711)  # PostgreSQL runs as another user when we are root
    options: dict[str, Any] = {"records": RECORDS, "workers": 1, "clients": 1, "second_key": True}
    try:
        # KMS answers late and to few, so that the kills come while records are left.
        async with running_apart(path, in_flight=4, kms_delay_ms=50, **options) as found:
            yield found
    finally:
        await asyncio.to_thread(shutil.rmtree, path, True)


async def test_every_part_is_killed_and_nothing_is_wrong_but_what_is_made_wrong(apart: Apart) -> None:
    measured = await rotate(apart, kill=after(20, times=4), seed=1, sample=20)
    assert measured.verdict.problems == []
    assert measured.signatures.problems == []
    assert (measured.state, measured.resealed, measured.skipped, measured.refused) == ("complete", RECORDS, 0, 0)
    assert measured.defects == 0
    assert [(one.part, one.kills) for one in measured.kills] == [
        ("worker", 1),
        ("enclave", 1),
        ("database", 1),
        ("service", 1),
    ]
    assert measured.verdict.chains == 2  # two boots of the enclave
    assert measured.signatures.signed > 0
    assert (measured.opened.asked, measured.opened.opened) == (20, 20)
    split = measured.split
    assert min(split.kms_ms, split.pipe_ms, split.enclave_ms, split.service_ms, split.worker_ms, split.client_ms) > 0
    assert 0 < split.enclave_kms_ms < split.enclave_ms
    await _what_is_made_wrong_is_found(apart, measured)


async def _what_is_made_wrong_is_found(apart: Apart, measured: RotationMeasured) -> None:
    heard = read_evidence(apart.evidence)
    one, another = apart.keys[3], apart.keys[4]
    wrong: list[tuple[str, str, tuple[Any, ...]]] = [
        ("newest_wrong", "UPDATE key_envelopes SET kms_key_id = 'arn:old' WHERE key_id = $1 AND version = 2", (one,)),
        ("versions_wrong", "DELETE FROM key_envelopes WHERE key_id = $1 AND version = 1", (another,)),
        ("requests_wrong", "DELETE FROM requests WHERE request_id = (SELECT min(request_id) FROM requests"
         " WHERE operation = 'reseal' AND state = 'done')", ()),
        ("receipts_lost", "UPDATE receipts SET body_hash = '\\x00' WHERE chain = $1 AND sequence = $2",
         (heard[0].chain, heard[0].sequence)),
        ("chains_broken", "UPDATE receipts SET envelope = overlay(envelope placing 'x' from 30)"
         " WHERE chain = $1 AND sequence = $2", (heard[-1].chain, heard[-1].sequence)),
    ]  # fmt: skip
    connection = await asyncpg.connect(apart.dsn)
    try:
        await connection.execute("ALTER TABLE receipts DISABLE TRIGGER receipts_append_only")
        for _, statement, arguments in wrong:
            assert not (await connection.execute(statement, *arguments)).endswith(" 0")
    finally:
        await connection.close()
    found: Verdict = await judge(apart, measured.job, generation=GENERATION, heard=heard)
    assert {name: getattr(found, name) for name, _, _ in wrong} == {name: 1 for name, _, _ in wrong}
    assert found.defects == len(wrong)
    assert len(found.problems) == len(wrong)
