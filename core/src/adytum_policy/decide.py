"""The decision. One pure function; the enclave enforces it, the host shows it beforehand.

Default deny (P-6), deny wins (P-7), an absent fact meets no condition (P-12). Each rule's outcome goes into the
receipt, so a refusal says which condition of which rule was missed.

    decision = decide(Subject(operation="sign", principal_id="alice", ...), policy, now_ms)
    decision.allowed, decision.code, [(o.rule, o.outcome) for o in decision.rules]
"""

from __future__ import annotations

from msgspec import Struct

from adytum_policy.document import Policy
from adytum_policy.facts import ContentFacts, TokenFacts
from adytum_policy.rules import Subject
from adytum_wire.errors import Code
from adytum_wire.receipts import RuleOutcome

__all__ = ["ContentFacts", "Decision", "Subject", "TokenFacts", "decide"]


class Decision(Struct, frozen=True):
    """`code` is None when allowed. `rules` has one outcome a rule, in the document's order; empty when the policy has
    expired, for then no rule was looked at."""

    allowed: bool
    code: Code | None
    rules: tuple[RuleOutcome, ...]


def decide(subject: Subject, policy: Policy, now_ms: int) -> Decision:
    """Decide about `subject` under `policy` at trusted time `now_ms` (ms since the Unix epoch). Never raises.

    The result's code is POLICY_EXPIRED after `valid_until`, POLICY_DENIED when a deny rule matches or no allow rule
    does.
    """
    if now_ms > policy.valid_until:
        return Decision(False, Code.POLICY_EXPIRED, ())
    allowed = denied = False
    outcomes = []
    for rule in policy.rules:
        outcome = rule.outcome(subject)
        outcomes.append(outcome)
        if outcome is rule.matched:
            if rule.allow:
                allowed = True
            else:
                denied = True
    if allowed and not denied:
        return Decision(True, None, tuple(outcomes))
    return Decision(False, Code.POLICY_DENIED, tuple(outcomes))
