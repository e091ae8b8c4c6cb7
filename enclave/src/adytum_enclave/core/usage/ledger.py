"""The ledger of one enclave shard: how much of each limit is used, and how that is known after a start (spec/usage.md).

A request asks `view` for the decision, `reserve`s what it is charged, does its work, and `commit`s before anything of
it leaves; when it came to nothing it `give_back`s. What a commit needs besides memory depends on the manifest's anchor:

    none       nothing: the charge is lost with the enclave, which starts closed
    host       a sealed snapshot in the answer, which the host stores with the receipt
    dynamodb   the sealed snapshot is in the table, written on condition that nobody wrote since

After a start each window counts as full until what was used before is known, or can be nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from adytum_enclave.core.effects import Anchored, ReadAnchor, Together, WriteAnchor
from adytum_enclave.core.entropy import Fill
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.usage.book import Book, Hold
from adytum_enclave.core.usage.snapshots import Sealer, require_ours
from adytum_enclave.core.usage.state import UsageState, add_state, export_state, parse_state
from adytum_policy.document import SignedPolicy
from adytum_policy.usage import Charge
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import DynamoDbAnchor, HostAnchor, Manifest
from adytum_wire.usage import parse_snapshot

ATTEMPTS: Final = 8  # to write the anchor when others write it, too

Steps = Generator[Any, Any, Any]
Head = tuple[str, int, bytes]  # chain, sequence, link

__all__ = ["Hold", "Ledger", "Surroundings", "View"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a ledger uses of its enclave. `policies`: in force, by tenant; one that the anchor knows a newer version of
    is taken out. `head`: of the receipt chain."""

    boot_id: str
    started_ms: int
    now_ms: Callable[[], int]
    fill: Fill
    arena: Arena
    recipient: RecipientKey
    policies: dict[str, SignedPolicy]
    head: Callable[[], Head]


class _Tenant:
    """`is_known`: what was used before this boot is in the book. `version`: the highest seen. `expected`: what the
    anchor holds, None for no item. `policy`: the highest seen, (0, b"") for none. `tolerated`: the one version that a
    reset lets be overwritten although it lacks what is in the book, 0 for no item, None for no such thing.
    `is_spent`: this boot's reset of everything has done what it may."""

    __slots__ = (
        "book",
        "expected",
        "forgiven",
        "id",
        "is_known",
        "is_spent",
        "policy",
        "posted",
        "tolerated",
        "version",
        "waiting",
        "wanted",
    )

    def __init__(self, tenant: str) -> None:
        self.id = tenant
        self.book = Book()
        self.is_known = False
        self.forgiven: set[str] | Literal["*"] = set()
        self.is_spent = False
        self.tolerated: int | None = None
        self.version = 0
        self.expected: int | None = None
        self.policy = (0, b"")
        self.wanted: list[tuple[int, bytes]] = []  # policies that wait to be admitted
        self.posted = False  # this boot charged something since the last snapshot was taken in
        self.waiting: list[Hold] = []


class View:
    """A `Usage` for one request. `missed`: the decision asked for something that is not known."""

    __slots__ = ("_digest", "_is_known", "_now_ms", "_tenant", "missed")

    def __init__(self, tenant: _Tenant, digest: bytes, now_ms: int, is_known: Callable[[Charge], bool]) -> None:
        self._tenant = tenant
        self._digest = digest
        self._now_ms = now_ms
        self._is_known = is_known
        self.missed = False

    def used(self, charge: Charge) -> int | None:
        if not self._is_known(charge):
            self.missed = True
            return None
        return self._tenant.book.used(charge, self._digest, self._now_ms)


