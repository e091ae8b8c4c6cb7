"""The rows of one batch: what is to be done, with which request ids, and how it ended.

The id of a record's request is a function of the job, the key and the version that the job found, and `issued_at`
stands in the batch's row before the first request is sent. So whoever takes the batch up again after a crash sends
the same bytes, and gets the same answer: no record is resealed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import msgspec

from adytum.rotation.job import Failure
from adytum.rotation.plan import Target, read_header
from adytum.rotation.queue import Lease, Queue
from adytum.storage.database import Database
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Reseal
from adytum_wire.strict_json import encode
from adytum_wire.types import sha256

_LOOK: Final = """
SELECT q.key_id, e.version, e.kms_key_id, e.header, r.state, r.code, r.field
FROM unnest($1::text[], $2::text[]) AS q(key_id, request_id)
LEFT JOIN LATERAL (
    SELECT version, kms_key_id, header FROM key_envelopes x WHERE x.key_id = q.key_id ORDER BY version DESC LIMIT 1
) e ON true
LEFT JOIN requests r ON r.tenant = $3 AND r.request_id = q.request_id
"""


def request_id(job_id: str, key_id: str, version: int) -> str:
    """The request that takes this version of this record further, in this job."""
    return "rot-" + sha256(f"adytum/rotation/v1\0{job_id}\0{key_id}\0{version}".encode()).hex()[:40]


def reseal_body(target: Target, item: Item, issued_at: int) -> bytes:
    """What the rotator signs. The same arguments, the same bytes."""
    return encode(
        Reseal(v=1, tenant=target.tenant, request_id=item.request_id, issued_at=issued_at, key_id=item.key_id)
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a batch. `version`: when the job was made."""

    key_id: str
    version: int
    request_id: str


@dataclass(slots=True)
class Ended:
    """How the records of a batch ended."""

    resealed: int = 0
    skipped: int = 0  # it had what is wanted already, or it is gone
    failures: list[Failure] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """`left`: the records that nothing is known of yet. `issued_at`: ms."""

    lease: Lease
    issued_at: int
    left: list[Item]
    ended: Ended


async def begin(database: Database, lease: Lease, target: Target, *, now_ms: int) -> Batch | None:
    """Read the batch and look which of its records are done. None when it has ended already (its worker was slow, not
    dead)."""
    rows = await database.fetch(
        "UPDATE job_batches SET issued_at = CASE WHEN issued_at = 0 THEN $3 ELSE issued_at END"
        " WHERE job_id = $1 AND number = $2 AND finished_at IS NULL RETURNING issued_at, items::text AS items",
        lease.job_id,
        lease.number,
        now_ms,
    )
    if not rows:
        return None
    named: list[tuple[str, int]] = msgspec.json.decode(rows[0]["items"], type=list[tuple[str, int]])
    items = [Item(key_id, version, request_id(lease.job_id, key_id, version)) for key_id, version in named]
    batch = Batch(lease, rows[0]["issued_at"], [], Ended())
    for item, verdict in zip(items, await look(database, items, target), strict=True):
        if verdict is None:
            batch.left.append(item)
        else:
            count(batch.ended, verdict)
    return batch


async def reissue(database: Database, batch: Batch, *, now_ms: int) -> None:
    """The enclave takes no request as old as the batch's: from now on it is issued now."""
    await database.execute(
        "UPDATE job_batches SET issued_at = $3 WHERE job_id = $1 AND number = $2",
        batch.lease.job_id,
        batch.lease.number,
        now_ms,
    )
    batch.issued_at = now_ms


async def look(database: Database, items: Sequence[Item], target: Target) -> list[str | Failure | None]:
    """What the database says of each record: "resealed" (by this very request), "skipped" (it has what is wanted, or is
    gone), a final refusal of this very request, or None: it is still to do."""
    rows = await database.fetch(
        _LOOK, [item.key_id for item in items], [item.request_id for item in items], target.tenant
    )
    found = {row["key_id"]: row for row in rows}
    return [_verdict(item, found[item.key_id], target) for item in items]


def _verdict(item: Item, row: asyncpg.Record, target: Target) -> str | Failure | None:
    if row["header"] is None:
        return "skipped"
    try:
        has_it = read_header(row["header"]).generation >= target.generation and row["kms_key_id"] == target.kms_key
    except AdytumError:
        return Failure(item.key_id, Code.RECORD_INVALID.value, "")
    if row["state"] == "done":
        return "resealed"
    if has_it:
        return "skipped"
    if row["state"] == "refused":
        return Failure(item.key_id, row["code"], row["field"])
    return None


def count(ended: Ended, verdict: str | Failure) -> None:
    if isinstance(verdict, Failure):
        ended.failures.append(verdict)
    elif verdict == "resealed":
        ended.resealed += 1
    else:
        ended.skipped += 1


async def end(database: Database, queue: Queue, batch: Batch) -> None:
    """Write down how it ended and take it out of the queue, in one transaction. The second time nothing happens."""
    lease, ended = batch.lease, batch.ended
    async with database.connection() as connection, connection.transaction():
        first = await connection.fetchval(
            "UPDATE job_batches SET finished_at = clock_timestamp(), resealed = $3, skipped = $4, failed = $5,"
            " items = '[]'"  # nobody asks for them any more
            " WHERE job_id = $1 AND number = $2 AND finished_at IS NULL RETURNING number",
            lease.job_id,
            lease.number,
            ended.resealed,
            ended.skipped,
            len(ended.failures),
        )
        if first is not None and ended.failures:
            await connection.executemany(
                "INSERT INTO job_failures (job_id, key_id, code, field) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                [(lease.job_id, one.key_id, one.code, one.field) for one in ended.failures],
            )
        await queue.done(connection, lease)
