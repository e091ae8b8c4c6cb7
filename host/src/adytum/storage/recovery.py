"""Recovery envelopes in the database: the newest of each record, for backups and drills."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adytum.storage.database import Database

PAGE = 200
_NEWEST = """
SELECT DISTINCT ON (r.key_id, r.node_id) r.key_id, r.node_id, r.version, r.envelope
FROM recovery_envelopes r JOIN keys k USING (key_id)
WHERE ($1 = '' OR k.tenant = $1) AND (r.key_id, r.node_id) > ($2, $3)
ORDER BY r.key_id, r.node_id, r.version DESC LIMIT $4
"""
# The newest version is what counts: an envelope of an older one holds the same secret, but its record may be gone.
_WITHOUT = """
SELECT count(*) AS found FROM (
    SELECT DISTINCT ON (e.key_id, e.node_id) e.key_id, e.node_id, e.version
    FROM key_envelopes e JOIN keys k USING (key_id) WHERE $1 = '' OR k.tenant = $1
    ORDER BY e.key_id, e.node_id, e.version DESC
) newest LEFT JOIN recovery_envelopes r USING (key_id, node_id, version) WHERE r.key_id IS NULL
"""


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


async def newest(database: Database, tenant: str = "") -> AsyncIterator[tuple[str, int, bytes]]:
    """(key id, version, envelope) of every record that has one, in order. Errors: STORAGE_UNAVAILABLE."""
    key_id = node_id = ""
    while rows := await database.fetch(_NEWEST, tenant, key_id, node_id, PAGE):
        for row in rows:
            yield row["key_id"], row["version"], bytes(row["envelope"])
        key_id, node_id = rows[-1]["key_id"], rows[-1]["node_id"]


async def count_without(database: Database, tenant: str = "") -> int:
    """How many records have no envelope for their newest version. Errors: STORAGE_UNAVAILABLE."""
    return int((await database.fetch(_WITHOUT, tenant))[0]["found"])
