"""One run for all who wait: what many requests want at the same moment is done once (`effects.Together`).

Who comes while a run is under way cannot be part of it, so all who come then share the next one. A waiter that gives up
leaves the run to the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Final

from adytum_enclave.core.effects import Answer, Effect, Together
from adytum_wire.errors import AdytumError, Code

RUN_S: Final = 15.0  # seconds that one run may take

Perform = Callable[[Effect, float], Awaitable[Answer]]


class Runs:
    """`perform`: carries out the effects of the steps."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform
        self._running: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}

    async def join(self, effect: Together, deadline: float) -> None:
        """Wait for a run that began after this call. Errors: the run's, DEADLINE_EXCEEDED; INTERNAL when it was
        cancelled."""
        task = self._next.get(effect.key)  # first: between two runs none is under way, and yet one waits its turn
        if task is None or task.done():
            before = self._running.get(effect.key)
            task = asyncio.get_running_loop().create_task(self._run(effect, before))
            (self._running if before is None else self._next)[effect.key] = task
            task.add_done_callback(partial(self._forget, effect.key))
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait((task,))
        except TimeoutError:
            raise AdytumError(Code.DEADLINE_EXCEEDED) from None
        if task.cancelled():
            raise AdytumError(Code.INTERNAL)
        error = task.exception()
        if isinstance(error, AdytumError):  # one object for each waiter: they note their own way in it
            raise AdytumError(error.code, error.field, retry_after_ms=error.retry_after_ms)
        if error is not None:
            raise error

    async def _run(self, effect: Together, before: asyncio.Task[None] | None) -> None:
        """One run, after `before`: there is never more than one of a key at a time."""
        task = asyncio.current_task()
        if before is not None:
            await asyncio.wait((before,))
            if task is not None:
                del self._next[effect.key]
                self._running[effect.key] = task
        deadline = asyncio.get_running_loop().time() + RUN_S
        await drive(effect.steps(), self._perform, deadline)

    def _forget(self, key: str, task: asyncio.Task[None]) -> None:
        """A callback, so that it is called for a task that was cancelled before its first step, too."""
        if not task.cancelled():
            task.exception()  # it is the waiters', of whom none may be left
        for tasks in (self._running, self._next):
            if tasks.get(key) is task:
                del tasks[key]

    async def drain(self) -> None:
        """Wait for what is under way."""
        while tasks := [*self._running.values(), *self._next.values()]:
            await asyncio.wait(tasks)


async def drive(steps: Generator[Effect, Any, Any], perform: Perform, deadline: float) -> Any:
    """Run a generator over effects to its end. Errors: what it raises; INTERNAL for a defect of the shell."""
    try:
        effect = next(steps)
        while True:
            try:
                answer = await perform(effect, deadline)
            except AdytumError as error:
                effect = steps.throw(error)
            except Exception:
                effect = steps.throw(AdytumError(Code.INTERNAL))
            else:
                effect = steps.send(answer)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()
