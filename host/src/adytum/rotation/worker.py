"""A worker: leases batches of the jobs that run, and sends one `reseal` for each record, `in_flight` of them at once,
many in one call.

Any number of workers may run, on any host that reaches the database and a service. One that dies leaves its batches to
the others when its heartbeats stop; what it had under way ends by itself in the service, and is found done.

A refusal that is about one record is written down and does not stop the job. One that is about the rotator (its stamp,
its policy) pauses the job: every further record would fail alike. So does the first "not allowed" of a worker that has
resealed nothing of the job yet: it is likely to have the wrong key. What may pass (KMS, enclave or database away) is
tried again until it has passed or somebody pauses the job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar
from uuid import UUID

from adytum.client.checks import Answer
from adytum.client.errors import RefusedError
from adytum.rotation import batch as batches
from adytum.rotation import job as jobs
from adytum.rotation.batch import Batch, Item
from adytum.rotation.errors import RotationError
from adytum.rotation.job import Failure, Job
from adytum.rotation.plan import Target
from adytum.rotation.queue import Lease, Queue
from adytum.rotation.throttle import Taken, take_from
from adytum.storage.coalescer import Coalescer
from adytum.storage.database import Database
from adytum_wire.errors import AdytumError, Code

T = TypeVar("T")
log = logging.getLogger("adytum.rotation")

POLL_S: Final = 0.25  # how soon a pause is heard
LEASE_S: Final = 30.0
IN_FLIGHT: Final = 16
_BATCHES: Final = 2  # at once, so that nothing waits for the last record of one
_CALLS: Final = 2  # to the service at once, for the same reason; each carries its share of what is in flight
_BACKOFF_S: Final = (0.2, 5.0)
_SAY_AGAIN_S: Final = 30.0
_MAX_TRIES: Final = 200  # of a request whose id the enclave holds for another body

# About who asks, not about the record.
SYSTEMIC: Final = frozenset(
    {
        Code.TENANT_UNKNOWN,
        Code.PRINCIPAL_UNKNOWN,
        Code.STAMP_INVALID,
        Code.POLICY_MISSING,
        Code.POLICY_EXPIRED,
        Code.REQUEST_FROM_FUTURE,
        Code.MANIFEST_INVALID,
    }
)
# The id is taken by an earlier attempt whose answer nobody has: wait until it is found, or the enclave has forgotten.
_TAKEN: Final = frozenset({Code.REQUEST_CONFLICT, Code.REQUEST_REPLAYED})


class Resealer(Protocol):
    """Sends stamped bodies for one tenant, and verifies what comes back: `adytum.client.AsyncAdytum`."""

    async def repeat(self, body: bytes) -> Answer: ...

    async def batch(self, bodies: Sequence[bytes]) -> list[Answer | AdytumError]: ...


class _StoppedError(Exception):
    """The job was paused, cancelled, or this worker is to end."""


class Worker:
    """`resealer(tenant)`: stamps as the rotator. `target(job)`: what its records are to have. Run `run` once."""

    def __init__(
        self,
        *,
        database: Database,
        queue: Queue,
        resealer: Callable[[str], Resealer],
        target: Callable[[Job], Target],
        identity: UUID,
        now_ms: Callable[[], int],
        in_flight: int = IN_FLIGHT,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._database = database
        self._queue = queue
        self._resealer = resealer
        self._target = target
        self._identity = identity
        self._now_ms = now_ms
        self._slots = asyncio.Semaphore(in_flight)
        self._most = max(1, -(-in_flight // _CALLS))
        self._senders: dict[str, Coalescer[bytes, Answer]] = {}
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._running: dict[str, Job] = {}
        self._leases: dict[int, Lease] = {}
        self._granted: dict[str, int] = {}
        self._throttle = asyncio.Lock()
        self._stop = asyncio.Event()
        self._heard = asyncio.Event()  # the jobs were read since somebody asked
        self._paused: set[str] = set()  # by this worker, until a look that began later has shown it
        self._proven: set[str] = set()  # jobs of which this worker resealed something, or was told to go on
        self.resealed = 0

    async def run(self, stop: asyncio.Event, *, until_done: bool = False) -> None:
        """Work until `stop` is set; `until_done`: or until no job runs. Leases are given back then."""
        self._stop = stop
        chores = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set():
                tasks = {task for task in tasks if not task.done()}
                for lease in await self._lease(_BATCHES - len(tasks)):
                    if lease.item.id in self._leases:
                        continue  # our own: a late heartbeat let us lease it once more
                    self._leases[lease.item.id] = lease
                    tasks.add(asyncio.create_task(self._work(lease)))
                if len(tasks) == _BATCHES:
                    await asyncio.wait(
                        {*tasks, stopped := asyncio.create_task(stop.wait())}, return_when="FIRST_COMPLETED"
                    )
                    stopped.cancel()
                elif tasks:
                    await self._pause(self._poll_s)
                elif until_done and await self._nothing_runs():
                    return
                else:
                    await self._end_rounds()
                    await self._pause(self._poll_s)
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)

    # --- around the batches

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _listen(self) -> None:
        """Keep the picture of which jobs run."""
        loop, said_at = asyncio.get_running_loop(), -_SAY_AGAIN_S
        while True:
            try:
                found = {job.id: job for job in await jobs.running(self._database)}
                self._paused &= found.keys()
                self._running = {name: job for name, job in found.items() if name not in self._paused}
                self._heard.set()
            except Exception as error:  # whatever the database says to us, it may have a better day
                if loop.time() - said_at >= _SAY_AGAIN_S:
                    said_at = loop.time()
                    code = error.code.value if isinstance(error, AdytumError) else type(error).__name__
                    log.warning("the jobs cannot be read: %s", code)
            await asyncio.sleep(self._poll_s)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            leases = list(self._leases.values())
            if leases:
                with suppress(Exception):  # the next beat may come through; without any the lease ends, which is right
                    async with self._database.connection() as connection:
                        await self._queue.beat(connection, leases)

    async def _nothing_runs(self) -> bool:
        """By a look that began now; also when this worker is to end."""
        self._heard.clear()
        either = [asyncio.create_task(one.wait()) for one in (self._heard, self._stop)]
        await asyncio.wait(either, return_when="FIRST_COMPLETED")
        for one in either:
            one.cancel()
        return self._stop.is_set() or not self._running

    async def _end_rounds(self) -> None:
        """Of jobs whose last batch ended while they were paused, or whose worker died right after it."""
        for job in list(self._running.values()):
            with suppress(AdytumError):
                await jobs.end_round(self._database, self._queue, job.id, self._target(job))

    async def _lease(self, most: int) -> list[Lease]:
        wanted = list(self._running)
        if most <= 0 or not wanted or self._stop.is_set():
            return []
        try:
            async with self._database.connection() as connection:
                return await self._queue.lease(
                    connection, wanted, worker=self._identity, most=most, lease_s=self._lease_s
                )
        except AdytumError:
            return []

    # --- one batch

    async def _work(self, lease: Lease) -> None:
        """From the lease to its end; the lease is given back when the job was stopped meanwhile."""
        try:
            job = self._running.get(lease.job_id)
            if job is None:
                raise _StoppedError
            target = self._target(job)
            await self._carry_out(lease, target)
            await self._persist(job.id, lambda: jobs.end_round(self._database, self._queue, job.id, target))
        except _StoppedError:
            await self._give_back(lease)
        except Exception as error:  # a defect of ours must not end the worker, nor keep the batch until its lease ends
            log.error("batch=%s/%d failed: %s", lease.job_id, lease.number, type(error).__name__)
            await self._pause(_BACKOFF_S[1])
            await self._give_back(lease)
        finally:
            self._leases.pop(lease.item.id, None)

    async def _give_back(self, lease: Lease) -> None:
        with suppress(AdytumError):
            async with self._database.connection() as connection, connection.transaction():
                await self._queue.give_back(connection, [lease])

    async def _carry_out(self, lease: Lease, target: Target) -> None:
        job_id = lease.job_id
        batch = await self._persist(job_id, lambda: batches.begin(self._database, lease, target, now_ms=self._now_ms()))
        if batch is None:
            async with self._database.connection() as connection:
                await self._queue.done(connection, lease)
            return
        found = batch
        verdicts = await asyncio.gather(
            *(self._in_turn(found, item, target) for item in found.left), return_exceptions=True
        )
        for verdict in verdicts:
            if isinstance(verdict, BaseException):
                raise verdict
            batches.count(found.ended, verdict)
        await self._persist(job_id, lambda: batches.end(self._database, self._queue, found), always=True)
        log.info("batch=%s/%d resealed=%d skipped=%d failed=%d", job_id, lease.number, found.ended.resealed,
                 found.ended.skipped, len(found.ended.failures))  # fmt: skip

    async def _in_turn(self, batch: Batch, item: Item, target: Target) -> str | Failure:
        async with self._slots:
            await self._admit(batch.lease.job_id)
            return await self._reseal(batch, item, target)

    async def _admit(self, job_id: str) -> None:
        """Wait for a token of the job's bucket. Errors: _StoppedError."""
        while True:
            job = self._require(job_id)
            if not job.rate:
                return
            async with self._throttle:
                if self._granted.get(job_id, 0) > 0:
                    self._granted[job_id] -= 1
                    return
                wanted = max(1, int(job.rate * self._poll_s))
                taken = await self._persist(job_id, partial(self._take, job_id, wanted))
                self._granted[job_id] = taken.granted
                if not taken.granted:
                    await self._pause(min(taken.wait_s, self._poll_s))

    async def _take(self, job_id: str, wanted: int) -> Taken:
        async with self._database.connection() as connection:
            return await take_from(connection, job_id, wanted)

    def _sender(self, tenant: str) -> Coalescer[bytes, Answer]:
        """What is to be sent while the calls are busy goes together into the next."""
        found = self._senders.get(tenant)
        if found is None:
            found = Coalescer(self._resealer(tenant).batch, max_items=self._most, workers=_CALLS)
            self._senders[tenant] = found
        return found

    async def _reseal(self, batch: Batch, item: Item, target: Target) -> str | Failure:
        """Until it is known how the record ended. Errors: _StoppedError."""
        job_id, wait_s = batch.lease.job_id, _BACKOFF_S[0]
        for _ in range(_MAX_TRIES):
            self._require(job_id)
            await self._keep_young(batch, target)
            try:
                await self._sender(target.tenant).submit(batches.reseal_body(target, item, batch.issued_at))
            except RefusedError as error:
                verdict = await self._refused(batch, item, target, error)
                if verdict is not None:
                    return verdict
                problem = error.code
            except AdytumError as error:
                if not error.code.retryable:  # an answer that proves nothing
                    return Failure(item.key_id, error.code.value, error.field)
                problem = error.code
            else:
                self.resealed += 1
                self._proven.add(job_id)
                return "resealed"
            with suppress(AdytumError):
                await jobs.note_problem(self._database, job_id, problem.value)
            await self._pause(wait_s)
            wait_s = min(2 * wait_s, _BACKOFF_S[1])
        raise _StoppedError

    async def _refused(self, batch: Batch, item: Item, target: Target, error: RefusedError) -> str | Failure | None:
        """What a refusal means; None: try again. Errors: _StoppedError."""
        job_id = batch.lease.job_id
        denied = error.code is Code.POLICY_DENIED
        if error.code in SYSTEMIC or (denied and job_id not in self._proven):
            if denied:
                self._proven.add(job_id)  # whoever resumes the job says that it may go on
            self._paused.add(job_id)
            self._running.pop(job_id, None)
            with suppress(RotationError):
                await self._persist(job_id, lambda: jobs.pause(self._database, job_id, error.code.value), always=True)
            raise _StoppedError
        if denied:
            self._require(job_id)  # of the same wave as the one that stopped it
        [verdict] = await self._persist(job_id, lambda: batches.look(self._database, [item], target))
        if verdict is not None:
            return verdict
        if error.code is Code.REQUEST_EXPIRED:
            await self._persist(job_id, lambda: batches.reissue(self._database, batch, now_ms=self._now_ms()))
            return None
        return None if error.code in _TAKEN else Failure(item.key_id, error.code.value, error.field)

    async def _keep_young(self, batch: Batch, target: Target) -> None:
        if self._now_ms() - batch.issued_at > target.request_past_ms * 3 // 4:
            await self._persist(
                batch.lease.job_id, lambda: batches.reissue(self._database, batch, now_ms=self._now_ms())
            )

    def _require(self, job_id: str) -> Job:
        job = self._running.get(job_id)
        if job is None or self._stop.is_set():
            raise _StoppedError
        return job

    async def _persist(self, job_id: str, work: Callable[[], Awaitable[T]], *, always: bool = False) -> T:
        """Again and again while the database is away. `always`: also when the job has been stopped meanwhile."""
        while True:
            try:
                return await work()
            except AdytumError as error:
                if not error.code.retryable:
                    raise
            if not always or self._stop.is_set():
                self._require(job_id)
            await asyncio.sleep(self._poll_s)
