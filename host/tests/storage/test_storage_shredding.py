"""Crypto-shredding: when a key is deleted, no copy of what could open it is left, neither in a dump nor on the disk."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from adytum.storage import batcher as storage_batcher
from adytum.storage import reads
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.embedded import EmbeddedPostgres, binary
from adytum.storage.lookup import Lookup, Question
from adytum.storage.rows import Outcome, ReceiptRow, RecordRow, RequestRow
from adytum.storage.schema import KEY_STATES
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, encode_header
from adytum_wire.types import Algorithm, KeyState, RecordKind

KEY = "key-" + "5" * 32


def outcome(at: int, **parts: Any) -> Outcome:
    receipt = ReceiptRow(
        chain="c" * 32,
        sequence=at,
        envelope=b"{}",
        body_hash=bytes([at] * 32),
        tenant="acme",
        request_id=f"r-{at:08d}",
        time=at,
        decision="allow",
        code="",
    )
    request = RequestRow(
        tenant="acme",
        request_id=f"r-{at:08d}",
        body_hash=bytes([at] * 32),
        stamp_key=b"k" * 32,
        operation="reseal",
        result=b"{}",
        receipt=b"{}",
    )
    return Outcome(receipt=receipt, request=request, **parts)


def record(version: int, blob: bytes, state: KeyState = KeyState.ACTIVE) -> RecordRow:
    header = Header(
        tenant="acme",
        key_id=KEY,
        node_id="node-1",
        kind=RecordKind.SIGNING_KEY,
        algorithm=Algorithm.ED25519,
        public_key="aa" * 32,
        version=version,
        generation=1,
        labels=["hot"],
        state=state,
        delete_after=1_700_000_000_000 if state is KeyState.PENDING_DELETION else 0,
        kms_key_arn="arn:aws:kms:us-east-1:111122223333:key/k",
        created_at=1,
    )
    sealed = Record(encode_header(header), blob, blob[::-1])
    return RecordRow(header=header, record=sealed, recovery=b"recovery of " + blob)


async def dump(dsn: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        str(binary("pg_dump")), "--inserts", dsn, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error
    return out


def on_disk(postgres: EmbeddedPostgres, forms: list[bytes]) -> bool:
    """True when a table's file holds one of `forms`. The log of changes (pg_wal) is left out: PostgreSQL reuses it."""
    files = [file for file in (Path(postgres._directory) / "data" / "base").rglob("*") if file.is_file()]
    assert len(files) > 100
    return any(form in file.read_bytes() for file in files for form in forms)


async def test_a_deleted_key_leaves_nothing_that_could_open_it(
    database: Database, fresh: Any, postgres: EmbeddedPostgres
) -> None:
    blob = secrets.token_bytes(48)
    old, new = record(1, blob), record(2, blob[1:] + b"x", KeyState.PENDING_DELETION)
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=old))
    await batcher.commit(outcome(2, record=new))
    assert (await reads.get_key(database, KEY)).status == "pending_deletion"
    forms = [row["ciphertext_blob"].encode() for row in await fresh.rows("SELECT ciphertext_blob FROM key_envelopes")]
    assert len(forms) == 2
    owner = await asyncpg.connect(fresh.dsn)
    await owner.execute("CHECKPOINT")
    before = await dump(fresh.dsn)
    assert all(form in before for form in forms)
    assert on_disk(postgres, forms)  # the scan can find it

    await batcher.commit(outcome(3, shredded=KEY))
    key = await reads.get_key(database, KEY)
    assert (key.status, key.version) == ("deleted", 0)
    assert (await Lookup(database).find(Question("acme", "r-00000009", KEY))).record is None
    after = await dump(fresh.dsn)
    assert not any(form in after for form in forms)
    await owner.execute("VACUUM FULL key_envelopes")
    await owner.execute("VACUUM FULL recovery_envelopes")
    await owner.execute("CHECKPOINT")
    await owner.close()
    assert not on_disk(postgres, forms)
    assert await fresh.count("receipts") == 3  # that it existed stays
    await batcher.close()


async def test_a_deletion_whose_receipt_cannot_be_written_deletes_nothing(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=record(1, b"b" * 48)))
    lock = await asyncpg.connect(fresh.dsn)
    transaction = lock.transaction()
    await transaction.start()
    await lock.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(Exception, match="AUDIT_UNAVAILABLE"):
        await batcher.commit(outcome(2, shredded=KEY))
    await transaction.rollback()
    await lock.close()
    assert await fresh.count("key_envelopes") == 1
    assert (await reads.get_key(database, KEY)).status == "active"
    await batcher.close()


async def deleted(database: Database) -> AuditBatcher:
    """A batcher after a key's life: made, to be deleted, shredded."""
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=record(1, b"a" * 48)))
    await batcher.commit(outcome(2, record=record(2, b"b" * 48, KeyState.PENDING_DELETION)))
    await batcher.commit(outcome(3, shredded=KEY))
    return batcher


