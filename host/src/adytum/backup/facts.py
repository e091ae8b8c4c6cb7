"""What a database has, read through one connection (and so, in a transaction, as of one moment)."""

from __future__ import annotations

from typing import Final

import asyncpg

from adytum.backup.manifest import BackupManifest, ChainHead, PolicyHead, UsageHead
from adytum_wire.errors import AdytumError
from adytum_wire.receipts import next_link, parse_envelope, parse_receipt
from adytum_wire.types import sha256

_TABLES: Final = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2
"""
_HEADS: Final = """
SELECT h.chain, h.n, h.sequence, r.envelope, c.envelope AS checkpoint
FROM (SELECT chain, count(*) AS n, max(sequence) AS sequence FROM receipts GROUP BY chain) h
JOIN receipts r ON r.chain = h.chain AND r.sequence = h.sequence
LEFT JOIN LATERAL (
    SELECT envelope FROM checkpoints x WHERE x.chain = h.chain ORDER BY x.sequence DESC LIMIT 1
) c ON true
ORDER BY h.chain
"""


async def tables(connection: asyncpg.Connection) -> list[str]:
    """Every table that is not PostgreSQL's own, with its schema unless that is `public`."""
    rows = await connection.fetch(_TABLES)
    return [row["name"] if row["schema"] == "public" else f"{row['schema']}.{row['name']}" for row in rows]


async def row_counts(connection: asyncpg.Connection) -> dict[str, int]:
    counts = {}
    for name in await tables(connection):
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
        counts[name] = int(await connection.fetchval(f"SELECT count(*) FROM {quoted}"))  # noqa: S608 (quoted)
    return counts


def link_of(envelope: bytes) -> str:
    """link[sequence] of a stored receipt, hex; "" when it cannot be read. Proven only in a chain that was verified."""
    try:
        body = parse_envelope(envelope).body.encode()
        return next_link(bytes.fromhex(parse_receipt(body).previous), sha256(body)).hex()
    except AdytumError:
        return ""


async def link_at(connection: asyncpg.Connection, chain: str, sequence: int) -> str | None:
    """None when that receipt is not stored."""
    envelope = await connection.fetchval(
        "SELECT envelope FROM receipts WHERE chain = $1 AND sequence = $2", chain, sequence
    )
    return None if envelope is None else link_of(envelope)


async def heads(connection: asyncpg.Connection) -> tuple[ChainHead, ...]:
    """Where each chain stands."""
    return tuple(
        ChainHead(
            chain=row["chain"],
            receipts=row["n"],
            sequence=row["sequence"],
            link=link_of(row["envelope"]),
            checkpoint="" if row["checkpoint"] is None else row["checkpoint"].decode(errors="replace"),
        )
        for row in await connection.fetch(_HEADS)
    )


async def policies(connection: asyncpg.Connection) -> tuple[PolicyHead, ...]:
    """Each tenant's newest."""
    rows = await connection.fetch(
        "SELECT DISTINCT ON (tenant) tenant, version, digest FROM policies ORDER BY tenant, version DESC"
    )
    return tuple(PolicyHead(tenant=r["tenant"], version=r["version"], digest=r["digest"].hex()) for r in rows)


async def usage(connection: asyncpg.Connection) -> tuple[UsageHead, ...]:
    rows = await connection.fetch("SELECT tenant, version FROM usage_snapshots ORDER BY tenant")
    return tuple(UsageHead(tenant=r["tenant"], version=r["version"]) for r in rows)


async def gather(connection: asyncpg.Connection, *, now_ms: int) -> BackupManifest:
    """Everything but what the dump itself says. In a repeatable-read transaction all of it is of one moment."""
    boots = await connection.fetch("SELECT chain FROM enclaves ORDER BY chain")
    return BackupManifest(
        adytum_backup=1,
        created_at=now_ms,
        revision=await connection.fetchval("SELECT version_num FROM adytum_migrations"),
        newest_receipt=int(await connection.fetchval('SELECT coalesce(max("time"), 0) FROM receipts')),
        rows=await row_counts(connection),
        chains=await heads(connection),
        boots=tuple(row["chain"] for row in boots),
        policies=await policies(connection),
        usage=await usage(connection),
    )
