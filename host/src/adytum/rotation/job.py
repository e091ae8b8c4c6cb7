"""A job's life: start, pause, resume, cancel, and its end. Each step is one transaction.

    running <-> paused        running -> complete | incomplete -> finished        running, paused -> cancelled

A job is cut into batches of key ids when it starts. When its last batch has ended, the records are looked through
once more, and what is still stale becomes another round, so `complete` says what was found in the table and not what
was counted on the way.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from adytum.rotation.errors import RotationCode, RotationError
from adytum.rotation.plan import Selection, Target, check_selection, is_selected, pages
from adytum.rotation.queue import Queue
from adytum.rotation.throttle import burst
from adytum.storage.database import Database

BATCH: Final = 100  # records
MAX_ROUNDS: Final = 3
ACTIVE: Final = ("running", "paused")
ENDED: Final = ("complete", "incomplete", "finished", "cancelled")

_COLUMNS: Final = (
    "id, tenant, state, generation, kms_key_id, policy_version, selection::text AS selection, rate, problem, rounds,"
    " shredded, statement, statement_body, statement_receipt, created_at, changed_at, ended_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row. `statement`, `statement_body`, `statement_receipt`: what the enclave said at the end, what it was asked,
    and its receipt; empty before `finish`."""

    id: str
    tenant: str
    state: str
    generation: int
    kms_key_id: str
    policy_version: int
    selection: Selection
    rate: float
    problem: str
    rounds: int
    shredded: int
    statement: bytes
    statement_body: bytes
    statement_receipt: bytes
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None


class Failure(msgspec.Struct, frozen=True):
    """A record that was not resealed, and why (a code)."""

    key_id: str
    code: str
    field: str


def new_id() -> str:
    """64 random bits."""
    return "rot-" + secrets.token_hex(8)


async def start(
    database: Database,
    queue: Queue,
    target: Target,
    selection: Selection,
    *,
    rate: float = 0.0,
    batch: int = BATCH,
) -> Job:
    """Write the job and its batches down; workers begin at once. `rate`: records a second, 0 for no bound.

    Errors: RotationError ACTIVE, NOTHING, SELECTION; STORAGE_UNAVAILABLE. After an error there is no job.
    """
    check_selection(selection, target)
    job_id = new_id()
    async with database.connection() as connection, connection.transaction():
        try:
            await connection.execute(
                "INSERT INTO jobs (id, tenant, state, generation, kms_key_id, policy_version, selection, rate, tokens)"
                " VALUES ($1, $2, 'running', $3, $4, $5, $6::jsonb, $7, $8)",
                job_id,
                target.tenant,
                target.generation,
                target.kms_key,
                target.policy_version,
                msgspec.json.encode(selection).decode(),
                rate,
                burst(rate) if rate else 0.0,
            )
        except asyncpg.UniqueViolationError:
            raise RotationError(RotationCode.ACTIVE) from None
        if not await _add_round(connection, queue, job_id, target, selection, batch=batch, first=1):
            raise RotationError(RotationCode.NOTHING)
    return await get(database, job_id)


async def _add_round(
    connection: asyncpg.Connection,
    queue: Queue,
    job_id: str,
    target: Target,
    selection: Selection,
    *,
    batch: int,
    first: int,
    but: frozenset[str] = frozenset(),
) -> int:
    """Cut what is stale into batches from number `first` on. Return how many there are."""
    waiting: list[tuple[str, int]] = []
    number = first

    async def flush(size: int) -> None:
        nonlocal waiting, number
        rows = [waiting[at : at + size] for at in range(0, len(waiting), size)] if waiting else []
        numbers = list(range(number, number + len(rows)))
        await connection.executemany(
            "INSERT INTO job_batches (job_id, number, items) VALUES ($1, $2, $3::jsonb)",
            [(job_id, at, msgspec.json.encode(row).decode()) for at, row in zip(numbers, rows, strict=True)],
        )
        if numbers:
            await queue.put(connection, job_id, numbers)
        number, waiting = number + len(rows), []

    async for page in pages(connection, target.tenant):
        waiting += [(f.key_id, f.version) for f in page if is_selected(f, target, selection) and f.key_id not in but]
        whole, rest = waiting[: len(waiting) // batch * batch], waiting[len(waiting) // batch * batch :]
        waiting = whole
        await flush(batch)
        waiting = rest
    await flush(batch)
    return number - first


async def get(database: Database, job_id: str) -> Job:
    """Errors: RotationError UNKNOWN."""
    rows = await database.fetch(f"SELECT {_COLUMNS} FROM jobs WHERE id = $1", job_id)  # noqa: S608 (our columns)
    if not rows:
        raise RotationError(RotationCode.UNKNOWN)
    return _job(rows[0])


async def load(database: Database, tenant: str = "", *, most: int = 1000) -> list[Job]:
    """The newest jobs of a tenant, or of all (""), oldest first."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM jobs WHERE $1 IN ('', tenant)"  # noqa: S608 (our columns)
        " ORDER BY created_at DESC, id DESC LIMIT $2",
        tenant,
        most,
    )
    return [_job(row) for row in reversed(rows)]


async def active(database: Database) -> list[Job]:
    """Those that have not ended, oldest first."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM jobs WHERE state = ANY($1::text[]) ORDER BY created_at, id",  # noqa: S608 (our columns)
        list(ACTIVE),
    )
    return [_job(row) for row in rows]