@pytest.mark.parametrize("state", list(KeyState))
async def test_a_late_record_does_not_bring_a_destroyed_key_back(
    database: Database, fresh: Any, state: KeyState
) -> None:
    """Another host's answer, or one that was lost on its way: made before the deletion, written after it."""
    batcher = await deleted(database)
    with pytest.raises(AdytumError) as refused:
        await batcher.commit(outcome(4, record=record(3, b"c" * 48, state)))
    assert (refused.value.code, refused.value.field) == (Code.KEY_STATE, "$.state")
    key = await reads.get_key(database, KEY)
    assert (key.status, key.version) == ("deleted", 0)
    for table, count in (("key_envelopes", 0), ("recovery_envelopes", 0), ("receipts", 4), ("requests", 3)):
        assert await fresh.count(table) == count, table
    # In a batch with others it fails alone.
    other = msgspec.structs.replace(record(1, b"d" * 48).header, key_id="key-" + "6" * 32)
    both = await asyncio.gather(
        batcher.commit(outcome(5, record=record(4, b"e" * 48, state))),
        batcher.commit(outcome(6, record=RecordRow(header=other, record=record(1, b"d" * 48).record))),
        return_exceptions=True,
    )
    assert isinstance(both[0], AdytumError)
    assert both[0].code is Code.KEY_STATE
    assert isinstance(both[1], RequestRow)
    assert await fresh.count("key_envelopes") == 1
    await batcher.close()


async def test_a_deletion_takes_with_it_what_another_host_is_writing(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=record(1, b"a" * 48)))
    await batcher.commit(outcome(2, record=record(2, b"b" * 48, KeyState.PENDING_DELETION)))
    other = await asyncpg.connect(fresh.dsn)
    transaction = other.transaction()
    await transaction.start()
    await storage_batcher._insert_records(other, [record(3, b"c" * 48, KeyState.PENDING_DELETION)])
    deletion = asyncio.create_task(batcher.commit(outcome(3, shredded=KEY)))
    while not await fresh.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        assert not deletion.done(), "it did not wait"
        await asyncio.sleep(0.01)
    await transaction.commit()
    await other.close()
    await deletion
    assert (await reads.get_key(database, KEY)).status == "deleted"
    assert (await fresh.count("key_envelopes"), await fresh.count("recovery_envelopes")) == (0, 0)
    await batcher.close()


async def test_a_record_and_a_deletion_in_one_batch_leave_nothing(database: Database, fresh: Any) -> None:
    batcher = AuditBatcher(database)
    await batcher.commit(outcome(1, record=record(1, b"a" * 48)))
    await asyncio.gather(
        batcher.commit(outcome(2, shredded=KEY)),
        batcher.commit(outcome(3, record=record(2, b"b" * 48, KeyState.PENDING_DELETION))),
    )
    assert (await reads.get_key(database, KEY)).status == "deleted"
    assert await fresh.count("key_envelopes") == 0
    await batcher.close()


@pytest.mark.parametrize(
    ("sqlstate", "problem"),
    [("58030", "AUDIT_UNAVAILABLE"), ("XX001", "AUDIT_UNAVAILABLE"), ("42501", "AUDIT_UNAVAILABLE"),
     ("40001", "AUDIT_UNAVAILABLE"), ("22012", ""), ("23514", "")],
)  # fmt: skip
async def test_health_hears_of_what_concerns_more_than_one_row(
    database: Database, fresh: Any, sqlstate: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = await asyncpg.connect(fresh.dsn)
    await owner.execute(
        f"CREATE FUNCTION ail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'a row with a secret' USING ERRCODE = '{sqlstate}'; END $$"
    )
    await owner.execute("CREATE TRIGGER ail BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION ail()")
    batcher = AuditBatcher(database)
    with pytest.raises(AdytumError) as refused:
        await batcher.commit(outcome(1))
    assert refused.value.code is Code.AUDIT_UNAVAILABLE
    assert batcher.problem == problem
    assert "a secret" not in caplog.text
    await owner.execute("DROP TRIGGER ail ON receipts")
    await owner.close()
    await batcher.commit(outcome(1))
    assert batcher.problem == ""
    await batcher.close()


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "53300"])
async def test_a_full_disk_withholds_the_answer_and_stores_nothing(
    database: Database, fresh: Any, sqlstate: str
) -> None:
    """What PostgreSQL says when disk, memory or connections run out; when there is room again, so is the answer."""
    owner = await asyncpg.connect(fresh.dsn)
    await owner.execute(
        f"CREATE FUNCTION full_up() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{sqlstate}'; END $$"
    )
    await owner.execute("CREATE TRIGGER full_up BEFORE INSERT ON key_envelopes EXECUTE FUNCTION full_up()")
    batcher = AuditBatcher(database)
    wanted = outcome(1, record=record(1, b"b" * 48))
    with pytest.raises(Exception, match="AUDIT_UNAVAILABLE"):
        await batcher.commit(wanted)
    for table in ("receipts", "requests", "keys", "key_envelopes"):
        assert await fresh.count(table) == 0
    await owner.execute("DROP TRIGGER full_up ON key_envelopes")
    await owner.close()
    assert await batcher.commit(wanted) is wanted.request
    assert await fresh.count("key_envelopes") == 1
    await batcher.close()


def test_the_states_of_headers_are_those_of_the_table() -> None:
    assert {state.value.replace("-", "_") for state in KeyState} <= set(KEY_STATES)
    assert msgspec.json.decode(encode_header(record(1, b"b").header))["state"] == "active"
