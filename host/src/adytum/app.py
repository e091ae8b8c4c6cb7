"""The service, put together: everything is made here, in one screen, and closed in the opposite order.

    async with running_service(settings) as service:
        print(service.base_url)

Each enclave of the settings gets its client, gate and supervisor; together they are the pool. `enclave` (or a function
from an address to one), `database_dsn`, `credentials`, time and randomness can be given (tests, the demo); production
takes them from the settings. The service starts and stops cleanly when database or enclave are away, and says so in
`/v1/health`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from adytum.audit.checkpointer import Checkpointer
from adytum.audit.delivery import Delivery
from adytum.audit.wiring import make_sinks
from adytum.backup.watch import DatabaseWatch
from adytum.enclave import EnclaveClient, Endpoint, UnixEndpoint, VhostEndpoint, VsockEndpoint
from adytum.releases.images import Images
from adytum.releases.watcher import POLL_S as RELEASES_S
from adytum.releases.watcher import Watcher
from adytum.releases.wiring import make_canary
from adytum.service.carry import DAY_MS
from adytum.service.credentials import static_credentials
from adytum.service.gate import Gate
from adytum.service.http import Edge
from adytum.service.metrics import Metrics
from adytum.service.pool import Member, Pool
from adytum.service.ports import CredentialsProvider, Enclave, NowMs, RandomBytes
from adytum.service.requests.carrying import Carrier
from adytum.service.requests.cases import Cases
from adytum.service.requests.desk import CHORES_S, Desk
from adytum.service.routes import Parts, cold_routes
from adytum.service.story import Story
from adytum.service.supervisor import POLL_S, Supervisor
from adytum.service.trail import Trail
from adytum.service.unavailable import AbsentEnclave
from adytum.serving import HttpServer
from adytum.settings import EnclaveAddress, Settings
from adytum.storage import migrate
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.embedded import EmbeddedPostgres
from adytum.storage.lookup import Lookup
from adytum_verify import AWS_ANCHOR, AllowList, Anchor, anchor_from_pem
from adytum_wire.manifest import manifest_hash, parse_manifest

_DRAIN_S = 15.0


def host_clock_ms() -> int:
    """The host's clock, ms since the epoch. Decides nothing about keys."""
    return time.time_ns() // 1_000_000


def endpoint_of(address: EnclaveAddress) -> Endpoint:
    """Where the settings say that an enclave is."""
    if address.developmentDirectory is not None:
        return UnixEndpoint(address.developmentDirectory)
    if address.vhostSocket is not None:
        return VhostEndpoint(address.vhostSocket)
    return VsockEndpoint(address.cid or 0)


