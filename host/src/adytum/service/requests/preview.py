"""What the enclave would say about a request now, by the same `decide`. A preview: the host's clock, no usage, a record
header that nobody has proven. It is shown to people, and spares the enclave questions whose answer is known.

    found = preview(case, now_ms=now_ms)
    found.decision.wanted, found.summary, found.sending
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adytum.storage.requests import StoredApproval
from adytum_policy.approvals import verify_approval
from adytum_policy.content import Decoded, decode_content
from adytum_policy.decide import Decision, decide
from adytum_policy.document import Policy, find_principal
from adytum_policy.subject import subject_of
from adytum_policy.votes import Vote
from adytum_wire import limits
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header
from adytum_wire.requests import Body, Sign
from adytum_wire.types import Scheme

FUTURE_MS = 60_000  # how far ahead of the host's clock a statement may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as the host has it. `stamp_key`: the public key that stamped it. `header`: of the record that it names,
    as stored."""

    body: Body
    digest: bytes
    stamp_key: bytes
    header: Header | None
    approvals: tuple[StoredApproval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """`decision`: None when the host cannot tell. `outcomes`: one for each stored approval. `sending`: the approvals
    that count, rejections first, as many as the enclave takes."""

    initiator: str
    summary: dict[str, str]
    policy_version: int
    decision: Decision | None
    outcomes: tuple[str, ...]
    sending: tuple[Approval, ...]

    @property
    def is_ripe(self) -> bool:
        """True when the approvals end the waiting, one way or the other, or may."""
        if self.decision is None:
            return bool(self.sending)
        return self.decision.allowed or self.decision.code is Code.APPROVALS_REJECTED

    @property
    def is_stuck_on_approvals(self) -> bool:
        """True when the enclave would say APPROVALS_MISSING once more."""
        return self.decision is not None and self.decision.code is Code.APPROVALS_MISSING


def decoded(body: Body, header: Header | None) -> Decoded | None:
    """The content of a `sign`, or None when there is none or it does not decode."""
    if not isinstance(body, Sign):
        return None
    try:
        public_key = b"" if header is None else bytes.fromhex(header.public_key)
        return decode_content(body.content, body.scheme, public_key, body.path)
    except AdytumError:
        return None


def preview(asked: Asked, policy: Policy | None, *, now_ms: int) -> Preview:
    """Never raises."""
    content = decoded(asked.body, asked.header)
    summary = {} if content is None else content.summary
    initiator = None if policy is None else _principal(policy, asked.stamp_key)
    if policy is None or initiator is None:
        every = tuple(given.approval for given in asked.approvals)[-limits.MAX_APPROVALS :]
        return Preview(
            initiator="",
            summary=summary,
            policy_version=0 if policy is None else policy.version,
            decision=None,
            outcomes=("",) * len(asked.approvals),
            sending=every,
        )
    votes, outcomes = _votes(asked, policy, now_ms)
    subject = subject_of(asked.body, asked.header, content, principal_id=initiator[0], roles=initiator[1])
    decision = decide(subject, policy, now_ms, votes=[vote for vote in votes if vote is not None])
    counted = iter(decision.approvals)
    for at, vote in enumerate(votes):
        if vote is not None:
            outcome = next(counted, None)
            outcomes[at] = "" if outcome is None else outcome.outcome
    rejections = _with(asked.approvals, outcomes, "reject")
    return Preview(
        initiator=initiator[0],
        summary=summary,
        policy_version=policy.version,
        decision=decision,
        outcomes=tuple(outcomes),
        sending=(*rejections, *_with(asked.approvals, outcomes, "approve"))[: limits.MAX_APPROVALS],
    )


def checked(approval: Approval, *, tenant: str, digest: bytes, policy: Policy, now_ms: int) -> Vote:
    """The vote that an approval is. Errors: the APPROVAL_* codes."""
    latest = now_ms + FUTURE_MS
    return verify_approval(approval, tenant=tenant, request_digest=digest, policy=policy, latest_ms=latest).vote


def _votes(asked: Asked, policy: Policy, now_ms: int) -> tuple[list[Vote | None], list[str]]:
    votes: list[Vote | None] = []
    outcomes: list[str] = []
    for given in asked.approvals:
        try:
            vote = checked(given.approval, tenant=asked.body.tenant, digest=asked.digest, policy=policy, now_ms=now_ms)
        except AdytumError as error:
            votes.append(None)
            outcomes.append(error.code.value)
        else:
            votes.append(vote)
            outcomes.append("")
    return votes, outcomes


def _with(approvals: Sequence[StoredApproval], outcomes: Sequence[str], outcome: str) -> tuple[Approval, ...]:
    return tuple(given.approval for given, found in zip(approvals, outcomes, strict=True) if found == outcome)


def _principal(policy: Policy, stamp_key: bytes) -> tuple[str, frozenset[str]] | None:
    for scheme in Scheme:
        found = find_principal(policy, scheme, stamp_key)
        if found is not None:
            return found.id, found.roles
    return None
