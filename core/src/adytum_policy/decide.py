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
from adytum_wire.receipts import MAX_MISSING, ApprovalOutcome, RuleOutcome, Wanted

__all__ = ["Blocked", "ContentFacts", "Decision", "Subject", "TokenFacts", "Wanted", "decide"]

_NO_USAGE = NoUsage()


class Blocked(Struct, frozen=True, kw_only=True):
    """A limit that stands in the way of `rule`. `charge` is None when the amount cannot be known (or the limit counts
    per key and there is no key yet); `used` is None when the enclave does not know what was used."""

    rule: str
    limit: str
    charge: Charge | None
    used: int | None


class Decision(Struct, frozen=True):
    """`code` is None when allowed. `rules` has one outcome a rule, in the document's order; empty when the policy has
    expired, for then no rule was looked at. `rule`: the id of the rule that allowed; a later one that says "allow"
    matched too and was not needed. `charges`: what its limits are to be charged. `approvals`: what became of each vote,
    in their order. `wanted`: set with APPROVALS_MISSING. `waited`: the approvals that some matching rule asks for are
    there, so the request may be as old as approvals take. `blocked`: the limits that refused, when nothing allowed."""

    allowed: bool
    code: Code | None
    rules: tuple[RuleOutcome, ...]
    rule: str = ""
    charges: tuple[Charge, ...] = ()
    approvals: tuple[ApprovalOutcome, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    waited: bool = False
    blocked: tuple[Blocked, ...] = ()


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
    first: Rule | None = None
    outcomes: list[RuleOutcome] = []
    for rule in policy.rules:
        outcome = rule.outcome(subject, now_ms)
        if outcome is rule.matched:
            if not rule.allow:
                denied = True
            elif first is None:
                first = rule
        outcomes.append(outcome)
    if denied or first is None:
        return Decision(False, Code.POLICY_DENIED, tuple(outcomes))
    if first.approvals is None and not first.limits and not votes:  # the way of nearly every request
        return Decision(True, None, tuple(outcomes), first.id)
    return _weigh(subject, policy, now_ms, votes, usage, outcomes)


def _weigh(
    subject: Subject,
    policy: Policy,
    now_ms: int,
    votes: Sequence[Vote],
    usage: Usage,
    outcomes: list[RuleOutcome],
) -> Decision:
    """For a subject that some allow rule matches and no deny rule."""
    matching = [(at, rule) for at, rule in enumerate(policy.rules) if outcomes[at] is rule.matched]
    counted = tally(subject, policy, now_ms, votes, {r.approvals.role for _, r in matching if r.approvals is not None})
    if counted.rejected:
        for at, rule in matching:
            outcomes[at] = rule.said["approvals"]
        return Decision(False, Code.APPROVALS_REJECTED, tuple(outcomes), approvals=counted.outcomes)
    wanted: list[Wanted] = []
    blocked: list[Blocked] = []
    for at, rule in matching:
        if rule.approvals is not None and counted.count(rule.approvals.role) < rule.approvals.count:
            outcomes[at] = rule.said["approvals"]
            wanted.append(_wanted(rule, counted, subject, policy))
            continue
        charges, standing = _charges(rule, subject, usage)
        if standing:
            outcomes[at] = rule.said["limit"]
            blocked += standing
            continue
        waited = any(
            r.approvals is not None and counted.count(r.approvals.role) >= r.approvals.count for _, r in matching
        )
        return Decision(True, None, tuple(outcomes), rule.id, charges, counted.outcomes, waited=waited)
    code = Code.USAGE_UNKNOWN if any(b.charge is not None and b.used is None for b in blocked) else Code.LIMIT_EXCEEDED
    return Decision(
        False,
        Code.APPROVALS_MISSING if wanted else code,
        tuple(outcomes),
        approvals=counted.outcomes,
        wanted=tuple(wanted),
        blocked=tuple(blocked),
    )


def _charges(rule: Rule, subject: Subject, usage: Usage) -> tuple[tuple[Charge, ...], list[Blocked]]:
    """(what to charge, what stands in the way): all of a rule's limits are charged or none is."""
    if not rule.limits:
        return (), []
    spending = spending_of(subject.facts)
    charges: list[Charge] = []
    blocked: list[Blocked] = []
    for limit in rule.limits:
        charge = charge_of(limit, spending, key_id=subject.key_id, principal_id=subject.principal_id)
        used = None if charge is None else usage.used(charge)
        if charge is None or used is None or used + charge.amount > charge.max:
            blocked.append(Blocked(rule=rule.id, limit=limit.id, charge=charge, used=used))
        else:
            charges.append(charge)
    return tuple(charges), blocked


def _wanted(rule: Rule, counted: Tally, subject: Subject, policy: Policy) -> Wanted:
    role, count = (rule.approvals.role, rule.approvals.count) if rule.approvals is not None else ("", 0)
    have = counted.by_role.get(role, ())
    could = tuple(
        entry.id
        for entry in policy.document.principals
        if role in entry.roles
        and (entry.keys or entry.passkeys)
        and entry.id not in have
        and entry.id != subject.principal_id
    )
    return Wanted(rule=rule.id, role=role, count=count, counted=have, missing=could[:MAX_MISSING])
