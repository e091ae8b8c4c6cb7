"""Keeps one enclave fit to serve: says hello, configures it when it waits for its manifest, pushes credentials and each
tenant's newest policy, notices a restart, and closes the gate when the enclave is gone.

One loop, one small step at a time; every step may fail and is tried again. It holds no secret but the credentials, and
believes nothing: whether the enclave is the right one is the gate's question.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from adytum.audit.checkpointer import Checkpointer
from adytum.service.gate import Gate
from adytum.service.metrics import EnclaveMetrics
from adytum.service.ports import AWAITING_MANIFEST, READY, CredentialsProvider, Enclave
from adytum.service.trail import Trail
from adytum.storage.anchor import newest_credentials
from adytum.storage.database import Database
from adytum.storage.reads import newest_policies
from adytum.storage.usage import newest_snapshots
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import DynamoDbAnchor, parse_manifest
from adytum_wire.messages import Credentials, HealthReply

log = logging.getLogger("adytum.supervisor")

POLL_S = 1.0
CREDENTIALS_S = 60.0
POLICIES_S = 5.0
ACCESS_S = 5.0  # between looks for new credentials of the anchor's table


class Supervisor:
    """Run `watch` as a task. `health`: the enclave's last report, None while it does not answer."""

    def __init__(
        self,
        *,
        enclave: Enclave,
        gate: Gate,
        database: Database,
        manifest: bytes | None,
        credentials: CredentialsProvider,
        metrics: EnclaveMetrics,
        poll_s: float = POLL_S,
        timeout_s: float = 5,
        trail: Trail | None = None,
        checkpointer: Checkpointer | None = None,
        settle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`settle`: waits until all that was answered so far is durable, or will never be told to anybody."""
        self._settle = settle
        self._trail = trail
        self._checkpointer = checkpointer
        self.health: HealthReply | None = None
        self._enclave = enclave
        self._gate = gate
        self._database = database
        self._manifest = manifest
        self._provide = credentials
        self._metrics = metrics
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._boot_id = ""
        self._pushed: Credentials | None = None
        self._refused: set[tuple[str, int]] = set()  # (tenant, version) that this boot will not take
        self._next_credentials = self._next_policies = 0.0
        self._usage_is_due = False
        self._node_id = _node_with_sealed_access(manifest)
        self._next_access = 0.0
        self._presented: dict[str, bytes] = {}  # by tenant: the header of the record that this boot was offered
        self._problem = ""
        self._prepared = ""

    @property
    def met(self) -> str:
        """The boot that answered last; an earlier one is over. "" when none has answered yet."""
        return self._boot_id

    @property
    def prepared(self) -> str:
        """The boot that has its manifest and every tenant's newest policy; "" when there is none."""
        return self._prepared

    def unprepare(self) -> None:
        """Something that it needs did not reach it: nothing for it until the next step has gone well."""
        self._prepared = ""
        self._next_policies = 0.0

    @property
    def problem(self) -> str:
        """Why the enclave is not ready, as a code; "" when it is."""
        return self._problem

    async def watch(self) -> None:
        """Step for ever. Cancel to stop."""
        while True:
            await self.step()
            await asyncio.sleep(self._poll_s)

    async def step(self) -> None:
        """One round: nothing is raised; what failed is tried again in the next."""
        try:
            await self._step()
        except AdytumError as error:
            self._note(error.code.value)
        except Exception as error:
            self._note(type(error).__name__)

    async def _step(self) -> None:
        try:
            health = await self._enclave.health(timeout_s=self._timeout_s)
        except AdytumError as error:
            self.health = None
            self._metrics.up(False)
            if error.code in (Code.PEER_UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                self._gate.close(error.code.value)
            raise
        self.health = health
        self._metrics.up(True)
        self._metrics.numbers(_numbers(health))
        if health.boot_id != self._boot_id:
            await self._meet(health.boot_id)
        if health.phase == AWAITING_MANIFEST:
            await self._configure()
        elif health.phase != READY:
            raise AdytumError(Code.PHASE_INVALID)
        now = asyncio.get_running_loop().time()
        if now >= self._next_credentials:
            await self._refresh_credentials()
            self._next_credentials = now + CREDENTIALS_S
        if self._usage_is_due:
            await self._present_usage()
            self._usage_is_due = False
        if self._node_id and now >= self._next_access:
            if await self._present_access(self._node_id):
                health = await self._enclave.health(timeout_s=self._timeout_s)  # policies may have to be put again
                self._next_policies = 0.0
            self._next_access = now + ACCESS_S
        if now >= self._next_policies:
            await self._push_policies(health)
            self._next_policies = now + POLICIES_S
        self._prepared = self._boot_id
        if self._gate.proof is None or self._gate.proof.boot_id != self._boot_id:
            await self._gate.check()
        if self._problem:
            log.info("the enclave is ready")
        self._problem = ""
        if self._trail is not None:
            await self._trail.mend(health.boot_id, health.receipts, now)
        if self._checkpointer is not None:
            await self._checkpointer.step(health.boot_id, health.receipts, now)

    async def _meet(self, boot_id: str) -> None:
        """A boot that we have not seen: nothing that we pushed before holds any more."""
        hello = await self._enclave.hello(timeout_s=self._timeout_s)
        if self._boot_id:
            log.warning("the enclave was restarted")
            self._gate.close("RESTARTED")
        log.info("boot_id=%s build=%s phase=%s", hello.boot_id, hello.build, hello.phase)
        self._boot_id, self._prepared = boot_id, ""
        self._pushed = None
        self._refused.clear()
        self._usage_is_due = True
        self._presented.clear()
        self._next_credentials = self._next_policies = self._next_access = 0.0

    async def _configure(self) -> None:
        if self._manifest is None:
            raise AdytumError(Code.MANIFEST_INVALID, "tee.manifestFile (not set)")
        credentials = await self._provide()
        await self._enclave.configure(self._manifest, credentials, timeout_s=self._timeout_s)
        self._pushed = credentials
        log.info("the enclave took the manifest")

    async def _refresh_credentials(self) -> None:
        credentials = await self._provide()
        if credentials is not None and credentials != self._pushed:
            await self._enclave.set_credentials(credentials, timeout_s=self._timeout_s)
            self._pushed = credentials

    async def _present_usage(self) -> None:
        """Each tenant's newest usage snapshot, once a boot: after everything of earlier boots has been written, for
        from now on their answers are not taken any more (`pool.Route.require_boot`).

        A refused one leaves its limits closed: the enclave has seen a newer one, or it does not open there."""
        if self._settle is not None:
            await self._settle()
        for row in await newest_snapshots(self._database):
            try:
                await self._enclave.put_usage(row.tenant, row.snapshot, timeout_s=self._timeout_s)
            except AdytumError as error:
                if error.code.retryable:
                    raise
                level = logging.INFO if error.code is Code.USAGE_ROLLBACK else logging.WARNING
                log.log(level, "usage refused: tenant=%s version=%d code=%s", row.tenant, row.version, error.code.value)

    async def _present_access(self, node_id: str) -> bool:
        """Each tenant's newest sealed credentials of the anchor's table. True when one was taken. Nothing of a tenant
        whose record is refused is carried out."""
        is_taken = False
        for tenant, record in (await newest_credentials(self._database, node_id)).items():
            if self._presented.get(tenant) == record.header:
                continue
            try:
                await self._enclave.put_anchor_credentials(tenant, record, timeout_s=self._timeout_s)
                is_taken = True
            except AdytumError as error:
                if error.code.retryable:
                    raise
                log.warning("anchor credentials refused: tenant=%s code=%s", tenant, error.code.value)
            self._presented[tenant] = record.header
        return is_taken

    async def _push_policies(self, health: HealthReply) -> None:
        """Those that are newer than what the enclave has; a refused one is not offered again to this boot."""
        for tenant, version, envelope in await newest_policies(self._database):
            if version <= health.policies.get(tenant, 0) or (tenant, version) in self._refused:
                continue
            try:
                await self._enclave.put_policy(tenant, envelope, timeout_s=self._timeout_s)
            except AdytumError as error:
                if error.code.retryable:
                    raise
                self._refused.add((tenant, version))
                log.warning("policy refused: tenant=%s version=%d code=%s", tenant, version, error.code.value)

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("the enclave is not ready: %s", problem)
        self._problem = problem


def _node_with_sealed_access(manifest: bytes | None) -> str:
    """The manifest's node, where its anchor wants sealed credentials; else "". A bad manifest is refused elsewhere."""
    try:
        parsed = parse_manifest(manifest) if manifest is not None else None
    except AdytumError:
        return ""
    if parsed is None or not isinstance(parsed.anchor, DynamoDbAnchor) or parsed.anchor.credentials != "sealed":
        return ""
    return parsed.node_id


def _numbers(health: HealthReply) -> dict[str, int]:
    fixed = {
        "uptime_ms": health.uptime_ms,
        "clock_drift_ms": health.clock_drift_ms,
        "in_flight": health.in_flight,
        "warm_keys": health.warm_keys,
        "receipts": health.receipts,
    }
    return fixed | health.counters
