"""Backup and findings without an enclave: what is refused, what is looked at, and that a check can fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from adytum.backup import facts, findings, programs
from adytum.backup.create import create, measure
from adytum.backup.errors import BackupCode, BackupError
from adytum.backup.manifest import read, write
from adytum.backup.restore import check, restore
from adytum.backup.watch import DatabaseWatch
from adytum.storage import migrate
from adytum.storage.database import Database
from adytum.storage.errors import Fault, StorageError
from adytum_wire.errors import AdytumError, Code

NOW = 1_800_000_000_000


async def backup(dsn: str, out: Path) -> Path:
    await create(dsn, out, now_ms=lambda: NOW)
    return out


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def look(dsn: str) -> list[tuple[str, str, int]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [(one.lack.value, one.subject, one.count) for one in await findings.look(connection)]
    finally:
        await connection.close()


def key(number: int, status: str = "active") -> str:
    return (
        "INSERT INTO keys (key_id, tenant, public_key, algorithm, kind, status)"
        f" VALUES ('key-{number}', 'acme', '', 'none', 'secret', '{status}');"
    )


def envelope(number: int, version: int = 1) -> str:
    return f"INSERT INTO key_envelopes VALUES ('key-{number}', 'node-1', {version}, 'secret', '', '', '', 'arn');"


def request(number: int, key_id: str, version: int, operation: str = "reseal") -> str:
    result = f'{{"key_id":"{key_id}","record_version":{version}}}'.encode().hex()
    return (
        "INSERT INTO requests (tenant, request_id, body_hash, stamp_key, operation, state, result, receipt_chain,"
        f" receipt_sequence)"
        f" VALUES ('acme', 'r-{number}', '', '', '{operation}', 'done', '\\x{result}', 'c', {number});"
    )


def receipt(number: int, *, policy: int = 0, chain: str = "c") -> str:
    body = f'{{\\"policy_version\\":{policy}}}'
    text = f'{{"body":"{body}"}}'.encode().hex()
    return (
        'INSERT INTO receipts (chain, sequence, envelope, body_hash, tenant, request_id, "time", decision, code)'
        f" VALUES ('{chain}', {number}, '\\x{text}', '', 'acme', '', 0, 'allow', '');"
    )


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (key(1) + envelope(1), []),
        (key(1), [("KEY_WITHOUT_RECORD", "key-1", 1)]),
        (key(1) + key(2), [("KEY_WITHOUT_RECORD", "key-1", 2)]),
        (key(1, "deleted") + key(2, "failed") + key(3, "pending"), []),
        (key(1, "deleted") + envelope(1), [("DELETED_KEY_HAS_RECORD", "key-1", 1)]),
        ("SET session_replication_role = replica;" + envelope(1), [("RECORD_WITHOUT_KEY", "key-1", 1)]),
        (key(1) + envelope(1, 2) + request(1, "key-1", 2) + receipt(1), []),
        (key(1) + envelope(1) + request(1, "key-1", 2) + receipt(1), [("ANSWER_WITHOUT_RECORD", "key-1", 1)]),
        (key(1, "deleted") + request(1, "key-1", 2) + receipt(1), []),
        (key(1, "deleted") + request(1, "key-1", 2, "delete_key") + receipt(1), []),
        (
            key(1) + envelope(1) + request(1, "key-1", 2, "delete_key") + receipt(1),
            [("DELETED_KEY_IS_BACK", "key-1", 1)],
        ),
        (key(1) + envelope(1, 2) + request(1, "key-1", 2), [("REQUEST_WITHOUT_RECEIPT", "acme/r-1", 1)]),
        (receipt(1) + receipt(2), []),
        (receipt(1) + receipt(4), [("CHAIN_GAP", "c", 2)]),
        (receipt(2, chain="d"), [("CHAIN_GAP", "d", 1)]),
        (receipt(1, policy=3), [("POLICY_OLDER", "acme", 1)]),
        (receipt(1, policy=3) + "INSERT INTO policies VALUES ('acme', 3, '', '');", []),
        (receipt(1, policy=3) + "INSERT INTO policies VALUES ('acme', 2, '', '');", [("POLICY_OLDER", "acme", 1)]),
    ],
)
async def test_what_a_database_lacks_by_its_own_evidence(fresh: Any, statements: str, found: list[Any]) -> None:
    await execute(fresh.dsn, statements)
    assert await look(fresh.dsn) == found


async def test_an_older_backup_is_migrated_forward_and_a_newer_one_refused(
    fresh: Any, empty_database: Any, tmp_path: Path
) -> None:
    known = migrate.revisions()
    await migrate.downgrade(fresh.dsn, known[-2])
    made = await backup(fresh.dsn, tmp_path / "old")
    manifest = read(made / "manifest.json")
    assert manifest.revision == known[-2]
    write(made / "manifest.json", msgspec.structs.replace(manifest, revision="r9999"))
    with pytest.raises(BackupError) as newer:
        await restore(made, empty_database.dsn, trust=None)
    assert newer.value.code is BackupCode.NEWER
    write(made / "manifest.json", manifest)
    report, _ = await restore(made, empty_database.dsn, trust=None)
    assert (report.findings, report.revision) == ([], known[-1])
    assert await fresh.count("keys") == 0


async def test_a_restore_needs_an_empty_database_and_a_failed_one_leaves_it_empty(
    fresh: Any, empty_database: Any, tmp_path: Path
) -> None:
    await execute(fresh.dsn, key(1) + envelope(1))
    made = await backup(fresh.dsn, tmp_path / "one")
    with pytest.raises(BackupError) as there:
        await restore(made, fresh.dsn, trust=None)
    assert there.value.code is BackupCode.NOT_EMPTY
    dump = made / "database.dump"
    whole = dump.read_bytes()
    dump.write_bytes(whole[: len(whole) // 2])
    manifest = read(made / "manifest.json")
    with pytest.raises(BackupError) as damaged:
        await restore(made, empty_database.dsn, trust=None)
    assert damaged.value.code is BackupCode.DAMAGED
    # Even where the manifest was made to agree with the half: it goes in as a whole or not at all.
    size, digest = measure(dump)
    write(made / "manifest.json", msgspec.structs.replace(manifest, size=size, sha256=digest))
    with pytest.raises(BackupError) as program:
        await restore(made, empty_database.dsn, trust=None)
    assert program.value.code is BackupCode.PROGRAM
    connection = await asyncpg.connect(empty_database.dsn)
    try:
        assert await facts.tables(connection) == []
    finally:
        await connection.close()


async def test_a_backup_appears_whole_or_not_at_all(fresh: Any, tmp_path: Path) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "pg_dump").write_text("#!/bin/sh\necho half > /dev/null\necho 'no space left' >&2\nexit 1\n")
    (broken / "pg_dump").chmod(0o755)
    with pytest.raises(BackupError) as failed:
        await create(fresh.dsn, tmp_path / "out", now_ms=lambda: NOW, pg_bin=broken)
    assert (failed.value.code, failed.value.field) == (BackupCode.PROGRAM, "no space left")
    with pytest.raises(BackupError) as missing:
        await create(fresh.dsn, tmp_path / "out", now_ms=lambda: NOW, pg_bin=tmp_path)
    assert missing.value.code is BackupCode.PROGRAM
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


async def test_a_database_that_is_away_is_a_typed_error(fresh: Any, tmp_path: Path) -> None:
    await fresh.take_away()
    for attempt in (backup(fresh.dsn, tmp_path / "out"), check(fresh.dsn, trust=None)):
        with pytest.raises(AdytumError) as away:
            await attempt
        assert away.value.code is Code.STORAGE_UNAVAILABLE
    await fresh.give_back()


def test_a_password_never_stands_on_a_command_line() -> None:
    dsn, environment = programs.split_dsn("postgresql://ada:p%40ss%2Fw@db:5432/adytum?host=%2Frun")
    assert dsn == "postgresql://ada@db:5432/adytum?host=%2Frun"
    assert environment == {"PGPASSWORD": "p@ss/w"}
    for plain in ("postgresql://ada@db/adytum", "postgresql:///adytum", "postgresql://?host=%2Frun"):
        assert programs.split_dsn(plain) == (plain, {})


@pytest.mark.parametrize(
    ("dsn", "bare"),
    [
        ("postgresql://ada@db/adytum?password=top%20secret", "postgresql://ada@db/adytum"),
        ("postgresql://ada@db/adytum?a=1&password=top%20secret&b=2", "postgresql://ada@db/adytum?a=1&b=2"),
        ("postgresql:///adytum?pass%77ord=top%20secret", "postgresql:///adytum"),
        ("postgresql://ada:top%20secret@db/adytum?password=other", "postgresql://ada@db/adytum"),
        ("postgres://:top%20secret@db/adytum?PASSWORD=other", "postgres://@db/adytum"),
    ],
)
def test_nor_does_one_that_stands_among_the_options(dsn: str, bare: str) -> None:
    assert programs.split_dsn(dsn) == (bare, {"PGPASSWORD": "top secret"})


def test_what_cannot_be_hidden_is_not_handed_on() -> None:
    with pytest.raises(BackupError) as passphrase:
        programs.split_dsn("postgresql://ada@db/adytum?sslkey=k.pem&sslpassword=secret")
    assert passphrase.value.code is BackupCode.PROGRAM
    assert "secret" not in str(passphrase.value)
    for other in ("host=db password=secret", "postgresql://[db/adytum?password=secret"):
        with pytest.raises(StorageError) as wrong:
            programs.split_dsn(other)
        assert wrong.value.fault is Fault.DSN
        assert "secret" not in str(wrong.value)


async def test_pg_dump_is_not_told_the_password_where_others_can_read_it(fresh: Any, tmp_path: Path) -> None:
    """A program in pg_dump's place writes down how it was called."""
    bin_, seen = tmp_path / "bin", tmp_path / "seen"
    bin_.mkdir()
    (bin_ / "pg_dump").write_text(
        f'#!/bin/sh\ntr "\\0" " " < /proc/$$/cmdline > {seen}\necho "$PGPASSWORD" >> {seen}\nexit 1\n'
    )
    (bin_ / "pg_dump").chmod(0o755)
    with pytest.raises(BackupError):
        await create(fresh.dsn + "&password=opensesame", tmp_path / "out", now_ms=lambda: NOW, pg_bin=bin_)
    called, _, environment = seen.read_text().rpartition("--file")
    assert "--dbname=" in environment
    assert seen.read_text().count("opensesame") == 1
    assert seen.read_text().rstrip().endswith("opensesame")
    assert "opensesame" not in called


