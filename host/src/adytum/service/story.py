"""The way of one request through the host, in order:

    admit -> gate -> recall and load -> carry (enclave) -> audit (durable) -> confirm (whose receipt?) -> answer

A request that the enclave wants approvals for is stored as it came, and is the desk's from then on
(`adytum.service.requests`).

The gate is the pool's: some enclave must be proven. Which one carries the request, and which one's proof confirms the
receipt, is the route's business (`adytum.service.pool`).

Whatever the enclave answered is written down even when the client has gone or the host's own deadline has passed: the
part from `carry` to `audit` is not cancelled with its caller, else the receipt chain would have a hole. The client then
asks again with the same request id and gets the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from adytum.service import answer
from adytum.service.admit import Admitted, admit
from adytum.service.answer import Answer
from adytum.service.carry import DAY_MS, Carried, carry
from adytum.service.company import Company, Place
from adytum.service.metrics import Metrics
from adytum.service.pool import Pool, Route
from adytum.service.recall import recall
from adytum.service.requests.desk import Desk
from adytum.storage.batcher import AuditBatcher
from adytum.storage.lookup import Lookup, Question
from adytum.storage.rows import PENDING, RequestRow
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Record
from adytum_wire.requests import SessionStamp

log = logging.getLogger("adytum.request")


class Story:
    """`deadline_s`: what a client waits at most. `max_in_flight`: beyond it RESOURCE_EXHAUSTED, at once.
    `guard`: raises while nothing may be taken (a required second copy of the audit cannot be written).
    `pending_ms`: how old a request may become that waits for approvals, which it does at the `desk`."""

    def __init__(
        self,
        *,
        pool: Pool,
        lookup: Lookup,
        batcher: AuditBatcher,
        metrics: Metrics,
        deadline_s: float,
        max_in_flight: int,
        desk: Desk,
        pending_ms: int = DAY_MS,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._guard = guard
        self._pool = pool
        self._lookup = lookup
        self._batcher = batcher
        self._metrics = metrics
        self._deadline_s = deadline_s
        # The enclave gets longer than the client: an answer that comes late is still written down.
        self._enclave_timeout_s = min(2 * deadline_s, limits.MAX_DEADLINE_MS / 1000)
        self._max_in_flight = max_in_flight
        self._desk = desk
        self._pending_ms = pending_ms
        self._tasks: set[asyncio.Task[Answer]] = set()

    def company(self, size: int) -> Company:
        """For so many requests that are answered together."""
        return Company(size, release=self._batcher.release)

    async def run(
        self, raw: bytes, stamp_header: str, operations: frozenset[str], place: Place | None = None
    ) -> Answer:
        """Never raises for a refusal or a failure: the answer says it. `place`: in the company that it comes with."""
        begun = perf_counter()
        request_id = operation = ""
        try:
            admitted = admit(raw, stamp_header, operations)
            request_id, operation = admitted.body.request_id, admitted.operation
            if isinstance(admitted.stamp, SessionStamp):
                admitted = replace(admitted, stamp_key=self._pool.opener(admitted.stamp))
            if len(self._tasks) >= self._max_in_flight:
                raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=limits.RETRY_AFTER_MS)
            self._pool.require()
            self._guard()
            task = asyncio.create_task(self._decide(admitted, place))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            done, _ = await asyncio.wait((task,), timeout=self._deadline_s)
            if not done:
                raise AdytumError(Code.DEADLINE_EXCEEDED, retry_after_ms=limits.RETRY_AFTER_MS)
            given = task.result()
        except AdytumError as error:
            given = answer.failure(error)
        except Exception as error:  # the last net: nobody gets a stack trace, and the log gets no payload
            log.error("internal error: %s", type(error).__name__)
            given = answer.failure(AdytumError(Code.INTERNAL))
        finally:
            if place is not None:
                place.gone()
        seconds = perf_counter() - begun
        self._metrics.request(operation, given.code, seconds)
        log.info("request_id=%s operation=%s code=%s ms=%.1f", request_id, operation, given.code or "OK", seconds * 1e3)
        return given

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def _decide(self, admitted: Admitted, place: Place | None) -> Answer:
        body = admitted.body
        with self._metrics.stage("lookup"):
            found = await self._lookup.find(Question(body.tenant, body.request_id, admitted.key_id))
        stored = recall(admitted, found.request)
        if stored is not None:
            return await self._desk.repeat(admitted) if stored.state == PENDING else _of(stored)
        route = self._pool.route(admitted)
        carried = await self._carry(route, admitted, found.record)
        if carried.error is not None and carried.error.code is Code.RECORD_ROLLBACK:
            carried = await self._carry_newer(route, admitted, found.record, carried)
        return await self._finish(route, admitted, carried, place)

    async def _carry(self, route: Route, admitted: Admitted, record: Record | None) -> Carried:
        with self._metrics.stage("enclave"):
            return await carry(route, admitted, record, timeout_s=self._enclave_timeout_s, pending_ms=self._pending_ms)

    async def _carry_newer(self, route: Route, admitted: Admitted, sent: Record | None, refused: Carried) -> Carried:
        """The record was read just before a reseal became visible. Look once more; if it is the same, that is that."""
        found = await self._lookup.find(Question(admitted.body.tenant, admitted.body.request_id, admitted.key_id))
        if found.record is None or found.record == sent:
            return refused
        if refused.outcome is not None:
            await self._batcher.commit(refused.outcome)
        return await self._carry(route, admitted, found.record)

    async def _finish(self, route: Route, admitted: Admitted, carried: Carried, place: Place | None) -> Answer:
        request_id = admitted.body.request_id
        row: RequestRow | None = None
        if carried.outcome is not None:
            route.require_boot(carried.outcome)
            with self._metrics.stage("audit"):
                hold_s = 0.0 if place is None else place.here()
                row = await self._batcher.commit(carried.outcome, hold_s=hold_s)
            await route.confirm(carried.outcome.receipt.chain)
        if row is not None:
            return await self._desk.waits(row) if row.state == PENDING else _of(row)
        if carried.error is not None:
            return answer.failure(carried.error, carried.receipt)
        return answer.success(request_id, carried.result, carried.receipt)


def _of(row: RequestRow) -> Answer:
    return answer.of_stored(row.request_id, row.result, row.receipt, row.code, row.field)
