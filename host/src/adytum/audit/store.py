"""Checkpoints and cursors in the database. Plain SQL, one function a question."""

from __future__ import annotations

from adytum.audit.ports import Entry
from adytum.storage.database import Database
from adytum_verify import Checkpoint, checkpoint_line

_BEHIND = """
SELECT c.chain, max(c.sequence) AS newest, coalesce(d.sequence, 0) AS done
FROM checkpoints c LEFT JOIN audit_cursors d ON d.chain = c.chain AND d.sink = $1
GROUP BY c.chain, d.sequence HAVING max(c.sequence) > coalesce(d.sequence, 0) ORDER BY c.chain
"""
_ADVANCE = """
INSERT INTO audit_cursors (sink, chain, sequence) VALUES ($1, $2, $3)
ON CONFLICT (sink, chain) DO UPDATE SET sequence = greatest(audit_cursors.sequence, $3), updated_at = now()
"""


async def put_checkpoint(database: Database, checkpoint: Checkpoint, envelope: bytes) -> None:
    """Keep it. One that is stored already stays as it is: it says the same (the caller has verified it), later."""
    await database.execute(
        'INSERT INTO checkpoints (chain, sequence, envelope, "time") VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING',
        checkpoint.chain,
        checkpoint.sequence,
        envelope,
        checkpoint.time_ms,
    )


async def list_checkpoints(database: Database, chain: str, *, after: int, limit: int) -> list[tuple[int, bytes]]:
    """(sequence, envelope bytes) in order, from the first sequence greater than `after`."""
    rows = await database.fetch(
        "SELECT sequence, envelope FROM checkpoints WHERE chain = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        chain,
        after,
        limit,
    )
    return [(row["sequence"], row["envelope"]) for row in rows]


async def newest_checkpoint(database: Database, chain: str) -> int:
    """The sequence number of the newest; 0 when there is none."""
    rows = await database.fetch("SELECT coalesce(max(sequence), 0) AS newest FROM checkpoints WHERE chain = $1", chain)
    return int(rows[0]["newest"])


async def count_receipts(database: Database, chain: str, *, after: int, up_to: int) -> int:
    """How many of the receipts numbered `after` + 1 to `up_to` are stored."""
    rows = await database.fetch(
        "SELECT count(*) AS n FROM receipts WHERE chain = $1 AND sequence > $2 AND sequence <= $3", chain, after, up_to
    )
    return int(rows[0]["n"])


async def receipt_entries(database: Database, chain: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
    """The stored receipts numbered `after` + 1 to `up_to`, at most `limit`."""
    rows = await database.fetch(
        "SELECT sequence, envelope FROM receipts WHERE chain = $1 AND sequence > $2 AND sequence <= $3"
        " ORDER BY sequence LIMIT $4",
        chain,
        after,
        up_to,
        limit,
    )
    return [Entry(kind="receipt", chain=chain, sequence=row["sequence"], line=row["envelope"]) for row in rows]


def checkpoint_entry(chain: str, sequence: int, envelope: bytes) -> Entry:
    return Entry(kind="checkpoint", chain=chain, sequence=sequence, line=checkpoint_line(envelope))


async def behind(database: Database, sink: str) -> list[tuple[str, int, int]]:
    """(chain, newest checkpoint, where the sink has got to) of every chain that the sink lacks something of."""
    rows = await database.fetch(_BEHIND, sink)
    return [(row["chain"], row["newest"], row["done"]) for row in rows]


async def advance(database: Database, sink: str, chain: str, sequence: int) -> None:
    """The sink has everything of `chain` up to `sequence`. A cursor never goes back."""
    await database.execute(_ADVANCE, sink, chain, sequence)
