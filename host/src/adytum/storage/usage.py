"""The newest sealed usage snapshot of each tenant (spec/usage.md, U-9): one row a tenant; only a newer one replaces it.

The host keeps them and cannot read them. They are written in the transaction of the receipt that they belong to, by
`batcher`; here is the statement, and the reading.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from adytum.storage.database import Database
from adytum.storage.rows import UsageRow

_NEWEST = """
INSERT INTO usage_snapshots (tenant, version, chain, snapshot)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[])
ON CONFLICT (tenant) DO UPDATE
SET version = excluded.version, chain = excluded.chain, snapshot = excluded.snapshot, stored_at = now()
WHERE usage_snapshots.version < excluded.version
"""


async def keep_newest(connection: asyncpg.Connection, rows: Iterable[UsageRow]) -> None:
    """Store each tenant's newest of `rows`, unless a newer one is stored."""
    newest: dict[str, UsageRow] = {}
    for row in rows:
        if row.tenant not in newest or newest[row.tenant].version < row.version:
            newest[row.tenant] = row
    values = [newest[tenant] for tenant in sorted(newest)]  # in one order, so that two writers cannot block each other
    if values:
        await connection.execute(
            _NEWEST,
            [row.tenant for row in values],
            [row.version for row in values],
            [row.chain for row in values],
            [row.snapshot for row in values],
        )


async def newest_snapshots(database: Database) -> list[UsageRow]:
    """Each tenant's. A transaction that is about to replace one is waited for: its answer may leave once it is
    durable, also when its connection to the host was lost. Errors: STORAGE_UNAVAILABLE, also after waiting too long."""
    rows = await database.fetch(
        "SELECT tenant, version, chain, snapshot FROM usage_snapshots ORDER BY tenant FOR SHARE"
    )
    return [UsageRow(**dict(row.items())) for row in rows]
