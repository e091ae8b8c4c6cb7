"""The database: migrations forth and back on filled tables, append-only receipts, group commit, typed errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from host_fake_enclave import ARN
from sqlalchemy.ext.asyncio import create_async_engine

from adytum.storage import migrate, reads
from adytum.storage.batcher import AuditBatcher
from adytum.storage.coalescer import Coalescer
from adytum.storage.database import Database
from adytum.storage.lookup import Found, Lookup, Question
from adytum.storage.rows import Outcome, ReceiptRow, RecordRow, RequestRow
from adytum.storage.schema import metadata
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, encode_header
from adytum_wire.types import Algorithm, KeyState, RecordKind

CHAIN = "ab" * 16


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def receipt(n: int, *, chain: str = CHAIN, body: str = "") -> ReceiptRow:
    return ReceiptRow(
        chain=chain,
        sequence=n,
        envelope=b"{%d}" % n,
        body_hash=digest(body or f"body {n}"),
        tenant="acme",
        request_id=f"r-{n:08}",
        time=n,
        decision="allow",
        code="",
    )


def request(n: int, *, body: str = "", result: bytes = b"") -> RequestRow:
    return RequestRow(
        tenant="acme",
        request_id=f"r-{n:08}",
        body_hash=digest(body or f"request {n}"),
        stamp_key=b"k" * 32,
        operation="sign",
        result=result or b'{"n":%d}' % n,
        receipt=b"{%d}" % n,
    )


def record(n: int, *, version: int = 1) -> RecordRow:
    header = Header(
        tenant="acme",
        key_id=f"key-{n:032x}",
        node_id="node-1",
        kind=RecordKind.SIGNING_KEY,
        algorithm=Algorithm.SECP256K1,
        public_key="02" * 33,
        version=version,
        generation=1,
        labels=["hot"],
        state=KeyState.ACTIVE,
        delete_after=0,
        kms_key_arn=ARN,
        created_at=1,
    )
    return RecordRow(header=header, record=Record(encode_header(header), b"blob %d" % version, b"wrapped"))


def outcome(n: int, **parts: Any) -> Outcome:
    return Outcome(receipt=receipt(n), request=parts.get("request", request(n)), record=parts.get("record"))


async def raised(work: Any) -> Code:
    with pytest.raises(AdytumError) as caught:
        await work
    return caught.value.code


# --- migrations


async def test_migrations_go_forth_and_back_on_filled_tables(empty_database: Any) -> None:
    dsn = empty_database.dsn
    assert (await migrate.status(dsn)).current is None
    for _ in range(2):
        await migrate.upgrade(dsn)
        found = await migrate.status(dsn)
        assert (found.current, found.pending) == (found.head, ())
        database = Database(dsn)
        batcher = AuditBatcher(database)
        await batcher.commit(outcome(1, record=record(1)))
        await reads.put_policy(database, "acme", 1, b"{}", digest("policy"))
        await batcher.close()
        await database.close()
        await migrate.upgrade(dsn)  # again: nothing to do, nothing lost
        assert await empty_database.count("receipts") == 1
        await migrate.downgrade(dsn, "base")
        tables = await empty_database.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema='public'"
        )
        assert {row[0] for row in tables} == {"adytum_migrations"}


async def test_two_that_migrate_together_do_not_collide(empty_database: Any) -> None:
    await asyncio.gather(*(migrate.upgrade(empty_database.dsn) for _ in range(3)))
    assert (await migrate.status(empty_database.dsn)).pending == ()


async def test_the_migrations_arrive_at_the_metadata(fresh: Any) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(fresh.dsn))

    def differences(connection: sa.Connection) -> list[Any]:
        options = {"version_table": "adytum_migrations", "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_migration_does_not_wait_for_a_lock_for_ever(empty_database: Any) -> None:
    await migrate.upgrade(empty_database.dsn)
    connection = await asyncpg.connect(empty_database.dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE receipts IN ACCESS SHARE MODE")
            code = await raised(migrate.downgrade(empty_database.dsn, "base", lock_timeout_ms=100))
    finally:
        await connection.close()
    assert code is Code.STORAGE_UNAVAILABLE
    assert (await migrate.status(empty_database.dsn)).current is not None
    assert await empty_database.count("receipts") == 0  # the tables are still there


async def test_the_view_has_the_seeds_columns_of_the_latest_version(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=record(7)))
    await batcher.commit(outcome(2, record=record(7, version=2)))
    [row] = await fresh.rows(
        "SELECT key_id, ciphertext_blob, data_key_ciphertext, kms_key_id, created_at, version FROM sealed_keys"
    )
    assert (row["version"], row["ciphertext_blob"], row["kms_key_id"]) == (2, "YmxvYiAy", ARN)


# --- attacks on the audit


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE receipts SET decision = 'allow'",
        "UPDATE receipts SET envelope = ''",
        "DELETE FROM receipts",
        "DELETE FROM receipts WHERE sequence = 1",
        "TRUNCATE receipts",
        "TRUNCATE receipts CASCADE",
        "INSERT INTO receipts SELECT * FROM receipts ON CONFLICT (chain, sequence) DO UPDATE SET envelope = ''",
        "SET session_replication_role = replica; DELETE FROM receipts",
    ],
)
async def test_receipts_edited_in_the_database_are_refused(database: Database, fresh: Any, attack: str) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1))
    before = await fresh.rows("SELECT * FROM receipts")
    connection = await asyncpg.connect(fresh.dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(attack)
    finally:
        await connection.close()
    assert await fresh.rows("SELECT * FROM receipts") == before


async def test_a_forked_chain_is_refused_and_the_first_receipt_stays(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1))
    fork = Outcome(receipt=receipt(1, body="another history"))
    assert await raised(batcher.commit(fork)) is Code.RECEIPT_INVALID
    [row] = await fresh.rows("SELECT body_hash FROM receipts")
    assert row["body_hash"] == digest("body 1")


# --- group commit


async def test_many_waiters_share_few_transactions(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    before = (await fresh.rows("SELECT pg_current_xact_id()::text::bigint"))[0][0]
    done = await asyncio.gather(*(batcher.commit(outcome(n)) for n in range(1, 501)))
    after = (await fresh.rows("SELECT pg_current_xact_id()::text::bigint"))[0][0]
    assert [row.request_id for row in done if row] == [f"r-{n:08}" for n in range(1, 501)]
    assert await fresh.count("receipts") == await fresh.count("requests") == 500
    assert after - before < 12


async def test_the_first_answer_wins_and_the_second_waiter_gets_its_bytes(database: Database, fresh: Any) -> None:
    """Two hosts that ask two enclaves for the same request: both receipts are kept, one key is."""
    one, two = AuditBatcher(database), AuditBatcher(database)
    same = request(1, result=b'{"first":1}')
    other = Outcome(receipt=receipt(1, chain="cd" * 16), request=request(1, result=b'{"second":2}'), record=record(2))
    first = await one.commit(Outcome(receipt=receipt(1), request=same, record=record(1)))
    second = await two.commit(other)
    assert first is not None
    assert second is not None
    assert second.result == first.result == b'{"first":1}'
    assert await fresh.count("receipts") == 2
    assert [row[0] for row in await fresh.rows("SELECT key_id FROM keys")] == [record(1).header.key_id]


async def test_repeats_and_conflicts_inside_one_batch(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    blocker = asyncio.create_task(batcher.commit(outcome(99)))  # makes the rest wait together
    same, conflict = outcome(1), Outcome(receipt=receipt(2), request=request(1, body="other"))
    results = await asyncio.gather(
        batcher.commit(same), batcher.commit(same), batcher.commit(conflict), return_exceptions=True
    )
    await blocker
    assert results[0] == results[1] == request(1)
    assert isinstance(results[2], AdytumError)
    assert results[2].code is Code.REQUEST_CONFLICT
    assert await fresh.count("receipts") == 3  # the conflicting decision happened too
    assert await fresh.count("requests") == 2


async def test_a_failed_transaction_fails_every_waiter_and_stores_nothing(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1))
    await fresh.take_away()
    results = await asyncio.gather(*(batcher.commit(outcome(n)) for n in range(2, 40)), return_exceptions=True)
    assert {r.code for r in results if isinstance(r, AdytumError)} == {Code.AUDIT_UNAVAILABLE}
    assert len([r for r in results if isinstance(r, AdytumError)]) == 38
    await fresh.give_back()
    await batcher.commit(outcome(50))
    assert [r[0] for r in await fresh.rows("SELECT sequence FROM receipts ORDER BY 1")] == [1, 50]


async def test_one_bad_row_fails_alone(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    blocker = asyncio.create_task(batcher.commit(outcome(99)))
    bad = Outcome(receipt=receipt(2**70))  # no bigint
    results = await asyncio.gather(
        *(batcher.commit(outcome(n)) for n in range(1, 5)), batcher.commit(bad), return_exceptions=True
    )
    await blocker
    assert [type(r) for r in results[:4]] == [RequestRow] * 4
    assert isinstance(results[4], AdytumError)
    assert results[4].code is Code.AUDIT_UNAVAILABLE
    assert await fresh.count("receipts") == 5


async def test_a_full_queue_says_so_at_once_and_close_finishes_the_rest() -> None:
    release = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        await release.wait()
        return [2 * item for item in items]

    coalescer: Coalescer[int, int] = Coalescer(flush, max_items=2, max_waiting=3)
    waiting = [asyncio.create_task(coalescer.submit(n)) for n in range(1)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(coalescer.submit(n)) for n in range(1, 4)]
    await asyncio.sleep(0)
    assert await raised(coalescer.submit(9)) is Code.RESOURCE_EXHAUSTED
    release.set()
    await coalescer.close()
    assert await asyncio.gather(*waiting) == [0, 2, 4, 6]
    assert await raised(coalescer.submit(9)) is Code.RESOURCE_EXHAUSTED


async def test_a_waiter_that_submits_again_at_once_is_served() -> None:
    """The drain that answered it has ended by then, but its task has not been counted out yet."""

    async def flush(items: Sequence[int]) -> Sequence[int]:
        return list(items)

    coalescer: Coalescer[int, int] = Coalescer(flush, max_items=8)
    async with asyncio.timeout(5):
        assert [await coalescer.submit(n) for n in range(20)] == list(range(20))


async def test_a_flush_that_breaks_is_heard_by_every_waiter() -> None:
    async def flush(_items: Sequence[int]) -> Sequence[int]:
        raise RuntimeError("broken")

    coalescer: Coalescer[int, int] = Coalescer(flush, max_items=8)
    results = await asyncio.gather(*(coalescer.submit(n) for n in range(3)), return_exceptions=True)
    assert [type(r) for r in results] == [RuntimeError] * 3


# --- lookups


async def test_lookup_gives_the_stored_answer_and_the_latest_record(database: Database) -> None:
    batcher, lookup = AuditBatcher(database), Lookup(database)
    await batcher.commit(outcome(1, record=record(1)))
    await batcher.commit(outcome(2, record=record(1, version=2)))
    key_id = record(1).header.key_id
    questions = [
        Question("acme", "r-00000001", ""),
        Question("acme", "r-none-0001", key_id),
        Question("other", "r-00000001", "key-no"),
    ]
    found = await asyncio.gather(*(lookup.find(q) for q in questions))
    assert found[0] == Found(request(1), None)
    assert found[1] == Found(None, record(1, version=2).record)
    assert found[2] == Found(None, None)


async def test_a_mangled_column_is_a_typed_error_of_that_record_alone(database: Database, fresh: Any) -> None:
    batcher, lookup = AuditBatcher(database), Lookup(database)
    await batcher.commit(outcome(1, record=record(1)))
    await batcher.commit(outcome(2, record=record(2)))
    key_id = record(1).header.key_id
    await fresh.rows("UPDATE key_envelopes SET ciphertext_blob = '!' WHERE key_id = $1", key_id)
    bad, good = await asyncio.gather(
        lookup.find(Question("acme", "r-x", key_id)),
        lookup.find(Question("acme", "r-y", record(2).header.key_id)),
        return_exceptions=True,
    )
    assert isinstance(bad, AdytumError)
    assert bad.code is Code.RECORD_INVALID
    assert isinstance(good, Found)


async def test_a_database_that_is_gone_is_a_typed_error_and_comes_back_without_restart(fresh: Any) -> None:
    database = Database(fresh.dsn, connect_timeout=1)
    await fresh.take_away()
    assert await raised(database.fetch("SELECT 1")) is Code.STORAGE_UNAVAILABLE
    assert not await database.is_up()
    await fresh.give_back()
    assert await database.is_up()
    await database.close()
    assert await raised(database.fetch("SELECT 1")) is Code.STORAGE_UNAVAILABLE


async def test_a_slow_database_is_a_typed_error(fresh: Any) -> None:
    database = Database(fresh.dsn, statement_timeout=0.2)
    assert await raised(database.fetch("SELECT pg_sleep(5)")) is Code.STORAGE_UNAVAILABLE
    await database.close()
