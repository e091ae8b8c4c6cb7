"""Many waiters, one piece of work: what arrives while a flush runs goes together into the next one.

With one waiter nothing waits (no timer); with sixty-four, one transaction serves them all. Who knows that company is
on its way may let an item wait for it (`hold_s`): it goes with the next flush, whatever started that. Left out: what a
flush does.

>>> async def double(items): return [2 * item for item in items]
>>> async def main():
...     coalescer = Coalescer(double, max_items=64)
...     return await asyncio.gather(coalescer.submit(1), coalescer.submit(2))
>>> asyncio.run(main())
[2, 4]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

Item = TypeVar("Item")
Result = TypeVar("Result")

# A flush answers each item with its result or with the error to raise at that item's waiter.
Flush = Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]]


class Coalescer(Generic[Item, Result]):
    """`max_items`: most items in one flush. `max_waiting`: beyond it `submit` raises RESOURCE_EXHAUSTED at once.
    `workers`: flushes that may run side by side."""

    def __init__(
        self, flush: Flush[Item, Result], *, max_items: int, max_waiting: int = 4096, workers: int = 1
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._workers = workers
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._flying: set[asyncio.Future[Result]] = set()  # of the flushes that run
        self._draining = (
            0  # counted by the drains themselves: a task is still "running" after its last look at the queue
        )
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, item: Item, *, hold_s: float = 0.0) -> Result:
        """Wait for the flush that takes `item`. `hold_s`: start none for its sake for so long, unless `release` is
        called. Errors: what the flush says of it; RESOURCE_EXHAUSTED when too many wait.

        A waiter that is cancelled does not take its item back: the work is done, and nobody is told.
        """
        if self._closed or len(self._waiting) >= self._max_waiting:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=limits.RETRY_AFTER_MS)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not hold_s:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(hold_s, self.release)
        return await future

    def release(self) -> None:
        """Hold nothing back any longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._start()

    def _start(self) -> None:
        if self._draining < self._workers:
            self._draining += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until everything that was submitted before this call was flushed, or has failed."""
        self.release()
        before = {future for _, future in self._waiting} | self._flying
        if before:
            await asyncio.wait(before)

    async def close(self) -> None:
        """Finish what was submitted; take nothing new."""
        self._closed = True
        self.release()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_items], self._waiting[self._max_items :]
                await self._serve(batch)
        finally:
            self._draining -= 1  # in the same turn of the loop as the look at the queue

    async def _serve(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | BaseException]
        flying = {future for _, future in batch}
        self._flying |= flying
        try:
            results = await self._flush([item for item, _ in batch])
        except Exception as error:  # every waiter hears it; nobody hangs
            results = [error] * len(batch)
        self._flying -= flying
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
