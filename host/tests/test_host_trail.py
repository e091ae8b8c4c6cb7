"""A hole in the stored receipts of a running boot is filled from the enclave; one that cannot be is said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from host_fake_enclave import ScriptedEnclave, now_ms

from adytum.service.trail import SETTLE_S, Trail
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome, receipt_row
from adytum_verify import verify_chain
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Reseal


def decide(enclave: ScriptedEnclave, count: int) -> None:
    for _ in range(count):
        body = Reseal(v=1, tenant="acme", request_id="request-1", issued_at=now_ms(), key_id="key-" + "0" * 32)
        enclave.receipt(body, b"body")


async def stored(fresh: Any) -> list[bytes]:
    return [bytes(row["envelope"]) for row in await fresh.rows("SELECT envelope FROM receipts ORDER BY sequence")]


async def test_what_answers_lost_is_fetched_and_the_chain_verifies(fresh: Any, database: Database) -> None:
    enclave, batcher = ScriptedEnclave(), AuditBatcher(database)
    decide(enclave, 9)
    for number in (1, 2, 5, 9):
        await batcher.commit(Outcome(receipt=receipt_row(enclave.trail[number - 1])))
    trail = Trail(enclave, database, batcher)
    await trail.mend(enclave.boot_id, 9, 100.0)
    assert len(await stored(fresh)) == 4  # they may still be on their way
    await trail.mend(enclave.boot_id, 9, 100.0 + SETTLE_S)
    assert await stored(fresh) == enclave.trail
    key = enclave.receipt_key.public_key().public_bytes_raw()
    verify_chain(await stored(fresh), receipt_key=key).require_intact()
    assert trail.given_up == 0
    await batcher.close()


async def test_a_whole_trail_asks_the_enclave_nothing(fresh: Any, database: Database) -> None:
    enclave, batcher = ScriptedEnclave(), AuditBatcher(database)
    decide(enclave, 3)
    for envelope in enclave.trail:
        await batcher.commit(Outcome(receipt=receipt_row(envelope)))
    enclave.down = True
    trail = Trail(enclave, database, batcher)
    await trail.mend(enclave.boot_id, 3, 0.0)
    await trail.mend(enclave.boot_id, 3, 60.0)
    assert trail.mended == 0
    await batcher.close()


async def test_a_new_boot_begins_a_new_trail(fresh: Any, database: Database) -> None:
    enclave, batcher = ScriptedEnclave(), AuditBatcher(database)
    trail = Trail(enclave, database, batcher)
    for _ in range(2):
        enclave.boot()
        decide(enclave, 2)
        await trail.mend(enclave.boot_id, 2, 0.0)
        await trail.mend(enclave.boot_id, 2, 60.0)
    assert len(await stored(fresh)) == 4
    await batcher.close()


async def test_what_the_enclave_has_forgotten_is_said_and_not_asked_for_ever(
    fresh: Any, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    enclave, batcher = ScriptedEnclave(), AuditBatcher(database)
    decide(enclave, 4)
    forgotten, enclave.trail = enclave.trail[:2], [*enclave.trail]

    async def remembers_from_three(first: int, *, timeout_s: float | None = None) -> list[bytes]:
        return enclave.trail[first - 1 :] if first > len(forgotten) else []

    enclave.get_receipts = remembers_from_three  # type: ignore[method-assign]
    trail = Trail(enclave, database, batcher)
    with caplog.at_level(logging.ERROR):
        await trail.mend(enclave.boot_id, 4, 0.0)
        await trail.mend(enclave.boot_id, 4, 60.0)
    assert trail.given_up == 2
    assert "no longer remembers" in caplog.text
    assert await stored(fresh) == enclave.trail[2:]
    await batcher.close()


async def test_receipts_of_another_chain_are_not_taken_for_it(fresh: Any, database: Database) -> None:
    enclave, other, batcher = ScriptedEnclave(), ScriptedEnclave(), AuditBatcher(database)
    decide(enclave, 2)
    decide(other, 2)
    trail = Trail(other, database, batcher)
    await trail.mend(enclave.boot_id, 2, 0.0)
    with pytest.raises(AdytumError) as caught:
        await trail.mend(enclave.boot_id, 2, 60.0)
    assert caught.value.code is Code.RECEIPT_INVALID
    assert await stored(fresh) == []
    await batcher.close()
