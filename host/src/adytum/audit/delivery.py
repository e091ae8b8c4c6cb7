"""Brings checkpoints, and receipts where wanted, to the second copies, in order and without loss.

How far a sink has got stands in the database and moves only after the sink has said that it is durable: whatever goes
wrong in between, the same comes again. Delivery never holds a request up, unless the settings say that without a second
copy nothing may be signed (`require`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from adytum.audit import store
from adytum.audit.ports import Entry, Sink, SinkError
from adytum.storage.database import Database
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

log = logging.getLogger("adytum.audit")

POLL_S = 5.0
PAGE = 500


@dataclass(slots=True)
class SinkState:
    """`problem`: why the last attempt failed, a code; "" when it did not. `delivered`: lines since the start."""

    name: str
    problem: str = ""
    delivered: int = 0


class Delivery:
    """Run `watch` as a task. `is_required`: see `require`."""

    def __init__(
        self,
        database: Database,
        sinks: Sequence[Sink],
        *,
        registry: CollectorRegistry,
        is_required: bool = False,
        poll_s: float = POLL_S,
    ) -> None:
        self._database = database
        self._sinks = tuple(sinks)
        self._is_required = is_required
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self.states = {sink.name: SinkState(sink.name) for sink in sinks}
        self._up = Gauge(
            "adytum_audit_sink_up", "1 while the last write to this second copy worked.", ["sink"], registry=registry
        )
        self._lines = Counter(
            "adytum_audit_sink_lines", "Lines written to this second copy.", ["sink"], registry=registry
        )
        for sink in sinks:
            self._up.labels(sink.name).set(1)

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    def require(self) -> None:
        """Errors: AUDIT_UNAVAILABLE while a required second copy cannot be written."""
        if self._is_required and any(state.problem for state in self.states.values()):
            raise AdytumError(Code.AUDIT_UNAVAILABLE, "audit.requireSecondSink", retry_after_ms=limits.RETRY_AFTER_MS)

    async def watch(self) -> None:
        """Deliver for ever. Cancel to stop."""
        while True:
            self._wake.clear()
            await self.step()
            try:
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def step(self) -> None:
        """Bring every sink up to date. Raises nothing: what failed is tried again in the next step."""
        for sink in self._sinks:
            state = self.states[sink.name]
            try:
                await self._bring(sink, state)
                problem = ""
            except SinkError as error:
                problem = error.reason
            except AdytumError as error:
                problem = error.code.value
            except Exception as error:
                problem = type(error).__name__
            if problem and problem != state.problem:
                log.error("the second copy %s is not written: %s", sink.name, problem)
            elif state.problem and not problem:
                log.info("the second copy %s is written again", sink.name)
            state.problem = problem
            self._up.labels(sink.name).set(0 if problem else 1)

    async def _bring(self, sink: Sink, state: SinkState) -> None:
        for chain, newest, done in await store.behind(self._database, sink.name):
            async for entries in self._batches(sink, chain, newest, done):
                await sink.put(entries)
                await store.advance(self._database, sink.name, chain, entries[-1].sequence)
                state.delivered += len(entries)
                self._lines.labels(sink.name).inc(len(entries))

    async def _batches(self, sink: Sink, chain: str, newest: int, done: int) -> AsyncIterator[list[Entry]]:
        """What the sink lacks: the receipts up to each checkpoint, then the checkpoint."""
        while done < newest:
            for sequence, envelope in await store.list_checkpoints(self._database, chain, after=done, limit=PAGE):
                entries: list[Entry] = []
                while sink.takes_receipts:
                    entries = await store.receipt_entries(self._database, chain, after=done, up_to=sequence, limit=PAGE)
                    if not entries or entries[-1].sequence == sequence:
                        break
                    yield entries
                    done = entries[-1].sequence
                yield [*entries, store.checkpoint_entry(chain, sequence, envelope)]
                done = sequence
