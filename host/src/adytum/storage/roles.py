"""Who may do what in the database: three roles, each with no more than its work needs.

    adytum_service    runs the service and its workers: writes what is new, changes only what has a state
    adytum_auditor    reads what proves something: receipts, checkpoints, attestations, policies; no ciphertext
    adytum_migrator   owns the tables; nobody serves requests with it

The roles cannot log in. An operator makes logins of its own and grants them a role. `GRANTS` names every table: one
that is missing there fails a test, and until somebody decides, nobody but the owner may touch it.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from adytum.storage.errors import typed

SERVICE: Final = "adytum_service"
AUDITOR: Final = "adytum_auditor"
MIGRATOR: Final = "adytum_migrator"
ROLES: Final = (SERVICE, AUDITOR, MIGRATOR)

_APPEND: Final = "SELECT, INSERT"
_STATE: Final = "SELECT, INSERT, UPDATE"
_SHRED: Final = "SELECT, INSERT, DELETE"  # ciphertext that was replaced, or whose key was deleted, is destroyed
_ALL: Final = "SELECT, INSERT, UPDATE, DELETE"
_READ: Final = "SELECT"
_NOTHING: Final = ""

# table or view -> (what the service may, what the auditor may)
GRANTS: Final[dict[str, tuple[str, str]]] = {
    "keys": (_STATE, _READ),
    "key_envelopes": (_SHRED, _NOTHING),
    "sealed_keys": (_READ, _NOTHING),
    "recovery_envelopes": (_SHRED, _NOTHING),
    "policies": (_APPEND, _READ),
    "requests": (_STATE, "SELECT (tenant, request_id, operation, state, code, field, receipt_chain,"
                 " receipt_sequence, created_at, body_hash)"),
    "pending_requests": (_ALL, _NOTHING),
    "approvals": (_APPEND, _READ),
    "receipts": (_APPEND, _READ),
    "checkpoints": (_APPEND, _READ),
    "audit_cursors": (_STATE, _READ),
    "usage_snapshots": (_STATE, _READ),
    "enclaves": (_STATE, _READ),
    "attestations": (_SHRED, _READ),  # of a boot only the first and the newest are kept
    "releases": (_STATE, _READ),
    "enclave_reports": (_ALL, _READ),
    "jobs": (_STATE, _READ),
    "job_batches": (_ALL, _READ),
    "job_failures": (_ALL, _READ),
}  # fmt: skip


async def grant(dsn: str) -> None:
    """Make the roles where they are missing and give each exactly what `GRANTS` says, no more than that.

    `dsn`: of a role that owns the tables and may create roles. One transaction: after an error nothing has changed.
    Errors: STORAGE_UNAVAILABLE.
    """
    with typed():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            async with connection.transaction():
                for role in ROLES:
                    await _make(connection, role)
                await _reset(connection)
                for table, (service, auditor) in GRANTS.items():
                    for role, rights in ((SERVICE, service), (AUDITOR, auditor)):
                        if rights:
                            await connection.execute(f"GRANT {rights} ON {table} TO {role}")
                await connection.execute(f"GRANT SELECT ON adytum_migrations TO {SERVICE}, {AUDITOR}")
        finally:
            await connection.close()


async def _make(connection: asyncpg.Connection, role: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT")


async def _reset(connection: asyncpg.Connection) -> None:
    """Take everything back first, so that a right that was given by hand, or by an older version, does not stay."""
    everybody = f"PUBLIC, {SERVICE}, {AUDITOR}"
    await connection.execute(f"REVOKE ALL ON SCHEMA public FROM {everybody}")
    await connection.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {everybody}")
    await connection.execute(f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {everybody}")
    await connection.execute(f"GRANT USAGE ON SCHEMA public TO {SERVICE}, {AUDITOR}")
    await connection.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {SERVICE}")
    await connection.execute(f"GRANT ALL ON SCHEMA public TO {MIGRATOR}")