class Service:
    """One host service. `start`, then `base_url`; `stop` finishes what is under way."""

    def __init__(
        self,
        settings: Settings,
        *,
        enclave: Enclave | Callable[[EnclaveAddress], Enclave] | None = None,
        database_dsn: str | None = None,
        credentials: CredentialsProvider | None = None,
        now_ms: NowMs = host_clock_ms,
        random_bytes: RandomBytes = secrets.token_bytes,
        supervisor_poll_s: float = POLL_S,
        migrate_first: bool = False,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._given = enclave
        self._dsn = database_dsn or settings.database.dsn.get_secret_value()
        self._credentials = credentials or static_credentials(settings.aws)
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._poll_s = supervisor_poll_s
        self._migrate_first = migrate_first
        self._embedded: EmbeddedPostgres | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._server: HttpServer | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, e.g. "http://127.0.0.1:8443". Only after `start`."""
        if self._server is None:
            raise RuntimeError("the service is not running")
        return self._server.base_url

    async def start(self) -> None:
        """Listen, then keep the enclave and the gate in the background. Errors: EmbeddedPostgresError, OSError (bind),
        AdytumError (manifest, migration). After an error nothing runs."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings, tee = self.settings, self.settings.tee
        if not self._dsn and settings.database.embeddedDirectory is not None:
            self._embedded = EmbeddedPostgres(settings.database.embeddedDirectory)
            await asyncio.to_thread(self._embedded.start)
            self._dsn, self._migrate_first = self._embedded.dsn(), True
        if self._migrate_first:
            await migrate.upgrade(self._dsn)
        manifest = read_manifest(tee.manifestFile)
        self.database = Database(
            self._dsn,
            pool_size=settings.database.poolSize,
            connect_timeout=settings.database.connectTimeoutSeconds,
            statement_timeout=settings.database.statementTimeoutSeconds,
            lock_timeout=settings.database.lockTimeoutSeconds,
            revisions=migrate.revisions(),
        )
        self.lookup, self.batcher = Lookup(self.database), AuditBatcher(self.database)
        anchors = anchors_of(tee.attestationRootsFile)
        self.delivery = Delivery(
            self.database,
            make_sinks(settings.audit, credentials=self._credentials, now_ms=self._now_ms),
            registry=self.metrics.registry,
            is_required=settings.audit.requireSecondSink,
        )
        self.pool = Pool([self._member(address, manifest, anchors) for address in tee.addresses], metrics=self.metrics)
        self.watcher = Watcher(
            database=self.database,
            pool=self.pool,
            configured=AllowList.parse(tee.allowedPCRs) if tee.allowedPCRs else None,
            host=self._random_bytes(8).hex(),
            poll_s=min(RELEASES_S, self._poll_s),
        )
        self.canary = make_canary(
            settings,
            manifest=manifest,
            enclaves={member.name: member.enclave for member in self.pool.members},
            images=lambda: self.pool.images,
            lookup=self.lookup,
            batcher=self.batcher,
            anchors=anchors,
            credentials=self._credentials,
            now_ms=self._now_ms,
            random_bytes=self._random_bytes,
            metrics=self.metrics,
        )
        # What waits for approvals may be as old as the enclave takes it, and no older.
        pending_ms = DAY_MS if manifest is None else parse_manifest(manifest).bounds.approval_past_ms
        self.desk = Desk(
            database=self.database,
            cases=Cases(self.database, self.lookup, self._now_ms),
            carrier=Carrier(
                pool=self.pool,
                batcher=self.batcher,
                metrics=self.metrics,
                timeout_s=tee.requestTimeoutSeconds,
                pending_ms=pending_ms,
                guard=self._guard,
            ),
            now_ms=self._now_ms,
            random_bytes=self._random_bytes,
            chores_s=min(CHORES_S, self._poll_s),
        )
        self.story = Story(
            desk=self.desk,
            pending_ms=pending_ms,
            pool=self.pool,
            lookup=self.lookup,
            batcher=self.batcher,
            metrics=self.metrics,
            deadline_s=tee.requestTimeoutSeconds,
            max_in_flight=settings.http.maxInFlight,
            guard=self._guard,
        )
        self.database_watch = DatabaseWatch(
            self.database,
            registry=self.metrics.registry,
            enclaves=lambda: [
                (member.enclave, member.supervisor.health)
                for member in self.pool.members
                if member.supervisor.health is not None
            ],
            ready=self.pool.ready,
        )
        parts = Parts(
            pool=self.pool,
            database=self.database,
            metrics=self.metrics,
            timeout_s=tee.requestTimeoutSeconds,
            desk=self.desk,
            copies=lambda: [{"name": s.name, "problem": s.problem} for s in self.delivery.states.values()],
            audit=lambda: self.batcher.problem,
            lacks=self.database_watch.shown,
        )
        self._spawn(self.database.watch())
        self._spawn(self.desk.watch())
        if tee.enabled:
            self._spawn(self.watcher.watch())
            self._spawn(self.delivery.watch())
            self._spawn(self.database_watch.watch())
            for member in self.pool.members:
                self._spawn(member.supervisor.watch())
                self._spawn(member.gate.watch())
            self._spawn(self.canary.watch(settings.canary.intervalSeconds))
        self._server = HttpServer(Edge(self.story, cold_routes(parts)), settings.http)
        await self._server.start()

    def _member(self, address: EnclaveAddress, manifest: bytes | None, anchors: tuple[Anchor, ...]) -> Member:
        """One enclave with its own client, gate and supervisor."""
        tee, metrics = self.settings.tee, self.metrics.of(address.name)
        enclave = self._given(address) if callable(self._given) else self._given
        if enclave is None:
            enclave = EnclaveClient(endpoint_of(address)) if tee.enabled else AbsentEnclave()
        gate = Gate(
            enclave=enclave,
            database=self.database,
            images=Images.unknown(),
            anchors=anchors,
            manifest_hash=None if manifest is None else manifest_hash(manifest),
            now_ms=self._now_ms,
            random_bytes=self._random_bytes,
            metrics=metrics,
            interval_s=tee.attestationIntervalSeconds,
            timeout_s=tee.requestTimeoutSeconds,
        )
        supervisor = Supervisor(
            enclave=enclave,
            gate=gate,
            database=self.database,
            manifest=manifest,
            credentials=self._credentials,
            metrics=metrics,
            poll_s=self._poll_s,
            timeout_s=tee.requestTimeoutSeconds,
            trail=Trail(enclave, self.database, self.batcher),
            settle=self.batcher.settle,
            checkpointer=Checkpointer(
                enclave,
                self.database,
                every_receipts=self.settings.audit.checkpointReceipts,
                every_s=self.settings.audit.checkpointSeconds,
                proof=lambda: gate.proof,
                kept=self.delivery.wake,
            ),
        )
        return Member(address.name, enclave, gate, supervisor)

    @property
    def gate(self) -> Gate:
        """The first enclave's."""
        return self.pool.members[0].gate

    @property
    def supervisor(self) -> Supervisor:
        """The first enclave's."""
        return self.pool.members[0].supervisor

    def _guard(self) -> None:
        """Before anything reaches an enclave. Errors: STORAGE_UNAVAILABLE (the schema is of another revision),
        AUDIT_UNAVAILABLE."""
        self.database.require()
        self.delivery.require()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Take nothing new, finish what is under way (at most 15 s), write it down, close. Idempotent."""
        if self._server is not None:
            await self._server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if hasattr(self, "story"):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.story.drain(), _DRAIN_S)
                await asyncio.wait_for(self.desk.drain(), _DRAIN_S)
            await self.lookup.close()
            await self.batcher.close()
        if hasattr(self, "watcher") and self.settings.tee.enabled:
            await self.watcher.sign_off()
        if hasattr(self, "database"):
            await self.database.close()
        if hasattr(self, "pool"):
            for member in self.pool.members:
                member.enclave.close()
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)
            self._embedded = None

    async def ready(self, timeout_s: float = 10) -> None:
        """Wait until an enclave serves. Errors: TimeoutError."""
        await asyncio.wait_for(self.pool.ready(), timeout_s)


def anchors_of(path: Path | None) -> tuple[Anchor, ...]:
    """The roots to trust: AWS's, or those of the PEM file instead. Errors: OSError, AttestationError."""
    return (AWS_ANCHOR,) if path is None else (anchor_from_pem(path.read_bytes()),)


def read_manifest(path: Path | None) -> bytes | None:
    """Parsed before the enclave sees it, so that a mistake is told at start. Errors: OSError, MANIFEST_INVALID."""
    if path is None:
        return None
    data = path.read_bytes()
    parse_manifest(data)
    return data


@asynccontextmanager
async def running_service(
    settings: Settings,
    *,
    enclave: Enclave | Callable[[EnclaveAddress], Enclave] | None = None,
    database: str | None = None,
    **more: Any,
) -> AsyncIterator[Service]:
    """Start a service, hand it out, stop it. `database`: a DSN; `more`: as for `Service`."""
    service = Service(settings, enclave=enclave, database_dsn=database, **more)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