async def cancel_who_waits(observer: asyncpg.Connection) -> None:
    """What `statement_timeout` does, without a clock."""
    while True:
        await observer.fetch(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%LIMIT%'"
        )
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("query_s", [60.0, 0.2])
async def test_a_look_that_takes_too_long_is_a_finding_and_is_not_made_again_at_once(
    fresh: Any, database: Database, caplog: pytest.LogCaptureFixture, query_s: float
) -> None:
    await execute(fresh.dsn, key(1) + key(2) + envelope(2))

    async def at_once() -> None:
        return

    watch = DatabaseWatch(
        database, registry=CollectorRegistry(), enclaves=list, ready=at_once, again_s=0.0, retry_s=0.0, query_s=query_s
    )
    real, looks = watch.look, []

    async def counted() -> list[findings.Finding]:
        looks.append(1)
        return await real()

    watch.look = counted  # type: ignore[method-assign]
    locker, observer = await asyncpg.connect(fresh.dsn), await asyncpg.connect(fresh.dsn)
    canceller = asyncio.create_task(cancel_who_waits(observer)) if query_s > 1 else None
    transaction = locker.transaction()
    await transaction.start()
    try:
        await locker.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
        await watch._round()
    finally:
        await transaction.rollback()
        await locker.close()
        if canceller is not None:
            canceller.cancel()
            await asyncio.gather(canceller, return_exceptions=True)
        await observer.close()
    assert len(looks) == 2, "the look and the second look, and no more"
    unfinished = {one["subject"] for one in watch.shown() if one["lack"] == "LOOK_UNFINISHED"}
    assert unfinished >= {"REQUEST_WITHOUT_RECEIPT", "ANSWER_WITHOUT_RECORD", "DELETED_KEY_IS_BACK"}
    assert "LOOK_UNFINISHED ANSWER_WITHOUT_RECORD" in caplog.text
    watch._query_s = 60.0
    await watch._round()
    assert [one["lack"] for one in watch.shown()] == ["KEY_WITHOUT_RECORD"]


