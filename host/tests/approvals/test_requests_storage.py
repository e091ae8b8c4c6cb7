"""Rows of requests that wait: who may change them, and that no order of events makes two endings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from test_host_storage import outcome, raised, receipt, request

from adytum.storage import migrate
from adytum.storage import requests as store
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome, PendingRow, RequestRow
from adytum_wire.errors import Code

MISSING = Code.APPROVALS_MISSING.value
ID = "r-00000001"


def waiting(n: int = 1, *, sequence: int = 0, chain: str = "ab" * 16, expires_at: int = 2**50) -> Outcome:
    row = replace(request(n), result=b"", code=MISSING)
    pending = PendingRow(body=b"{}", stamp=b"stamp", issued_at=1, expires_at=expires_at)
    given = replace(receipt(sequence or n, chain=chain), request_id=row.request_id)
    return Outcome(receipt=given, request=row, pending=pending)


def final(n: int = 1, *, sequence: int, code: str = "") -> Outcome:
    row = replace(request(n), code=code, result=b"" if code else b'{"done":1}', receipt=b"{%d}" % sequence)
    return Outcome(receipt=replace(receipt(sequence), request_id=row.request_id), request=row)


async def state(database: Database) -> str:
    return (await store.load(database, "acme", ID)).row.state


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", "done"),
        (MISSING, "pending"),
        (Code.APPROVALS_REJECTED.value, "rejected"),
        (Code.REQUEST_CANCELLED.value, "cancelled"),
        (Code.REQUEST_EXPIRED.value, "expired"),
        (Code.POLICY_DENIED.value, "refused"),
    ],
)
def test_the_state_follows_from_the_code(code: str, expected: str) -> None:
    assert replace(request(1), code=code).state == expected


async def test_migration_0003_goes_forth_and_back_on_filled_tables(empty_database: Any) -> None:
    dsn = empty_database.dsn
    await migrate.upgrade(dsn, "0003")
    database = Database(dsn)
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1))
    await batcher.commit(waiting(2))
    await batcher.commit(final(3, sequence=3, code=Code.APPROVALS_REJECTED.value))
    await batcher.close()
    await database.close()
    await migrate.downgrade(dsn, "0002")
    rows = await empty_database.rows("SELECT request_id, state FROM requests ORDER BY request_id")
    assert [tuple(row) for row in rows] == [("r-00000001", "done"), ("r-00000003", "refused")]
    assert await empty_database.count("receipts") == 3
    await migrate.upgrade(dsn, "0003")
    assert await empty_database.count("pending_requests") == 0


async def test_the_final_answer_takes_the_place_of_the_pending_one(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    first = await batcher.commit(waiting())
    assert first is not None
    assert first.state == "pending"
    done = await batcher.commit(final(sequence=2))
    assert done is not None
    assert (done.state, done.result) == ("done", b'{"done":1}')
    late = await batcher.commit(waiting(sequence=3))  # an answer that was overtaken
    assert late is not None
    assert (late.state, late.result, late.receipt) == ("done", b'{"done":1}', b"{2}")
    assert await fresh.count("receipts") == 3
    assert await fresh.count("pending_requests") == 1


async def test_not_yet_and_the_answer_in_one_transaction(database: Database) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(waiting())
    blocker = asyncio.create_task(batcher.commit(outcome(99)))  # makes the rest wait together
    late, done = await asyncio.gather(batcher.commit(waiting(sequence=2)), batcher.commit(final(sequence=3)))
    await blocker
    assert isinstance(late, RequestRow)
    assert isinstance(done, RequestRow)
    assert late.state == done.state == "done"
    assert await state(database) == "done"


async def test_another_body_never_takes_the_place(database: Database) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(waiting())
    other = final(sequence=2)
    assert other.request is not None
    stolen = replace(other, request=replace(other.request, body_hash=b"x" * 32))
    assert await raised(batcher.commit(stolen)) is Code.REQUEST_CONFLICT
    assert await state(database) == "pending"


async def test_what_is_claimed_cannot_be_cancelled_claimed_or_expired(database: Database) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(waiting(expires_at=5))
    assert await store.claim(database, "acme", ID, "one")
    assert not await store.claim(database, "acme", ID, "two")
    assert not await store.cancel(database, "acme", ID)
    assert await store.expire(database, 10) == []
    await store.release(database, "acme", ID, "two", considered=9, code="", again=False)  # not theirs
    assert not await store.cancel(database, "acme", ID)
    await store.release(database, "acme", ID, "one", considered=0, code=MISSING, again=False)
    assert await store.expire(database, 10) == [("acme", ID)]
    assert await state(database) == "expired"
    assert not await store.claim(database, "acme", ID, "three")
    assert not await store.cancel(database, "acme", ID)


async def test_of_many_that_claim_and_cancel_together_one_wins(database: Database) -> None:
    batcher = AuditBatcher(database)
    for n in range(1, 13):
        await batcher.commit(waiting(n))
        row = f"r-{n:08}"
        outcomes = await asyncio.gather(
            *(store.claim(database, "acme", row, f"claim-{at}") for at in range(3)),
            *(store.cancel(database, "acme", row) for _ in range(3)),
        )
        assert sum(outcomes) == 1


async def test_a_claim_whose_host_died_ends_by_itself(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(waiting())
    await store.claim(database, "acme", ID, "dead")
    await fresh.rows("UPDATE pending_requests SET claimed_until = now() - interval '1 second'")
    assert not (await store.load(database, "acme", ID)).waiting.is_claimed  # type: ignore[union-attr]
    assert await store.claim(database, "acme", ID, "next")


async def test_a_claim_is_renewed_by_its_holder_alone(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(waiting())
    await store.claim(database, "acme", ID, "one")
    await fresh.rows("UPDATE pending_requests SET claimed_until = now() - interval '1 second'")
    assert not await store.renew(database, "acme", ID, "two")
    assert await store.claim(database, "acme", ID, "two"), "it was not renewed in time"
    assert not await store.renew(database, "acme", ID, "one"), "too late"
    await fresh.rows("UPDATE pending_requests SET claimed_until = now() - interval '1 second'")
    assert await store.renew(database, "acme", ID, "two")
    assert not await store.claim(database, "acme", ID, "three")


async def test_what_the_enclave_did_is_what_happened(database: Database) -> None:
    """A claim outlived its lease and the request was cancelled meanwhile: the enclave's word stands."""
    batcher = AuditBatcher(database)
    await batcher.commit(waiting())
    assert await store.cancel(database, "acme", ID)
    await batcher.commit(final(sequence=2))
    assert await state(database) == "done"
