"""How far a job is: one query, for `adytum rotate status`, `GET /v1/jobs` and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from adytum.rotation.job import ACTIVE, Job, active, get, load
from adytum.rotation.plan import Selection
from adytum.storage.database import Database

RECENT_S: Final = 30  # what the rate is measured over

_SUMS: Final = """
SELECT b.job_id, coalesce(sum(jsonb_array_length(b.items)) FILTER (WHERE b.finished_at IS NULL), 0)::bigint AS waiting,
       coalesce(sum(b.resealed), 0)::bigint AS resealed, coalesce(sum(b.skipped), 0)::bigint AS skipped,
       coalesce(sum(b.failed), 0)::bigint AS failed,
       coalesce(sum(b.resealed + b.skipped + b.failed)
                FILTER (WHERE b.finished_at > now() - make_interval(secs => $2)), 0)::bigint AS recent,
       extract(epoch FROM now() - min(b.finished_at)
               FILTER (WHERE b.finished_at > now() - make_interval(secs => $2)))::float8 AS recent_s,
       (SELECT count(DISTINCT q.queue_manager_id) FROM adytum_queue.pgqueuer q
        WHERE q.entrypoint = b.job_id AND q.status = 'picked' AND q.heartbeat > now() - interval '1 minute') AS workers
FROM job_batches b WHERE b.job_id = ANY($1::text[]) GROUP BY b.job_id
"""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`total` = `resealed` + `skipped` + `failed` + `left`. `rate`: records a second of late, 0 while nothing ended.
    `eta_s`: -1 when nobody can say. `problem`: a code, why it does not get on."""

    id: str
    tenant: str
    state: str
    generation: int
    kms_key: str
    selection: Selection
    total: int
    resealed: int
    skipped: int
    failed: int
    left: int
    rate: float
    limit: float
    eta_s: int
    workers: int
    rounds: int
    problem: str
    shredded: int
    created_at: datetime
    ended_at: datetime | None

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


async def read(database: Database, job_id: str) -> Progress:
    """Errors: RotationError UNKNOWN, STORAGE_UNAVAILABLE."""
    [one] = await _of(database, [await get(database, job_id)])
    return one


async def read_all(database: Database, tenant: str = "", *, most: int = 1000) -> list[Progress]:
    """Of a tenant's newest jobs, or of all tenants', oldest first. Errors: STORAGE_UNAVAILABLE."""
    return await _of(database, await load(database, tenant, most=most))


async def read_active(database: Database) -> list[Progress]:
    """Of the jobs that have not ended, oldest first. Errors: STORAGE_UNAVAILABLE."""
    return await _of(database, await active(database))


async def count_by_state(database: Database) -> dict[str, int]:
    """Errors: STORAGE_UNAVAILABLE."""
    rows = await database.fetch("SELECT state, count(*) AS n FROM jobs GROUP BY state")
    return {row["state"]: row["n"] for row in rows}


async def _of(database: Database, found: Sequence[Job]) -> list[Progress]:
    rows = {row["job_id"]: row for row in await database.fetch(_SUMS, [job.id for job in found], float(RECENT_S))}
    return [_progress(job, dict(rows[job.id].items()) if job.id in rows else {}) for job in found]


def _progress(job: Job, sums: dict[str, int | float | None]) -> Progress:
    def number(name: str) -> int:
        return int(sums.get(name) or 0)

    left = number("waiting")
    rate = rate_of(number("recent"), float(sums.get("recent_s") or 0.0))
    return Progress(
        id=job.id,
        tenant=job.tenant,
        state=job.state,
        generation=job.generation,
        kms_key=job.kms_key_id,
        selection=job.selection,
        total=left + number("resealed") + number("skipped") + number("failed"),
        resealed=number("resealed"),
        skipped=number("skipped"),
        failed=number("failed"),
        left=left,
        rate=round(rate, 1),
        limit=job.rate,
        eta_s=round(left / rate) if rate else (-1 if left else 0),
        workers=number("workers"),
        rounds=job.rounds,
        problem=job.problem,
        shredded=job.shredded,
        created_at=job.created_at,
        ended_at=job.ended_at,
    )


def rate_of(ended: int, since_s: float) -> float:
    """Records a second, of those that ended in the last `RECENT_S` seconds, the first of them `since_s` ago."""
    return ended / max(1.0, since_s) if ended else 0.0


async def last_rate(database: Database, tenant: str) -> float:
    """Of the tenant's last job that came to its end, 0 when there is none: for the estimate of a dry run."""
    rows = await database.fetch(
        "SELECT sum(b.resealed)::float8 / greatest(1, extract(epoch FROM j.ended_at - j.created_at))::float8 AS rate"
        " FROM jobs j JOIN job_batches b ON b.job_id = j.id"
        " WHERE j.tenant = $1 AND j.state IN ('complete', 'incomplete', 'finished') AND j.rate = 0"
        " GROUP BY j.id, j.ended_at, j.created_at ORDER BY j.ended_at DESC LIMIT 1",
        tenant,
    )
    return float(rows[0]["rate"] or 0.0) if rows else 0.0
