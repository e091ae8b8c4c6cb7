"""Several enclaves behind one service: which one gets a request, and what happens when it is lost on the way.

* A request goes to an enclave that has proven itself and has its policies: one of the promoted release, or, while none
  of those serves, of another accepted release. Enclaves of a retiring release get nothing new.
* Requests for one key go to one enclave (rendezvous hashing), so that its data key is opened once, and so that the
  enclave's memory of request ids sees every repeat. Requests that make a key go by their request id. `import_key` and
  `seal` go to the lead, the enclave whose attestation `GET /v1/attestation` hands out: they are sealed to its key.
* An enclave that cannot be reached is taken out until it has proven itself again. Its request goes to the next one,
  with the same bytes, unless it makes something new and the lost enclave may have carried it out: a second enclave
  would make another key under the same id. Such a request waits for its enclave; only when that one has gone for good
  (a new boot, or half a minute) does a repeat of the client's go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from adytum.enclave.client import NOT_SENT
from adytum.releases.images import FIRST, Images
from adytum.releases.store import Report
from adytum.service.admit import Admitted
from adytum.service.gate import RETRY_S, Gate, Proof
from adytum.service.metrics import Metrics
from adytum.service.ports import Enclave
from adytum.service.supervisor import Supervisor
from adytum.storage.rows import Outcome
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import AttestReply, ExecuteReply, PutPolicyReply, Refusal
from adytum_wire.record import Record
from adytum_wire.requests import AnyStamp, OpenSession, SessionStamp
from adytum_wire.results import OpenSessionResult, parse_result

# Carried out twice, these have no effect that anybody could see: the first stored answer is the answer.
REPEATABLE: Final = frozenset({"sign", "derive_key", "unseal", "rotation_statement"})
# they carry what was sealed to the lead's key
TO_THE_LEAD: Final = frozenset({"import_key", "import_file", "seal", "open_session"})
UNCERTAIN_S: Final = 30.0
_MAX_UNCERTAIN: Final = 10_000
_MAX_SESSIONS: Final = 10_000
_LEAD: Final = "lead"


@dataclass(slots=True, eq=False)
class Member:
    """One enclave with what keeps it fit. `name`: as in the settings."""

    name: str
    enclave: Enclave
    gate: Gate
    supervisor: Supervisor
    in_flight: int = 0

    @property
    def proof(self) -> Proof | None:
        """Of a boot that is proven, has its policies, and whose document clients can fetch; None when it serves
        nothing."""
        proof = self.gate.proof
        if proof is None or not proof.boot_id == self.supervisor.prepared == self.gate.stored:
            return None
        return proof

    @property
    def boot_id(self) -> str:
        """The boot of `proof`, or ""."""
        proof = self.proof
        return "" if proof is None else proof.boot_id


class Pool:
    """`members`: at least one, with different names. Call `expect` when the releases change."""

    def __init__(self, members: Sequence[Member], *, metrics: Metrics) -> None:
        if not members:
            raise ValueError("a pool needs at least one enclave")
        self.members = tuple(members)
        self._metrics = metrics
        self._images = Images.unknown()
        # (tenant, request id) -> who may have carried it out, in which boot, and until when that counts
        self._uncertain: OrderedDict[tuple[str, str], tuple[Member, str, float]] = OrderedDict()
        self._sessions: OrderedDict[bytes, tuple[bytes, str]] = OrderedDict()  # id -> (who opened it, in which boot)

    @property
    def images(self) -> Images:
        return self._images

    def expect(self, images: Images) -> None:
        """From now on these images; proofs that no longer fit end at once."""
        if images != self._images:
            self._images = images
            for member in self.members:
                member.gate.expect(images)

    def serving(self) -> list[Member]:
        """Those that new requests go to, best release first and nothing else."""
        second: list[Member] = []
        first: list[Member] = []
        for member in self.members:
            proof = member.proof
            if proof is None:
                continue
            rank = self._images.rank(proof.verified.document.pcrs)
            if rank is not None:
                (first if rank == FIRST else second).append(member)
        return first or second

    def require(self) -> None:
        """Errors: ATTESTATION_FAILED when no enclave serves."""
        if not self.serving():
            raise AdytumError(Code.ATTESTATION_FAILED, retry_after_ms=int(RETRY_S * 1000))

    async def ready(self) -> None:
        """Wait until an enclave serves."""
        while not self.serving():  # noqa: ASYNC110 (three conditions of two objects each; tests and start-up only)
            await asyncio.sleep(0.01)

    def lead(self) -> Member:
        """The enclave that speaks for all; the first of the list while none serves."""
        return _best(self.serving(), _LEAD) or self.members[0]

    async def attest(self, nonce: bytes, *, timeout_s: float) -> AttestReply:
        """The lead's document. Errors: as the enclave's."""
        return await self.lead().enclave.attest(nonce, timeout_s=timeout_s)

    async def put_policy(self, tenant: str, envelope: bytes, *, timeout_s: float) -> PutPolicyReply:
        """The lead decides; the others get what it took at once, or serve nothing until they have it.

        Errors: the lead's. Then no other was asked.
        """
        lead = self.lead()
        reply = await lead.enclave.put_policy(tenant, envelope, timeout_s=timeout_s)

        async def pass_on(member: Member) -> None:
            try:
                await member.enclave.put_policy(tenant, envelope, timeout_s=timeout_s)
            except AdytumError:
                member.supervisor.unprepare()

        await asyncio.gather(*(pass_on(member) for member in self.members if member is not lead))
        return reply

    def reports(self) -> list[Report]:
        """How each enclave is, for the status of releases."""
        serving = self.serving()
        return [self._report(member, member in serving) for member in self.members]

    def _report(self, member: Member, serves: bool) -> Report:
        proof = member.proof
        if proof is None:
            reason = member.gate.reason or member.supervisor.problem or "PREPARING"
            return Report(
                enclave=member.name, boot_id="", release="", state="unproven", reason=reason, in_flight=member.in_flight
            )
        document = proof.verified.document
        release = self._images.release_of(document.pcrs)
        return Report(
            enclave=member.name,
            boot_id=proof.boot_id,
            release="" if release is None else release.name,
            state="serving" if serves else "proven",
            in_flight=member.in_flight,
            certificate_until=document.valid_until_ms,
        )

    # --- requests

    def route(self, admitted: Admitted) -> Route:
        """The way of one request; good for several attempts at it."""
        return Route(self, admitted)

    def choose(self, key: str, *, but: Sequence[Member] = ()) -> Member | None:
        """The enclave for `key` among those that serve and are not in `but`."""
        return _best([member for member in self.serving() if member not in but], key)

    def note_uncertain(self, identity: tuple[str, str], member: Member, boot_id: str) -> None:
        """`member` may have carried the request out, and its answer was lost."""
        until = asyncio.get_running_loop().time() + UNCERTAIN_S
        self._uncertain[identity] = (member, boot_id, until)
        if len(self._uncertain) > _MAX_UNCERTAIN:
            self._uncertain.popitem(last=False)

    def bound_to(self, identity: tuple[str, str]) -> Member | None:
        """The enclave that alone may answer this request, None when any may.

        Errors: PEER_UNAVAILABLE while that one is away.
        """
        entry = self._uncertain.get(identity)
        if entry is None:
            return None
        member, boot_id, until = entry
        if member.boot_id == boot_id:
            return member
        if member.boot_id or asyncio.get_running_loop().time() >= until:  # another boot: what it knew is gone
            del self._uncertain[identity]
            return None
        raise AdytumError(Code.PEER_UNAVAILABLE, retry_after_ms=int(RETRY_S * 1000))

    def note_session(self, session_id: bytes, stamp_key: bytes, boot_id: str) -> None:
        """`stamp_key` opened a session in this boot, which alone can check its stamps."""
        self._sessions[session_id] = (stamp_key, boot_id)
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def opener(self, stamp: SessionStamp) -> bytes:
        """The stamp key that opened the session. Errors: SESSION_UNKNOWN, also when its boot is over: open another."""
        stamp_key, boot_id = self._sessions.get(stamp.session_id, (b"", ""))
        if not any(member.boot_id == boot_id for member in self.members if boot_id):
            raise AdytumError(Code.SESSION_UNKNOWN)
        return stamp_key

    def member_of(self, stamp: AnyStamp) -> Member | None:
        """The enclave that holds the session of a session's stamp."""
        if not isinstance(stamp, SessionStamp):
            return None
        _, boot_id = self._sessions.get(stamp.session_id, (b"", ""))
        return next((member for member in self.members if boot_id and member.boot_id == boot_id), None)

    def moved(self) -> None:
        self._metrics.moved()


