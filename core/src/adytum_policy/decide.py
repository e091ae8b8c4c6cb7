"""The decision. One pure function; the enclave enforces it, the host shows it beforehand.

Default deny (P-6), deny wins (P-7), an absent fact meets no condition (P-12). Of the allow rules that match, the first
whose approvals and limits hold decides, and only its limits are charged. Each rule's outcome goes into the receipt, so
a refusal says which condition of which rule was missed.

    decision = decide(Subject(operation="sign", principal_id="alice", ...), policy, now_ms)
    decision.allowed, decision.code, [(o.rule, o.outcome) for o in decision.rules]
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from adytum_policy.document import Policy
from adytum_policy.facts import ContentFacts, TokenFacts
from adytum_policy.rules import Rule, Subject
from adytum_policy.spending import spending_of
from adytum_policy.tally import Tally, tally
from adytum_policy.usage import Charge, NoUsage, Usage, charge_of
from adytum_policy.votes import Vote
from adytum_wire.errors import Code
from adytum_wire.receipts import ApprovalOutcome, RuleOutcome

__all__ = ["ContentFacts", "Decision", "Subject", "TokenFacts", "Wanted", "decide"]

_NO_USAGE = NoUsage()


class Wanted(Struct, frozen=True, kw_only=True):
    """What an allow rule that matches still lacks: `count` people with `role`; `counted` have approved; `missing` are
    those who could."""

    rule: str
    role: str
    count: int
    counted: tuple[str, ...]
    missing: tuple[str, ...]


class Decision(Struct, frozen=True):
    """`code` is None when allowed. `rules` has one outcome a rule, in the document's order; empty when the policy has
    expired, for then no rule was looked at. `rule`: the id of the rule that allowed. `charges`: what its limits are to
    be charged. `approvals`: what became of each vote, in their order. `wanted`: set with APPROVALS_MISSING."""

    allowed: bool
    code: Code | None
    rules: tuple[RuleOutcome, ...]
    rule: str = ""
    charges: tuple[Charge, ...] = ()
    approvals: tuple[ApprovalOutcome, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    waited: bool = False  # the rule that allowed asked for approvals


def decide(
    subject: Subject, policy: Policy, now_ms: int, *, votes: Sequence[Vote] = (), usage: Usage = _NO_USAGE
) -> Decision:
    """Decide about `subject` under `policy` at trusted time `now_ms` (ms since the Unix epoch). Never raises.

    The result's code is POLICY_EXPIRED after `valid_until`; POLICY_DENIED when a deny rule matches or no allow rule
    does; APPROVALS_REJECTED when somebody who may approve said no; APPROVALS_MISSING when approvals would help;
    USAGE_UNKNOWN or LIMIT_EXCEEDED when only limits stand in the way.
    """
    if now_ms > policy.valid_until:
        return Decision(False, Code.POLICY_EXPIRED, ())
    denied = False
    matching: list[tuple[int, Rule]] = []
    outcomes: list[RuleOutcome] = []
    for rule in policy.rules:
        outcome = rule.outcome(subject, now_ms)
        if outcome is rule.matched:
            if rule.allow:
                matching.append((len(outcomes), rule))
            else:
                denied = True
        outcomes.append(outcome)
    if denied or not matching:
        return Decision(False, Code.POLICY_DENIED, tuple(outcomes))
    first = matching[0][1]
    if first.approvals is None and not first.limits and not votes:  # the way of nearly every request
        return Decision(True, None, tuple(outcomes), first.id)
    return _weigh(subject, policy, now_ms, votes, usage, matching, outcomes)


def _weigh(
    subject: Subject,
    policy: Policy,
    now_ms: int,
    votes: Sequence[Vote],
    usage: Usage,
    matching: list[tuple[int, Rule]],
    outcomes: list[RuleOutcome],
) -> Decision:
    counted = tally(subject, policy, now_ms, votes, {r.approvals.role for _, r in matching if r.approvals is not None})
    if counted.rejected:
        for at, rule in matching:
            outcomes[at] = rule.said["approvals"]
        return Decision(False, Code.APPROVALS_REJECTED, tuple(outcomes), approvals=counted.outcomes)
    wanted: list[Wanted] = []
    code = Code.LIMIT_EXCEEDED
    for at, rule in matching:
        if rule.approvals is not None and counted.count(rule.approvals.role) < rule.approvals.count:
            outcomes[at] = rule.said["approvals"]
            wanted.append(_wanted(rule, counted, subject, policy))
            continue
        charges, is_known = _charges(rule, subject, usage)
        if charges is None:
            outcomes[at] = rule.said["limit"]
            if not is_known:
                code = Code.USAGE_UNKNOWN
            continue
        return Decision(
            True,
            None,
            tuple(outcomes),
            rule.id,
            charges,
            counted.outcomes,
            waited=rule.approvals is not None,
        )
    if wanted:
        code = Code.APPROVALS_MISSING
    return Decision(False, code, tuple(outcomes), approvals=counted.outcomes, wanted=tuple(wanted))


def _charges(rule: Rule, subject: Subject, usage: Usage) -> tuple[tuple[Charge, ...] | None, bool]:
    """(what to charge, True), or (None, whether usage was known) when a limit stands in the way."""
    spending = spending_of(subject.facts) if rule.limits else None
    charges = []
    for limit in rule.limits:
        charge = charge_of(limit, spending, key_id=subject.key_id, principal_id=subject.principal_id)
        if charge is None:
            return None, True
        used = usage.used(charge)
        if used is None:
            return None, False
        if used + charge.amount > charge.max:
            return None, True
        charges.append(charge)
    return tuple(charges), True


def _wanted(rule: Rule, counted: Tally, subject: Subject, policy: Policy) -> Wanted:
    role, count = (rule.approvals.role, rule.approvals.count) if rule.approvals is not None else ("", 0)
    have = counted.by_role.get(role, ())
    could = tuple(
        entry.id
        for entry in policy.document.principals
        if role in entry.roles and entry.id not in have and entry.id != subject.principal_id
    )
    return Wanted(rule=rule.id, role=role, count=count, counted=have, missing=could)
