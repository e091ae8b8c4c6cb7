"""What is on its way into the database when an enclave's successor asks what was used before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from adytum.storage.coalescer import Coalescer
from adytum.storage.database import Database
from adytum.storage.rows import UsageRow
from adytum.storage.usage import keep_newest, newest_snapshots


async def test_settling_waits_for_what_came_before_and_for_nothing_else() -> None:
    permits, flushed = asyncio.Semaphore(0), []

    async def flush(items: Sequence[int]) -> Sequence[int | BaseException]:
        await permits.acquire()
        flushed.extend(items)
        return [KeyError() if item == 2 else item for item in items]

    coalescer: Coalescer[int, int] = Coalescer(flush, max_items=2)
    await coalescer.settle()  # nothing to wait for
    tasks = [asyncio.create_task(coalescer.submit(n)) for n in (1, 2, 3)]
    await asyncio.sleep(0)  # they have been submitted, and the first flush runs
    settled = asyncio.create_task(coalescer.settle())
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(coalescer.submit(n)) for n in (4, 5)]
    permits.release()
    with pytest.raises(KeyError):
        await tasks[1]
    assert not settled.done(), "3 still waits"
    permits.release()
    await asyncio.wait_for(settled, 10)
    assert flushed == [1, 2, 3, 4]
    permits.release()
    assert [await task for task in tasks[2:]] == [3, 4, 5]
    await coalescer.close()


async def test_the_newest_snapshot_is_the_one_that_is_being_written(database: Database, fresh: Any) -> None:
    """A COMMIT may be on its way although the connection that sent it is gone: its answer may still be told."""

    def row(version: int) -> UsageRow:
        return UsageRow(tenant="acme", version=version, chain="ab" * 16, snapshot=b"%d" % version)

    async with database.connection() as first, first.transaction():
        await keep_newest(first, [row(1)])
    writer, observer = await asyncpg.connect(fresh.dsn), await asyncpg.connect(fresh.dsn)
    try:
        transaction = writer.transaction()
        await transaction.start()
        await keep_newest(writer, [row(2)])
        reading = asyncio.create_task(newest_snapshots(database))
        waits = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR SHARE%'"
        while (await observer.fetchrow(waits))["n"] == 0:
            assert not reading.done(), "it did not wait"
            await asyncio.sleep(0.01)
        await transaction.commit()
        assert [found.version for found in await reading] == [2]
    finally:
        await writer.close()
        await observer.close()


async def test_what_is_held_goes_with_the_next_flush_with_release_or_by_its_timer() -> None:
    flushed: list[list[int]] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        flushed.append(list(items))
        return items

    coalescer: Coalescer[int, int] = Coalescer(flush, max_items=10)

    async def held(*numbers: int, hold_s: float = 3600.0) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(coalescer.submit(n, hold_s=hold_s)) for n in numbers]
        await asyncio.sleep(0)
        return tasks

    one = await held(1, 2)
    assert await coalescer.submit(3) == 3
    assert [await task for task in one] == [1, 2]
    two = await held(4, 5)
    coalescer.release()
    assert [await task for task in two] == [4, 5]
    three = await held(6, 7, hold_s=0.001)
    assert [await task for task in three] == [6, 7]
    four = await held(8)
    await asyncio.wait_for(coalescer.settle(), 10)
    five = await held(9)
    await asyncio.wait_for(coalescer.close(), 10)
    assert [await task for task in four + five] == [8, 9]
    assert flushed == [[1, 2, 3], [4, 5], [6, 7], [8], [9]]
