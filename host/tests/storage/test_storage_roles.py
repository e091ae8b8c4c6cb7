"""Least privilege, tried out as each role on a real server: what the service cannot do, a stolen service cannot do."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from adytum.backup.create import create
from adytum.backup.restore import restore
from adytum.storage import migrate, roles
from adytum.storage.errors import Fault, StorageError
from adytum.storage.roles import AUDITOR, GRANTS, MIGRATOR, SERVICE

DENIED = asyncpg.InsufficientPrivilegeError


async def as_role(dsn: str, role: str, statement: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"SET ROLE {role}")
        return await connection.fetch(statement)
    finally:
        await connection.close()


@pytest.fixture
async def granted(fresh: Any) -> str:
    await roles.grant(fresh.dsn)
    return str(fresh.dsn)


async def test_every_table_has_its_rights(granted: str) -> None:
    """A new table that nobody decided about fails here."""
    connection = await asyncpg.connect(granted)
    rows = await connection.fetch(
        "SELECT CASE relnamespace WHEN 'public'::regnamespace THEN '' ELSE relnamespace::regnamespace || '.' END"
        " || relname AS name FROM pg_class WHERE relkind IN ('r', 'v', 'p', 'm')"
        " AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    assert await roles.shortfalls(connection) == []
    await connection.close()
    assert {row["name"] for row in rows} == set(GRANTS)


@pytest.mark.parametrize("table", ["receipts", "checkpoints", "approvals", "policies", "requests"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"])
async def test_the_service_cannot_destroy_what_proves_something(granted: str, table: str, statement: str) -> None:
    with pytest.raises(DENIED):
        await as_role(granted, SERVICE, statement.format(table))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE receipts SET code = ''",
        "UPDATE key_envelopes SET version = 1",
        "UPDATE policies SET version = 1",
        "UPDATE attestations SET verified_at = 1",
        "ALTER TABLE receipts DISABLE TRIGGER ALL",
        "DROP TRIGGER receipts_append_only ON receipts",
        "CREATE TABLE mine (a int)",
        "UPDATE adytum_migrations SET version_num = '0001'",
    ],
)
async def test_the_service_cannot_rewrite_history_or_the_schema(granted: str, statement: str) -> None:
    with pytest.raises(DENIED):
        await as_role(granted, SERVICE, statement)


async def test_the_owner_cannot_rewrite_receipts_either(granted: str) -> None:
    """The trigger holds where rights do not."""
    connection = await asyncpg.connect(granted)
    for statement in ("UPDATE receipts SET code = ''", "DELETE FROM receipts", "TRUNCATE receipts"):
        with pytest.raises(DENIED):
            await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize("table", ["key_envelopes", "sealed_keys", "pending_requests"])
async def test_the_auditor_sees_no_ciphertext_and_no_bodies(granted: str, table: str) -> None:
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, f"SELECT * FROM {table}")


@pytest.mark.parametrize("table", ["receipts", "checkpoints", "attestations", "policies", "keys"])
async def test_the_auditor_reads_what_proves_something(granted: str, table: str) -> None:
    assert await as_role(granted, AUDITOR, f"SELECT * FROM {table}") == []
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, f"DELETE FROM {table}")


async def test_the_auditor_does_not_see_results(granted: str) -> None:
    assert await as_role(granted, AUDITOR, "SELECT tenant, request_id, code FROM requests") == []
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, "SELECT result FROM requests")


async def test_a_right_that_was_given_by_hand_is_taken_back(granted: str) -> None:
    connection = await asyncpg.connect(granted)
    await connection.execute(f"GRANT ALL ON receipts, key_envelopes TO {SERVICE}, {AUDITOR}, PUBLIC")
    await connection.close()
    await roles.grant(granted)
    with pytest.raises(DENIED):
        await as_role(granted, SERVICE, "UPDATE receipts SET code = ''")
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, "SELECT * FROM key_envelopes")


# --- the queue of rotations


@pytest.mark.parametrize("table", [name for name in GRANTS if "." in name])
async def test_the_queue_is_the_services_to_use_and_the_auditors_to_read(granted: str, table: str) -> None:
    assert await as_role(granted, SERVICE, f"DELETE FROM {table}") == []
    assert await as_role(granted, AUDITOR, f"SELECT * FROM {table}") == []
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, f"DELETE FROM {table}")
    with pytest.raises(DENIED):
        await as_role(granted, SERVICE, f"TRUNCATE {table}")
    with pytest.raises(DENIED):
        await as_role(granted, SERVICE, "CREATE TABLE adytum_queue.mine (a int)")


async def test_the_queues_numbers_are_the_services(granted: str) -> None:
    assert await as_role(granted, SERVICE, "SELECT nextval('adytum_queue.pgqueuer_id_seq')")
    with pytest.raises(DENIED):
        await as_role(granted, AUDITOR, "SELECT nextval('adytum_queue.pgqueuer_id_seq')")


# --- who owns, who migrates, who grants


def as_login(dsn: str, login: str) -> str:
    assert "postgres@" in dsn
    return dsn.replace("postgres@", f"{login}@", 1)


async def owner_sql(dsn: str, *statements: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()


async def login(dsn: str, name: str, options: str) -> str:
    """A role of the server, which all tests share: made once, its connection string for this database."""
    there = await owner_sql(dsn, f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")
    await owner_sql(dsn, f"{'ALTER' if there else 'CREATE'} ROLE {name} LOGIN {options}")
    return as_login(dsn, name)


async def whole_life(first: str, deploy: str, empty: Any) -> None:
    """`first` prepares an empty database, and everything after that is the migrator's."""
    early = await roles.grant(first)
    assert (early.tables, set(early.missing)) == ((), set(GRANTS))
    known = migrate.revisions()
    assert (await migrate.status(deploy)).current is None
    await migrate.upgrade(deploy, known[-2])
    await migrate.upgrade(deploy)
    await migrate.downgrade(deploy, known[-2])
    await migrate.upgrade(deploy)
    await migrate.downgrade(deploy, "base")
    await migrate.upgrade(deploy)
    assert (await migrate.status(deploy)).pending == ()
    for dsn in (deploy, first, deploy):
        done = await roles.grant(dsn)
        assert (set(done.tables), done.missing) == (set(GRANTS), ())
    # What another makes is the migrator's too, so that the migrator can go on with it.
    await migrate.downgrade(first, known[-2])
    await migrate.upgrade(first)
    await migrate.downgrade(deploy, known[0])
    await migrate.upgrade(deploy)
    rows = await empty.rows(
        "SELECT DISTINCT pg_get_userbyid(relowner) AS owner FROM pg_class"
        " WHERE relnamespace IN ('public'::regnamespace, 'adytum_queue'::regnamespace)"
    )
    assert [row["owner"] for row in rows] == [MIGRATOR]