class Ledger:
    """Nothing can be charged before `configure`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._manifest: Manifest | None = None
        self._tenants: dict[str, _Tenant] = {}
        self._sealers: dict[str, Sealer] = {}

    def configure(self, manifest: Manifest) -> None:
        """Once, with the manifest that was measured."""
        around = self._around
        self._manifest = manifest
        for tenant in manifest.tenants:
            self._tenants[tenant.id] = _Tenant(tenant.id)
            self._sealers[tenant.id] = Sealer(
                deployment=manifest.deployment,
                tenant=tenant.id,
                boot_id=around.boot_id,
                kms_key=tenant.kms_key,
                keys=frozenset(manifest.kms.keys),
                fill=around.fill,
                arena=around.arena,
                recipient=around.recipient,
            )

    # --- what a request does

    def view(self, tenant: str, digest: bytes, now_ms: int) -> View:
        """What is used now, reservations included, as the request of `digest` (32 bytes) sees it: without what it was
        charged itself."""
        found = self._tenant(tenant)
        return View(found, digest, now_ms, partial(self._is_known, found, now_ms))

    def learn(self, tenant: str) -> Generator[Any, Any, bool]:
        """Ask the anchor what was used, where there is one to ask. True when more may be known now.
        Errors: ANCHOR_UNAVAILABLE, USAGE_INVALID, USAGE_ROLLBACK, what KMS answers."""
        found = self._tenant(tenant)
        if found.is_known or not isinstance(self._anchor, DynamoDbAnchor):
            return False
        yield self._settling(found)
        return True

    def reserve(self, tenant: str, charges: Sequence[Charge], digest: bytes, now_ms: int) -> Hold | None:
        """Hold `charges` for the request of `digest` until `commit` or `give_back`. None without charges.
        Errors: LIMIT_EXCEEDED, RESOURCE_EXHAUSTED; nothing is held."""
        if not charges:
            return None
        found = self._tenant(tenant)
        hold = found.book.reserve(charges, digest, now_ms)
        hold.owner = found
        return hold

    def commit(self, hold: Hold | None) -> Generator[Any, Any, bytes]:
        """Make the charge last, before anything of the request leaves. Returns the snapshot that the host must store
        with the answer, or b"".

        Errors: LIMIT_EXCEEDED (others used it up meanwhile), ANCHOR_UNAVAILABLE, USAGE_ROLLBACK, what KMS answers. The
        caller gives the hold back then. When it is not known whether the anchor took the charge, the next request reads
        it, and the same request sent again is not charged twice.
        """
        if hold is None:
            return b""
        tenant: _Tenant = hold.owner
        if isinstance(self._anchor, DynamoDbAnchor):
            tenant.waiting.append(hold)
            try:
                yield self._settling(tenant)
            finally:
                if hold in tenant.waiting:
                    tenant.waiting.remove(hold)
            if hold.refusal is not None:
                raise hold.refusal
            if not hold.is_settled:  # a posted one may be in a write that is still under way
                raise AdytumError(Code.ANCHOR_UNAVAILABLE)
            return b""
        if not isinstance(self._anchor, HostAnchor):
            tenant.book.post(hold, self._around.now_ms())
            return b""
        sealer = self._sealers[tenant.id]
        if not sealer.is_ready:
            yield Together(key="usage-key/" + tenant.id, steps=sealer.fetch_key)
        tenant.book.post(hold, self._around.now_ms())
        try:
            version, sealed = self._seal(tenant, tenant.policy)
        except BaseException:
            tenant.book.unpost(hold)
            raise
        tenant.version = version
        tenant.posted = True
        return sealed

    def give_back(self, hold: Hold | None) -> None:
        """The request came to nothing. A second call, or one after `commit`, does nothing."""
        if hold is not None:
            hold.owner.book.release(hold)

    # --- what the control port does

    def admit_policy(self, tenant: str, version: int, digest: bytes) -> Steps:
        """Before a policy is put in force. Errors: POLICY_ROLLBACK when a newer one was seen, also before this boot;
        as `learn`."""
        found = self._tenant(tenant)
        yield from self.learn(tenant)
        if _is_older((version, digest), found.policy):
            raise AdytumError(Code.POLICY_ROLLBACK, "$.version")
        if version == found.policy[0]:
            return
        if not isinstance(self._anchor, DynamoDbAnchor):
            found.policy = version, digest
            return
        found.wanted.append((version, digest))
        try:
            yield self._settling(found)
        finally:
            found.wanted.remove((version, digest))
        if found.policy != (version, digest):
            raise AdytumError(Code.POLICY_ROLLBACK, "$.version")

    def put_usage(self, tenant: str, snapshot: bytes) -> Steps:
        """Take the snapshot that the host kept. Errors: USAGE_INVALID (also without an anchor of kind `host`),
        USAGE_ROLLBACK, what KMS answers. Nothing has changed then."""
        found = self._tenant(tenant)
        if not isinstance(self._anchor, HostAnchor):
            raise AdytumError(Code.USAGE_INVALID, "$ (the manifest's anchor is not the host)")
        _, header = parse_snapshot(snapshot)
        require_ours(header, self._sealers[tenant])
        if header.version <= found.version:
            raise AdytumError(Code.USAGE_ROLLBACK, "$.version")
        state = parse_state((yield from self._sealers[tenant].open(snapshot)))
        if header.version <= found.version:  # while KMS worked
            raise AdytumError(Code.USAGE_ROLLBACK, "$.version")
        if not found.posted:
            found.book.forget_charges()
        # Else this boot has charged what the snapshot may or may not contain: counted twice is the strict side.
        self._take_in(found, state, header.version)

    def reset(self, tenant: str, ids: Sequence[str] | Literal["*"]) -> None:
        """The admin quorum says that what was used before this boot counts as nothing, for these limits or all. What
        this boot charged, or learned, stays. Errors: USAGE_INVALID for a second "*" after the first was used up: the
        host could send what the admins signed for one mishap after each that it makes. Nothing has changed then."""
        found = self._tenant(tenant)
        if ids == "*":
            if found.is_spent:
                raise AdytumError(Code.USAGE_INVALID, "$.boot_id (used up)")
            found.forgiven = "*"
        elif found.forgiven != "*":
            found.forgiven |= set(ids)

    def describe(self, tenant: str) -> tuple[int, bool, list[tuple[tuple[str, str], int, int, int]]]:
        """(snapshot version, is what was used before this boot known, entries as `Book.entries`)."""
        found = self._tenant(tenant)
        return found.version, found.is_known, found.book.entries(self._around.now_ms())

    def wipe(self) -> None:
        """Wipe every data key."""
        for sealer in self._sealers.values():
            sealer.wipe()

    # --- inside

    @property
    def _anchor(self) -> object:
        if self._manifest is None:
            raise AdytumError(Code.PHASE_INVALID)
        return self._manifest.anchor

    def _tenant(self, tenant: str) -> _Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
        return found

    def _is_known(self, tenant: _Tenant, now_ms: int, charge: Charge) -> bool:
        if tenant.is_known:
            return True
        if isinstance(self._anchor, DynamoDbAnchor):
            return False  # others may have charged since this boot began
        if tenant.forgiven == "*" or charge.limit in tenant.forgiven:
            return True
        return tenant.book.now(now_ms) - self._around.started_ms >= charge.window_ms  # nothing older is inside any more

    def _settling(self, tenant: _Tenant) -> Together:
        return Together(key="usage/" + tenant.id, steps=partial(self._settle, tenant))

    def _settle(self, tenant: _Tenant) -> Steps:
        """Write what waits into the anchor, all at once. One run at a time for a tenant (`Together`)."""
        sealer = self._sealers[tenant.id]
        posted: list[Hold] = []
        for _ in range(ATTEMPTS):
            if not tenant.is_known:
                yield from self._read(tenant)
            holds, tenant.waiting = tenant.waiting, []
            posted = self._post(tenant, holds)
            policy = max((tenant.policy, *tenant.wanted), key=_version)  # the first of a version: never its twin
            if policy == tenant.policy and not any(hold.posted for hold in posted):
                _mark_settled(posted)  # each was charged before, in what the anchor holds
                return
            try:
                if not sealer.is_ready:
                    yield from sealer.fetch_key()
                version, sealed = self._seal(tenant, policy)
                is_written = yield WriteAnchor(
                    tenant=tenant.id, expected=tenant.expected, anchored=Anchored(version=version, snapshot=sealed)
                )
            except BaseException:
                self._unpost(tenant, posted)
                tenant.is_known = False  # whether it was written is not known: read before the next decision
                raise
            if is_written is True:
                tenant.expected = tenant.version = version
                tenant.policy = policy
                tenant.tolerated = None
                _mark_settled(posted)
                self._end_reset(tenant)
                return
            self._unpost(tenant, posted)
            tenant.waiting = [hold for hold in posted if hold.is_open] + tenant.waiting
            tenant.is_known = False  # another enclave wrote
        tenant.waiting = [hold for hold in tenant.waiting if hold not in posted]  # the others wait for the next run
        raise AdytumError(Code.ANCHOR_UNAVAILABLE, "contention")

    def _post(self, tenant: _Tenant, holds: Sequence[Hold]) -> list[Hold]:
        """Charge the holds that still fit beside what others wrote meanwhile; refuse the rest."""
        now_ms = self._around.now_ms()
        posted = []
        for hold in holds:
            if not hold.is_open:
                continue
            if not tenant.book.fits(hold, now_ms):
                hold.refusal = AdytumError(Code.LIMIT_EXCEEDED)
                tenant.book.release(hold)
                continue
            tenant.book.post(hold, now_ms)
            posted.append(hold)
        return posted

    def _unpost(self, tenant: _Tenant, posted: Sequence[Hold]) -> None:
        for hold in reversed(posted):
            tenant.book.unpost(hold)

    def _read(self, tenant: _Tenant) -> Steps:
        """Take in what the anchor holds. The anchor never goes back within a boot, but for what one reset forgives."""
        found = yield ReadAnchor(tenant=tenant.id)
        version = 0 if found is None else found.version
        if version < tenant.version:
            if version != tenant.tolerated:
                if tenant.forgiven != "*":
                    raise AdytumError(Code.USAGE_ROLLBACK, "$ (the item is gone)" if found is None else "$.version")
                tenant.tolerated = version
        elif version > tenant.version and found is not None:
            try:
                state = yield from self._open(tenant, found)
            except AdytumError as error:
                if error.code is not Code.USAGE_INVALID or tenant.forgiven != "*":
                    raise
                tenant.version = tenant.tolerated = version
            else:
                if tenant.tolerated is None:
                    tenant.book.forget_charges()
                # Else others began with less than this boot knows: counted twice is the strict side.
                self._take_in(tenant, state, version)
        tenant.expected = None if found is None else version
        tenant.is_known = True
        self._end_reset(tenant)

    def _open(self, tenant: _Tenant, found: Anchored) -> Generator[Any, Any, UsageState]:
        _, header = parse_snapshot(found.snapshot)
        require_ours(header, self._sealers[tenant.id])
        if header.version != found.version:
            raise AdytumError(Code.USAGE_INVALID, "$.version")
        return parse_state((yield from self._sealers[tenant.id].open(found.snapshot)))

    def _end_reset(self, tenant: _Tenant) -> None:
        """The anchor was read or written: from here on it may not go back again."""
        if tenant.forgiven == "*":
            tenant.forgiven, tenant.is_spent = set(), True

    def _take_in(self, tenant: _Tenant, state: UsageState, version: int) -> None:
        add_state(tenant.book, state)
        tenant.version, tenant.is_known = version, True
        seen = (state.policy_version, state.policy_digest)
        if seen[0] > tenant.policy[0]:
            tenant.policy = seen
        held = self._around.policies.get(tenant.id)
        if held is not None and _is_older((held.policy.version, held.digest), tenant.policy):
            del self._around.policies[tenant.id]

    def _seal(self, tenant: _Tenant, policy: tuple[int, bytes]) -> tuple[int, bytes]:
        """(version, sealed snapshot). Versions are times where they can be, so that they rise over boots that know
        nothing of each other."""
        now_ms = self._around.now_ms()
        version = max(tenant.version + 1, (tenant.expected or 0) + 1, now_ms)
        plaintext = export_state(tenant.book, now_ms, policy=policy, head=self._around.head())
        return version, self._sealers[tenant.id].seal(version, plaintext, now_ms)


def _mark_settled(holds: Sequence[Hold]) -> None:
    for hold in holds:
        hold.is_settled = True


def _version(policy: tuple[int, bytes]) -> int:
    return policy[0]


def _is_older(policy: tuple[int, bytes], seen: tuple[int, bytes]) -> bool:
    """An older version, or another document of the same one."""
    return policy[0] < seen[0] or (policy[0] == seen[0] and policy[1] != seen[1])