async def running(database: Database) -> list[Job]:
    """Those that workers work on."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running' ORDER BY created_at, id"  # noqa: S608 (our columns)
    )
    return [_job(row) for row in rows]


async def failures(database: Database, job_id: str, *, limit: int = 10_000) -> list[Failure]:
    rows = await database.fetch(
        "SELECT key_id, code, field FROM job_failures WHERE job_id = $1 ORDER BY key_id LIMIT $2", job_id, limit
    )
    return [Failure(*row) for row in rows]


def _job(row: asyncpg.Record) -> Job:
    values: dict[str, Any] = dict(row.items())
    values["selection"] = msgspec.json.decode(values["selection"], type=Selection)
    return Job(**values)


async def pause(database: Database, job_id: str, problem: str = "") -> Job:
    """Workers stop after the records that are under way. `problem`: the code that made a worker stop it."""
    return await _move(database, job_id, ("running",), "paused", problem)


async def resume(database: Database, job_id: str) -> Job:
    return await _move(database, job_id, ("paused",), "running", "")


async def cancel(database: Database, queue: Queue, job_id: str) -> Job:
    """For good. What was resealed stays so."""
    async with database.connection() as connection, connection.transaction():
        await _step(connection, job_id, ACTIVE, "cancelled", "")
        await queue.drop(connection, job_id)
    return await get(database, job_id)


async def _move(database: Database, job_id: str, before: Sequence[str], after: str, problem: str) -> Job:
    async with database.connection() as connection, connection.transaction():
        await _step(connection, job_id, before, after, problem)
    return await get(database, job_id)


async def _step(connection: asyncpg.Connection, job_id: str, before: Sequence[str], after: str, problem: str) -> None:
    """Errors: RotationError UNKNOWN, STATE."""
    state = await connection.fetchval("SELECT state FROM jobs WHERE id = $1 FOR UPDATE", job_id)
    if state is None:
        raise RotationError(RotationCode.UNKNOWN)
    if state not in before:
        raise RotationError(RotationCode.STATE, state)
    await connection.execute(
        "UPDATE jobs SET state = $2, problem = $3, changed_at = clock_timestamp(),"
        " ended_at = CASE WHEN $2 = ANY($4::text[]) THEN clock_timestamp() ELSE ended_at END WHERE id = $1",
        job_id,
        after,
        problem,
        list(ENDED),
    )


async def note_problem(database: Database, job_id: str, code: str) -> None:
    """Show why a running job does not get on; "" when it does again."""
    await database.execute(
        "UPDATE jobs SET problem = $2 WHERE id = $1 AND state = 'running' AND problem <> $2", job_id, code
    )


async def end_round(database: Database, queue: Queue, job_id: str, target: Target, *, batch: int = BATCH) -> str:
    """Call when a batch has ended. Where it was the last one: end the job, or begin another round with what is stale
    still. Return the job's state afterwards. Errors: STORAGE_UNAVAILABLE; nothing has changed then."""
    async with database.connection() as connection, connection.transaction():
        row = await connection.fetchrow(
            "SELECT state, generation, kms_key_id, selection::text AS selection, rounds FROM jobs WHERE id = $1"
            " FOR UPDATE",
            job_id,
        )
        if row is None or row["state"] != "running":
            return "" if row is None else str(row["state"])
        last = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE finished_at IS NULL) AS open, coalesce(max(number), 0) AS number"
            " FROM job_batches WHERE job_id = $1",
            job_id,
        )
        if last["open"]:
            return "running"
        failed = await connection.fetch("SELECT key_id FROM job_failures WHERE job_id = $1", job_id)
        but = frozenset(one["key_id"] for one in failed)
        selection = msgspec.json.decode(row["selection"], type=Selection)
        rounds, problem = row["rounds"] + 1, ""
        added = 0
        if rounds < MAX_ROUNDS:
            added = await _add_round(
                connection, queue, job_id, target, selection, batch=batch, first=last["number"] + 1, but=but
            )
        elif await _anything_left(connection, target, selection, but):
            problem = RotationCode.LEFT.value
        await connection.execute("UPDATE jobs SET rounds = $2 WHERE id = $1", job_id, rounds)
        if added:
            return "running"
        state = "incomplete" if failed or problem else "complete"
        await _step(connection, job_id, ("running",), state, problem)
        await queue.drop(connection, job_id)
        return state


async def _anything_left(
    connection: asyncpg.Connection, target: Target, selection: Selection, but: frozenset[str]
) -> bool:
    async for page in pages(connection, target.tenant):
        if any(is_selected(found, target, selection) and found.key_id not in but for found in page):
            return True
    return False