async def test_a_superuser_prepares_and_the_migrator_migrates(empty_database: Any) -> None:
    await roles.grant(empty_database.dsn)
    deploy = await login(empty_database.dsn, "deploy", "")
    await owner_sql(empty_database.dsn, f"GRANT {MIGRATOR} TO deploy")
    await whole_life(empty_database.dsn, deploy, empty_database)


async def test_the_databases_owner_prepares_and_the_migrator_migrates(empty_database: Any) -> None:
    """No superuser, as with a hosted database. That the roles are there already he has from a superuser."""
    dsn = empty_database.dsn
    await roles.grant(dsn)
    await owner_sql(dsn, "ALTER SCHEMA public OWNER TO pg_database_owner")
    await owner_sql(dsn, f"REVOKE CREATE ON DATABASE {empty_database.name} FROM {MIGRATOR}")
    boss = await login(dsn, "boss", "CREATEROLE")
    deploy = await login(dsn, "deploy", "")
    await owner_sql(dsn, f"GRANT {MIGRATOR} TO deploy", f"GRANT {MIGRATOR} TO boss WITH ADMIN OPTION")
    await owner_sql(dsn, f"ALTER DATABASE {empty_database.name} OWNER TO boss")
    await whole_life(boss, deploy, empty_database)


async def test_tables_that_a_superuser_made_are_handed_over(fresh: Any) -> None:
    deploy = await login(fresh.dsn, "deploy", "")
    with pytest.raises(StorageError) as early:
        await migrate.downgrade(deploy, "base")
    assert early.value.fault is Fault.PRIVILEGES
    await roles.grant(fresh.dsn)
    await owner_sql(fresh.dsn, f"GRANT {MIGRATOR} TO deploy")
    await migrate.downgrade(deploy, "base")
    await migrate.upgrade(deploy)
    await roles.grant(deploy)


