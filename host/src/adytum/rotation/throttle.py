"""One token bucket a job, in the job's row, so that all workers on all hosts together keep to its rate.

The arithmetic is pure; the time is the database's, so that hosts need not agree on theirs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import asyncpg

BURST_S: Final = 0.5  # of the rate, that may come at once


class Taken(NamedTuple):
    """`granted`: now. `left`: tokens in the bucket afterwards. `wait_s`: until one more is there, 0 if one was
    granted."""

    granted: int
    left: float
    wait_s: float


def burst(rate: float) -> float:
    """Tokens that a full bucket holds: at least one."""
    return max(1.0, rate * BURST_S)


def take(tokens: float, elapsed_s: float, *, rate: float, wanted: int) -> Taken:
    """Up to `wanted` of a bucket that held `tokens` `elapsed_s` seconds ago and fills with `rate` (> 0) a second.

    >>> take(0.0, 2.0, rate=1.0, wanted=5)
    Taken(granted=1, left=0.0, wait_s=0.0)
    """
    available = min(burst(rate), tokens + max(0.0, elapsed_s) * rate)
    granted = min(wanted, int(available))
    left = available - granted
    return Taken(granted, left, 0.0 if granted else (1.0 - left) / rate)


async def take_from(connection: asyncpg.Connection, job_id: str, wanted: int) -> Taken:
    """Up to `wanted` tokens of the job's bucket; all of them where the job has no rate, none once it is gone."""
    async with connection.transaction():
        row = await connection.fetchrow(
            "SELECT rate, tokens, extract(epoch FROM clock_timestamp() - tokens_at)::float8 AS elapsed"
            " FROM jobs WHERE id = $1 FOR UPDATE",
            job_id,
        )
        if row is None:
            return Taken(0, 0.0, 1.0)
        if not row["rate"]:
            return Taken(wanted, 0.0, 0.0)
        taken = take(row["tokens"], row["elapsed"], rate=row["rate"], wanted=wanted)
        # `elapsed` was read under the lock, so nobody else has counted it.
        await connection.execute(
            "UPDATE jobs SET tokens = $2, tokens_at = tokens_at + make_interval(secs => $3) WHERE id = $1",
            job_id,
            taken.left,
            max(0.0, row["elapsed"]),
        )
        return taken
