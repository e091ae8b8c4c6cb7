"""Who may do what in the database: three roles, each with no more than its work needs.

    adytum_service    runs the service and its workers: writes what is new, changes only what has a state
    adytum_auditor    reads what proves something: receipts, checkpoints, attestations, policies; no ciphertext
    adytum_migrator   owns the schemas and all that is in them: migrates, grants, backs up; serves no requests

The roles cannot log in. An operator makes logins of its own and grants them a role. `GRANTS` names every table: one
that is missing there fails a test, and until somebody decides, nobody but the owner may touch it.

PostgreSQL only warns when somebody gives a right that is not his to give. So `grant` looks afterwards at what each role
really may (`shortfalls`), and takes everything back when that is not what it should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from adytum.storage.errors import Fault, StorageError, connecting, typed

SERVICE: Final = "adytum_service"
AUDITOR: Final = "adytum_auditor"
MIGRATOR: Final = "adytum_migrator"
ROLES: Final = (SERVICE, AUDITOR, MIGRATOR)
QUEUE: Final = "adytum_queue"  # PgQueuer's tables, which hand the batches of rotations to workers
SCHEMAS: Final = ("public", QUEUE)

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
    "adytum_migrations": (_READ, _READ),
    f"{QUEUE}.pgqueuer": (_ALL, _READ),
    f"{QUEUE}.pgqueuer_log": (_ALL, _READ),
    f"{QUEUE}.pgqueuer_schedules": (_ALL, _READ),
    f"{QUEUE}.pgqueuer_statistics": (_ALL, _READ),
}  # fmt: skip

_MAX_NAMED: Final = 8
_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_COLUMN_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "REFERENCES")

# What belongs to an extension, or to a column of a table, is not ours to give away.
_OWNED: Final = """
SELECT format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
              n.nspname, c.relname) AS what, c.relowner AS owner
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'S')
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND (d.deptype = 'e' OR (c.relkind = 'S' AND d.deptype IN ('a', 'i'))))
UNION ALL
SELECT format('FUNCTION %s', p.oid::regprocedure), p.proowner
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY($1::text[])
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                  AND d.deptype = 'e')
UNION ALL
SELECT format('TYPE %I.%I', n.nspname, t.typname), t.typowner
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = ANY($1::text[]) AND t.typtype IN ('e', 'd')
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
                  AND d.deptype = 'e')
UNION ALL
SELECT format('SCHEMA %I', n.nspname), n.nspowner FROM pg_namespace n WHERE n.nspname = ANY($1::text[])
"""
_PRESENT: Final = """
SELECT CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1
"""
# A right on all columns is seen as the table's; one on some is seen at the columns.
_HELD: Final = """
SELECT who, p.verb, '' AS of FROM unnest($2::name[]) AS who, unnest($3::text[]) AS p(verb)
WHERE has_table_privilege(who, $1::text::regclass, p.verb)
UNION ALL
SELECT who, p.verb, a.attname FROM unnest($2::name[]) AS who, unnest($4::text[]) AS p(verb), pg_attribute a
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND has_column_privilege(who, $1::text::regclass, a.attnum, p.verb)
  AND NOT has_table_privilege(who, $1::text::regclass, p.verb)
