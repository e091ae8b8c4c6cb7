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
from adytum_wire.receipts import (
    MAX_MISSING,
    MAX_WANTED,
    MAX_WANTED_NAMES,
    ApprovalOutcome,
    RuleOutcome,
    Wanted,
)

__all__ = [
    "Blocked",
    "ContentFacts",
    "Decision",
    "Subject",
    "TokenFacts",
    "Wanted",
    "decide",
    "deny_whatever_content",
]

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
    in their order. `wanted`: set with APPROVALS_MISSING. `blocked`: the limits that refused, when nothing allowed."""

    allowed: bool
    code: Code | None
    rules: tuple[RuleOutcome, ...]
    rule: str = ""
    charges: tuple[Charge, ...] = ()
    approvals: tuple[ApprovalOutcome, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    blocked: tuple[Blocked, ...] = ()


def deny_whatever_content(subject: Subject, policy: Policy, now_ms: int) -> Decision | None:
    """The refusal that `decide` would come to for every content that decodes, or None when it depends on the content.

    `subject` has no facts and no signing paths yet. Never allows. Decoding takes the time of everybody, so who has no
    right to what is asked is told so before it (P-38).
    """
    if now_ms > policy.valid_until:
        return Decision(False, Code.POLICY_EXPIRED, ())
    denied = could = False
    outcomes: list[RuleOutcome] = []
    for rule in policy.rules:
        outcome = rule.outcome_without_content(subject, now_ms)
        if outcome is rule.matched and not rule.allow:
            denied = True
        elif rule.allow and (outcome is rule.matched or outcome is rule.said["content"]):
            could = True
        outcomes.append(outcome)
    return Decision(False, Code.POLICY_DENIED, tuple(outcomes)) if denied or not could else None


def decide(
    subject: Subject,
    policy: Policy,
    now_ms: int,
    *,
    votes: Sequence[Vote] = (),
    usage: Usage = _NO_USAGE,
    waited: bool = False,
) -> Decision:
    """Decide about `subject` under `policy` at trusted time `now_ms` (ms since the Unix epoch). Never raises.

    `waited`: the request is older than one may be that needs no approvals, so rules that ask for none are none (A-16).

    The result's code is POLICY_EXPIRED after `valid_until`; POLICY_DENIED when a deny rule matches or no allow rule
    does; APPROVALS_REJECTED when somebody who may approve said no; APPROVALS_MISSING when approvals would help;
    USAGE_UNKNOWN or LIMIT_EXCEEDED when only limits stand in the way; REQUEST_EXPIRED when nothing does but its age.
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
    if first.approvals is None and not first.limits and not votes and not waited:  # the way of nearly every request
        return Decision(True, None, tuple(outcomes), first.id)
    return _weigh(subject, policy, now_ms, votes, usage, outcomes, waited=waited)


def _weigh(
    subject: Subject,
    policy: Policy,
    now_ms: int,
    votes: Sequence[Vote],
    usage: Usage,
    outcomes: list[RuleOutcome],
    *,
    waited: bool,
) -> Decision:
    """For a subject that some allow rule matches and no deny rule."""
    matching = [(at, rule) for at, rule in enumerate(policy.rules) if outcomes[at] is rule.matched]
    counted = tally(subject, policy, now_ms, votes, {r.approvals.role for _, r in matching if r.approvals is not None})
    if counted.rejected:
        for at, rule in matching:
            outcomes[at] = rule.said["approvals"]
        return Decision(False, Code.APPROVALS_REJECTED, tuple(outcomes), approvals=counted.outcomes)
    waiting: list[Rule] = []
    blocked: list[Blocked] = []
    for at, rule in matching:
        if rule.approvals is None and waited:
            outcomes[at] = rule.said["approvals"]
            continue
        if rule.approvals is not None and counted.count(rule.approvals.role) < rule.approvals.count:
            outcomes[at] = rule.said["approvals"]
            waiting.append(rule)
            continue
        charges, standing = _charges(rule, subject, usage)
        if standing:
            outcomes[at] = rule.said["limit"]
            blocked += standing
            continue
        return Decision(True, None, tuple(outcomes), rule.id, charges, counted.outcomes)
    return Decision(
        False,
        Code.APPROVALS_MISSING if waiting else _refusal(blocked),
        tuple(outcomes),
        approvals=counted.outcomes,
        wanted=_wanted(waiting, counted, subject, policy),
        blocked=tuple(blocked),
    )


def _refusal(blocked: list[Blocked]) -> Code:
    """Why no rule allowed that lacks no approvals."""
    if not blocked:
        return Code.REQUEST_EXPIRED
    unknown = any(one.charge is not None and one.used is None for one in blocked)
    return Code.USAGE_UNKNOWN if unknown else Code.LIMIT_EXCEEDED


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


def _wanted(waiting: Sequence[Rule], counted: Tally, subject: Subject, policy: Policy) -> tuple[Wanted, ...]:
    """What the rules in `waiting` lack, the first of them: a receipt has to carry it, however many rules there are. Who
    counted is never cut, so that how many are still to come is right; a rule for which there is no room ends it."""
    found: list[Wanted] = []
    room = MAX_WANTED_NAMES
    for rule in waiting[:MAX_WANTED]:
        role, count = (rule.approvals.role, rule.approvals.count) if rule.approvals is not None else ("", 0)
        have = counted.by_role.get(role, ())
        if len(have) > room:
            break
        could = [
            entry.id
            for entry in policy.document.principals
            if role in entry.roles
            and (entry.keys or entry.passkeys)
            and entry.id not in have
            and entry.id != subject.principal_id
        ]
        missing = tuple(could[: min(MAX_MISSING, room - len(have))])
        room -= len(have) + len(missing)
        found.append(
            Wanted(
                rule=rule.id, role=role, count=count, counted=have, missing=missing, others=len(could) - len(missing)
            )
        )
    return tuple(found)
