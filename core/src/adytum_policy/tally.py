"""Counting votes: distinct people with the role, the initiator excluded, nothing stale; one rejection is enough."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from adytum_policy.document import Policy
from adytum_policy.rules import Subject
from adytum_policy.votes import Vote
from adytum_wire.receipts import ApprovalOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """`by_role`: who counted for a role, each once. `outcomes`: what became of each vote, in their order."""

    rejected: bool
    by_role: dict[str, tuple[str, ...]]
    outcomes: tuple[ApprovalOutcome, ...]

    def count(self, role: str) -> int:
        return len(self.by_role.get(role, ()))


def tally(subject: Subject, policy: Policy, now_ms: int, votes: Sequence[Vote], roles: Collection[str]) -> Tally:
    """`roles`: those that the matching rules ask. A rejection counts for whoever has one of them, even the initiator,
    and under any policy version: what somebody refused stays refused until its statement expires."""
    rejected = False
    by_role: dict[str, tuple[str, ...]] = {}
    outcomes = []
    for vote in votes:
        mine = set(roles).intersection(vote.roles)
        fresh = {role for role in mine if vote.principal_id not in by_role.get(role, ())}
        outcome = _outcome(vote, subject, policy, now_ms, mine, fresh)
        if outcome == "reject":
            rejected = True
        elif outcome == "approve":
            for role in fresh:
                by_role[role] = (*by_role.get(role, ()), vote.principal_id)
        outcomes.append(ApprovalOutcome(vote.principal_id, vote.digest.hex(), outcome))
    return Tally(rejected=rejected, by_role=by_role, outcomes=tuple(outcomes))


def _outcome(
    vote: Vote,
    subject: Subject,
    policy: Policy,
    now_ms: int,
    mine: Collection[str],
    fresh: Collection[str],
) -> str:
    if now_ms > vote.expires_at:
        return "expired"
    if not mine:
        return "role"
    if vote.decision == "reject":
        return "reject"
    if vote.policy_version != policy.version:
        return "policy-version"
    if vote.principal_id == subject.principal_id:
        return "initiator"
    return "approve" if fresh else "again"