async def test_a_look_that_fails_is_tried_a_few_times_and_then_said(database: Database) -> None:
    watch = DatabaseWatch(
        database,
        registry=CollectorRegistry(),
        enclaves=list,
        ready=asyncio.Event().wait,
        retry_s=0.0,  # type: ignore[arg-type]
    )
    looks = []

    async def fail() -> list[findings.Finding]:
        looks.append(1)
        raise AdytumError(Code.STORAGE_UNAVAILABLE)

    watch.look = fail  # type: ignore[method-assign]
    await watch._round()
    assert len(looks) == 3
    assert [(one["lack"], one["subject"]) for one in watch.shown()] == [("LOOK_UNFINISHED", "STORAGE_UNAVAILABLE")]


async def test_pages_add_up(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found does not depend on where a page ends."""
    statements = "".join(key(n, "deleted" if n % 3 == 0 else "active") for n in range(10))
    statements += "".join(envelope(n, version) for n in range(0, 10, 2) for version in (1, 2))
    statements += "".join(request(n, f"key-{n}", 2 + n % 2) for n in range(10))
    statements += "".join(receipt(n) for n in (1, 2, 3, 5, 8, 9)) + receipt(4, chain="d", policy=7)
    await execute(fresh.dsn, statements)
    whole = await look(fresh.dsn)
    assert {lack for lack, _, _ in whole} == {
        "KEY_WITHOUT_RECORD", "DELETED_KEY_HAS_RECORD", "REQUEST_WITHOUT_RECEIPT", "ANSWER_WITHOUT_RECORD",
        "CHAIN_GAP", "POLICY_OLDER",
    }  # fmt: skip
    for size in (1, 2, 3, 7, 10):
        monkeypatch.setattr(findings, "_PAGE", size)
        monkeypatch.setattr(findings, "_RECEIPTS_PAGE", size)
        assert await look(fresh.dsn) == whole, size


async def test_a_column_that_cannot_be_read_is_a_finding(fresh: Any) -> None:
    await execute(fresh.dsn, key(1) + envelope(1) + request(1, "key-1", 1) + receipt(1))
    await execute(fresh.dsn, "UPDATE requests SET result = 'no json'")
    assert ("LOOK_UNFINISHED", "ANSWER_WITHOUT_RECORD", 1) in await look(fresh.dsn)


async def test_the_watch_waits_for_the_database_and_forgets_what_is_mended(fresh: Any, database: Database) -> None:
    await execute(fresh.dsn, key(1))
    ready = asyncio.Event()

    async def until_ready() -> None:
        await ready.wait()

    watch = DatabaseWatch(
        database, registry=CollectorRegistry(), enclaves=list, ready=until_ready,
        every_s=0.01, again_s=0.0, retry_s=0.01,
    )  # fmt: skip
    await fresh.take_away()
    task = asyncio.create_task(watch.watch())
    try:
        await fresh.give_back()
        async with asyncio.timeout(20):
            while not watch.shown():
                await asyncio.sleep(0.01)
            assert watch.shown()[0]["lack"] == "KEY_WITHOUT_RECORD"
            await execute(fresh.dsn, envelope(1))
            ready.set()
            while watch.shown():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_only_under_way_is_not_said(fresh: Any, database: Database) -> None:
    """A finding counts when it is there at the second look too."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    watch = DatabaseWatch(database, registry=CollectorRegistry(), enclaves=list, ready=for_ever, again_s=0.0)
    await execute(fresh.dsn, key(1))
    real, looks = watch.look, []

    async def mend_after_the_first() -> list[findings.Finding]:
        found = await real()
        looks.append(len(found))
        await execute(fresh.dsn, envelope(1) if len(looks) == 1 else "SELECT 1")
        return found

    watch.look = mend_after_the_first  # type: ignore[method-assign]
    await watch._round()
    assert looks == [1, 0]
    assert watch.shown() == []