async def rights(fresh: Any) -> list[Any]:
    return list(
        await fresh.rows(
            "SELECT relname, relowner, relacl::text FROM pg_class"
            " WHERE relnamespace IN ('public'::regnamespace, 'adytum_queue'::regnamespace) ORDER BY 1"
        )
    )


@pytest.mark.parametrize("also", ["", SERVICE, AUDITOR])
async def test_who_may_not_grant_is_told_so_and_nothing_changes(fresh: Any, also: str) -> None:
    """PostgreSQL itself only warns when there is some right, but not that one."""
    await roles.grant(fresh.dsn)
    stranger = await login(fresh.dsn, "stranger_" + (also or "plain"), "")
    if also:
        await owner_sql(fresh.dsn, f"GRANT {also} TO stranger_{also}")
    await owner_sql(fresh.dsn, f"REVOKE INSERT ON receipts FROM {SERVICE}")
    before = await rights(fresh)
    with pytest.raises(StorageError) as refused:
        await roles.grant(stranger)
    assert refused.value.fault is Fault.GRANT
    assert await rights(fresh) == before


async def test_what_a_revoke_does_not_take_back_is_no_success(granted: str, fresh: Any) -> None:
    """The owner's REVOKE leaves what somebody else has given, and says nothing."""
    half = await login(granted, "half", "")
    await owner_sql(
        granted, "GRANT USAGE ON SCHEMA public TO half", "GRANT UPDATE ON receipts TO half WITH GRANT OPTION"
    )
    await owner_sql(half, f"GRANT UPDATE ON receipts TO {AUDITOR}")
    await owner_sql(granted, f"REVOKE INSERT ON receipts FROM {SERVICE}")
    before = await rights(fresh)
    with pytest.raises(StorageError) as refused:
        await roles.grant(granted)
    assert (refused.value.fault, refused.value.detail) == (Fault.GRANT, f"{AUDITOR}: UPDATE on receipts, too much")
    assert await rights(fresh) == before
    await owner_sql(granted, "REVOKE ALL ON receipts FROM half CASCADE")
    await roles.grant(granted)


async def test_what_is_missing_or_too_much_is_named(granted: str) -> None:
    connection = await asyncpg.connect(granted)
    assert await roles.shortfalls(connection) == []
    for statement, named in (
        (f"REVOKE USAGE ON SCHEMA adytum_queue FROM {SERVICE}", f"{SERVICE}: USAGE on adytum_queue"),
        (f"GRANT CREATE ON SCHEMA public TO {SERVICE}", f"{SERVICE}: CREATE on public, too much"),
        ("GRANT SELECT ON key_envelopes TO PUBLIC", "public: SELECT on key_envelopes, too much"),
        (f"REVOKE SELECT ON requests FROM {AUDITOR}", f"{AUDITOR}: SELECT (tenant) on requests"),
        (f"GRANT SELECT (result) ON requests TO {AUDITOR}", f"{AUDITOR}: SELECT (result) on requests, too much"),
        ("ALTER TABLE keys OWNER TO postgres", "owner of public.keys"),
        ("ALTER FUNCTION adytum_queue.fn_pgqueuer_changed() OWNER TO postgres",
         "owner of adytum_queue.fn_pgqueuer_changed()"),
        ("CREATE TABLE nobody_decided (a int)", "owner of public.nobody_decided"),
        (f"REVOKE USAGE ON SEQUENCE adytum_queue.pgqueuer_id_seq FROM {SERVICE}",
         f"{SERVICE}: USAGE on adytum_queue.pgqueuer_id_seq"),
    ):  # fmt: skip
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        assert named in await roles.shortfalls(connection), statement
        await transaction.rollback()
    await connection.close()


async def test_the_migrator_backs_up_and_restores(granted: str, empty_database: Any, tmp_path: Any) -> None:
    deploy = await login(granted, "deploy", "")
    await owner_sql(granted, f"GRANT {MIGRATOR} TO deploy")
    await create(deploy, tmp_path / "backup", now_ms=lambda: 1)
    await roles.grant(empty_database.dsn)
    into = as_login(empty_database.dsn, "deploy")
    report, _ = await restore(tmp_path / "backup", into, trust=None)
    assert report.findings == []
    done = await roles.grant(into)
    assert done.missing == ()
    await migrate.downgrade(into, "base")