"""
# Before PostgreSQL 16 every member may act as the role.
MAY_ACT: Final = "CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """`tables`: those that have their rights now. `missing`: those that are not there yet: migrate, then grant."""

    tables: tuple[str, ...]
    missing: tuple[str, ...]


async def grant(dsn: str) -> Granted:
    """Make the roles where they are missing, hand what is there to `adytum_migrator`, and give the others exactly what
    `GRANTS` says, no more than that.

    `dsn`: the first time a superuser, or the database's owner if he may create roles; later also a login that was
    granted `adytum_migrator`. One transaction: after an error nothing has changed. Errors: STORAGE_UNAVAILABLE;
    as StorageError GRANT_INCOMPLETE, whose `detail` names rights that could not be given or taken away.
    """
    with typed():
        with connecting(dsn):
            connection = await asyncpg.connect(dsn, timeout=10)
        try:
            async with connection.transaction():
                for role in ROLES:
                    await _make(connection, role)
                await _own(connection)
                present = {row["name"] for row in await connection.fetch(_PRESENT, SCHEMAS)}
                await _give(connection, present)
                lacking = await shortfalls(connection)
                if lacking:
                    more = f", and {len(lacking) - _MAX_NAMED} more" if len(lacking) > _MAX_NAMED else ""
                    raise StorageError(Fault.GRANT, ", ".join(lacking[:_MAX_NAMED]) + more)
        except asyncpg.InsufficientPrivilegeError:
            user = await connection.fetchval("SELECT session_user")
            raise StorageError(Fault.GRANT, f"{user} may not give these rights") from None
        finally:
            await connection.close()
    named = set(GRANTS)
    return Granted(tables=tuple(sorted(present & named)), missing=tuple(sorted(named - present)))


async def shortfalls(connection: asyncpg.Connection) -> list[str]:
    """Where the real rights are not the wanted ones, in words; tables that are not there are left out. Empty: all is as
    `GRANTS` says, and everything belongs to `adytum_migrator`."""
    missing_roles = set(ROLES) - {row[0] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    if missing_roles:
        return [f"role {role}" for role in sorted(missing_roles)]
    found = []
    owner = await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", MIGRATOR)
    for row in await connection.fetch(_OWNED, SCHEMAS):
        if row["owner"] != owner:
            found.append(f"owner of {row['what'].partition(' ')[2]}")
    if not await _has(connection, "has_database_privilege($1, current_database(), 'CREATE')", MIGRATOR):
        found.append(f"{MIGRATOR}: CREATE on the database")
    for schema in [row[0] for row in await connection.fetch(_SCHEMAS_THERE, SCHEMAS)]:
        for role in (SERVICE, AUDITOR):
            if not await _has(connection, "has_schema_privilege($1, $2, 'USAGE')", role, schema):
                found.append(f"{role}: USAGE on {schema}")
            if await _has(connection, "has_schema_privilege($1, $2, 'CREATE')", role, schema):
                found.append(f"{role}: CREATE on {schema}, too much")
    for row in await connection.fetch(_SEQUENCES, SCHEMAS):
        if not await _has(connection, "has_sequence_privilege($1, $2::oid, 'USAGE')", SERVICE, row["oid"]):
            found.append(f"{SERVICE}: USAGE on {row['name']}")
    for name in [row["name"] for row in await connection.fetch(_PRESENT, SCHEMAS)]:
        rows = await connection.fetch(_HELD, name, ["public", SERVICE, AUDITOR], _RIGHTS, _COLUMN_RIGHTS)
        held = {(row["who"], row["verb"], row["of"]) for row in rows}
        wanted = _wanted(name)
        found += [f"{role}: {_right(has, of)} on {name}" for role, has, of in sorted(wanted - held)]
        found += [f"{role}: {_right(has, of)} on {name}, too much" for role, has, of in sorted(held - wanted)]
    return found


_SCHEMAS_THERE: Final = "SELECT nspname FROM pg_namespace WHERE nspname = ANY($1::text[]) ORDER BY 1"
_SEQUENCES: Final = """
SELECT c.oid, n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind = 'S' ORDER BY 2
"""


async def _has(connection: asyncpg.Connection, question: str, *arguments: object) -> bool:
    return bool(await connection.fetchval(f"SELECT {question}", *arguments))


def _right(has: str, of: str) -> str:
    return f"{has} ({of})" if of else has


def _wanted(table: str) -> set[tuple[str, str, str]]:
    """(role, right, column); column "" is the whole table."""
    wanted = set()
    for role, rights in zip((SERVICE, AUDITOR), GRANTS.get(table, ("", "")), strict=True):
        verb, some, columns = rights.partition(" (")
        if some:
            wanted |= {(role, verb, column.strip()) for column in columns.rstrip(")").split(",")}
        else:
            wanted |= {(role, right.strip(), "") for right in rights.split(",") if right}
    return wanted


async def _make(connection: asyncpg.Connection, role: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT")


async def _own(connection: asyncpg.Connection) -> None:
    """Everything that is there belongs to the migrator, who may also make schemas."""
    owner = await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", MIGRATOR)
    others = [row["what"] for row in await connection.fetch(_OWNED, SCHEMAS) if row["owner"] != owner]
    if others and not await _has(connection, f"pg_has_role($1, {MAY_ACT})", MIGRATOR):
        await connection.execute(f"GRANT {MIGRATOR} TO SESSION_USER")  # else one may not hand anything to it
    if not await _has(connection, "has_database_privilege($1, current_database(), 'CREATE')", MIGRATOR):
        name = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"GRANT CREATE ON DATABASE {name} TO {MIGRATOR}")
    # The schemas first: who is to own a table must be allowed to make one in its schema.
    for what in sorted(others, key=lambda one: not one.startswith("SCHEMA")):
        await connection.execute(f"ALTER {what} OWNER TO {MIGRATOR}")


async def _give(connection: asyncpg.Connection, present: set[str]) -> None:
    """Take everything back first, so that a right that was given by hand, or by an older version, does not stay."""
    everybody = f"PUBLIC, {SERVICE}, {AUDITOR}"
    for schema in [row[0] for row in await connection.fetch(_SCHEMAS_THERE, SCHEMAS)]:
        await connection.execute(f"REVOKE ALL ON SCHEMA {schema} FROM {everybody}")
        await connection.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {everybody}")
        await connection.execute(f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {everybody}")
        await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {SERVICE}, {AUDITOR}")
        await connection.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {SERVICE}")
    for table, rights in GRANTS.items():
        for role, right in zip((SERVICE, AUDITOR), rights, strict=True):
            if right and table in present:
                await connection.execute(f"GRANT {right} ON {table} TO {role}")
