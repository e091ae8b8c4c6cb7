"""Least privilege, tried out as each role on a real server: what the service cannot do, a stolen service cannot do."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from adytum.storage import roles
from adytum.storage.roles import AUDITOR, GRANTS, SERVICE

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
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'p', 'm')"
    )
    await connection.close()
    assert {row["relname"] for row in rows} - {"adytum_migrations"} == set(GRANTS)


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
