"""Drives the core's generators: frames in, replies out, effects performed in between.

Warm requests run to their end inside the loop over a batch, without a task; the receipts of a batch are signed
together. A request that needs KMS becomes one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeAlias

from adytum_enclave.core.control import control
from adytum_enclave.core.effects import Answer, Effect
from adytum_enclave.core.enclave import Enclave
from adytum_enclave.core.outcome import Outcome
from adytum_enclave.core.phases import Phase
from adytum_enclave.core.pipeline import execute
from adytum_enclave.shell.server import Incoming
from adytum_wire import messages
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Configure

Perform: TypeAlias = Callable[[Effect, float], Awaitable[Answer]]
Steps: TypeAlias = Generator[Effect, Any, Any]
_INTERNAL = messages.encode(messages.refusal(AdytumError(Code.INTERNAL)))


class Dispatcher:
    """`perform(effect, deadline)`: carries out an effect; `deadline` is in loop time. `drift_ms`: the clock's."""

    def __init__(self, enclave: Enclave, perform: Perform, *, drift_ms: Callable[[], int]) -> None:
        self._enclave = enclave
        self._perform = perform
        self._drift_ms = drift_ms
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: list[tuple[Incoming, Outcome]] = []
        self._flush_is_due = False
        self.parent_cid: int | None = None

    def data(self, batch: Sequence[Incoming]) -> None:
        """Handler of the data port."""
        for incoming in batch:
            try:
                message = messages.decode_data(incoming.payload)
            except AdytumError as error:
                incoming.reply(messages.encode(messages.refusal(error)))
                continue
            steps = execute(self._enclave, message, is_expired=partial(_is_expired, incoming))
            self._advance(incoming, steps, partial(next, steps))
        self._flush()

    def control(self, batch: Sequence[Incoming]) -> None:
        """Handler of the control port."""
        for incoming in batch:
            try:
                message = messages.decode_control(incoming.payload)
                steps = control(self._enclave, message, drift_ms=self._drift_ms(), in_flight=len(self._tasks))
            except AdytumError as error:
                incoming.reply(messages.encode(messages.refusal(error)))
                continue
            if isinstance(message, Configure) and self._enclave.phases.now is Phase.AWAITING_MANIFEST:
                # The enclave serves the parent that configured it: this is where its pipes are dialled.
                self.parent_cid = incoming.peer_cid
            self._advance(incoming, steps, partial(next, steps))

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _advance(self, incoming: Incoming, steps: Steps, resume: Callable[[], Effect]) -> None:
        """Resume the request once; when it yields another effect, perform that in a task."""
        try:
            effect = resume()
        except StopIteration as stop:
            if isinstance(stop.value, Outcome):
                self._ready.append((incoming, stop.value))
            else:
                incoming.reply(messages.encode(stop.value))
        except AdytumError as error:
            incoming.reply(messages.encode(messages.refusal(error)))
        except Exception:
            # A defect of ours. The host learns the code and nothing else: a traceback could carry anything.
            self._enclave.counters.error(Code.INTERNAL)
            incoming.reply(_INTERNAL)
        else:
            task = asyncio.get_running_loop().create_task(self._carry_out(incoming, steps, effect))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, incoming: Incoming, steps: Steps, effect: Effect) -> None:
        try:
            answer = await self._perform(effect, incoming.deadline)
        except AdytumError as error:
            resume = partial(steps.throw, error)
        except Exception:
            resume = partial(steps.throw, AdytumError(Code.INTERNAL))
        else:
            resume = partial(steps.send, answer)
        self._advance(incoming, steps, resume)
        if self._ready and not self._flush_is_due:
            # Many requests may wait for one KMS answer: let them all finish, then sign their receipts together.
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        ready, self._ready = self._ready, []
        if not ready:
            return
        phases = self._enclave.phases
        if phases.now is not Phase.TERMINAL:
            try:
                self._enclave.receipts.seal()
            except Exception:
                # Decisions that are in the chain but not signed: no answer of this boot can be trusted any more, nor of
                # what is still under way.
                self._enclave.counters.error(Code.INTERNAL)
                phases.step(Phase.TERMINAL)
        for incoming, outcome in ready:
            is_broken = phases.now is Phase.TERMINAL and outcome.needs_receipt
            incoming.reply(_INTERNAL if is_broken else outcome.encode())


def _is_expired(incoming: Incoming) -> bool:
    return incoming.expired