class Route:
    """Carries one request to an enclave, and to the next when that is right. Knows afterwards who answered."""

    def __init__(self, pool: Pool, admitted: Admitted) -> None:
        self._pool = pool
        self._identity = (admitted.body.tenant, admitted.body.request_id)
        self._key = _LEAD if admitted.operation in TO_THE_LEAD else admitted.key_id or "/".join(self._identity)
        self._repeatable = admitted.operation in REPEATABLE
        self._opens_session = isinstance(admitted.body, OpenSession)
        self._stamp_key = admitted.stamp_key
        self._answered: Member | None = None
        self._proven = ""  # the boot that was proven when the answering enclave was asked

    async def execute(
        self,
        body: bytes,
        stamp: AnyStamp,
        record: Record | None = None,
        approvals: tuple[Approval, ...] = (),
        *,
        timeout_s: float | None = None,
    ) -> ExecuteReply | Refusal:
        """As an enclave's. Errors: ATTESTATION_FAILED when none serves; else those of the last one that was asked."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        failure: AdytumError | Refusal = AdytumError(Code.ATTESTATION_FAILED, retry_after_ms=int(RETRY_S * 1000))
        asked: list[Member] = []
        member = self._pool.bound_to(self._identity) or self._pool.member_of(stamp) or self._pool.choose(self._key)
        while member is not None:
            left = None if deadline is None else deadline - loop.time()
            if asked:
                self._pool.moved()
            asked.append(member)
            self._proven = member.boot_id
            outcome = await self._ask(member, body, stamp, record, approvals, left)
            if isinstance(outcome, ExecuteReply) or not _may_move(outcome):
                self._answered = member
                self._note_session(outcome)
                return _raised(outcome)
            failure = outcome
            member.gate.close(str(Code.PEER_UNAVAILABLE))
            if not self._nothing_done(outcome):
                break
            member = self._pool.choose(self._key, but=asked)
        return _raised(failure)

    async def _ask(
        self,
        member: Member,
        body: bytes,
        stamp: AnyStamp,
        record: Record | None,
        approvals: tuple[Approval, ...],
        timeout_s: float | None,
    ) -> ExecuteReply | Refusal | AdytumError:
        boot_id = member.boot_id
        member.in_flight += 1
        try:
            return await member.enclave.execute(body, stamp, record, approvals, timeout_s=timeout_s)
        except AdytumError as error:
            lost = error.code is Code.PEER_UNAVAILABLE and error.field != NOT_SENT
            if not self._repeatable and (lost or error.code is Code.DEADLINE_EXCEEDED):
                self._pool.note_uncertain(self._identity, member, boot_id)
            return error
        finally:
            member.in_flight -= 1

    def _note_session(self, outcome: ExecuteReply | Refusal | AdytumError) -> None:
        if self._opens_session and isinstance(outcome, ExecuteReply):
            result = parse_result(outcome.result)
            if isinstance(result, OpenSessionResult):
                self._pool.note_session(bytes.fromhex(result.session_id), self._stamp_key, self._proven)

    def _nothing_done(self, outcome: AdytumError | Refusal) -> bool:
        """True when another enclave may be asked without a second effect."""
        return self._repeatable or isinstance(outcome, Refusal) or outcome.field == NOT_SENT

    def require_boot(self, outcome: Outcome) -> None:
        """Before a charged answer is written: the boot that gave it must not be over. The next one was given what its
        predecessor had used, without this. Errors: PEER_UNAVAILABLE; nobody hears of the answer, a repeat is carried
        out anew."""
        if outcome.usage is None or self._answered is None:
            return
        if self._answered.supervisor.met not in ("", outcome.usage.chain):
            raise AdytumError(Code.PEER_UNAVAILABLE, retry_after_ms=int(RETRY_S * 1000))

    async def confirm(self, chain: str) -> None:
        """The receipt must be of the boot that was proven when the enclave was asked (it may have died since), or of
        one that proves itself now. Errors: ATTESTATION_FAILED; the receipt is durable by then, so a repeat of the
        request yields the same bytes."""
        if self._answered is None:
            raise AdytumError(Code.ATTESTATION_FAILED)
        if not chain or chain != self._proven:
            await self._answered.gate.confirm(chain)


def _may_move(outcome: AdytumError | Refusal) -> bool:
    """True when the enclave was lost, or has restarted and waits for its manifest: it decided nothing."""
    if isinstance(outcome, Refusal):
        return outcome.code == Code.PHASE_INVALID.value and not outcome.receipt
    return outcome.code is Code.PEER_UNAVAILABLE


def _raised(outcome: ExecuteReply | Refusal | AdytumError) -> ExecuteReply | Refusal:
    if isinstance(outcome, AdytumError):
        raise outcome
    return outcome


def _best(members: Sequence[Member], key: str) -> Member | None:
    """Rendezvous hashing: taking one member away moves the keys of that member and no others."""
    if len(members) < 2:
        return members[0] if members else None
    return max(members, key=lambda member: blake2b(f"{member.name}/{key}".encode(), digest_size=8).digest())
