"""Decide as AWS does, and say which statement decided and why each other one did not. An explicit deny wins.

The rule that matters most (KMS Developer Guide, "Key policies"): an IAM policy counts only when the key policy says so,
by allowing the account (`arn:aws:iam::<account>:root`). The default key policy says so, which is how an IAM policy
goes around an attestation condition that stands only in another statement of the key policy.

The stand-in KMS decides with this module too, so there is one evaluator. Left out: grants, SCPs, session policies,
permission boundaries, VPC endpoint policies.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from adytum.kms_policy import conditions
from adytum.kms_policy.conditions import ConditionResult, Context
from adytum.kms_policy.patterns import action_matches, as_strings, like

Verdict = Literal["allow", "none", "deny-key", "deny-identity", "none-identity"]
Named = Literal["direct", "account", "no"]


class Caller(Protocol):
    """Who asks, as far as policies care."""

    @property
    def kind(self) -> Literal["root", "user", "session"]: ...
    @property
    def account(self) -> str: ...
    @property
    def arn(self) -> str: ...
    @property
    def root_arn(self) -> str: ...
    @property
    def identity_policies(self) -> tuple[dict[str, Any], ...]: ...
    def names(self) -> Set[str]:
        """The Principal entries of a policy that mean this caller directly (beside `*`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May `caller` do `action` (`kms:Decrypt`) on `resource` (an ARN, or `*`)? `context` keys are lower case."""

    caller: Caller
    action: str
    resource: str
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementResult:
    """One statement and the request. `policy`: "key", or "identity" with the policy's `number` from 0.

    `named`: how a key policy's statement names the caller: by itself, through its account, or not at all.
    """

    policy: Literal["key", "identity"]
    number: int
    index: int
    sid: str
    effect: Literal["Allow", "Deny"]
    named: Named
    action: bool
    resource: bool
    conditions: tuple[ConditionResult, ...]

    @property
    def matches(self) -> bool:
        return self.named != "no" and self.action and self.resource and all(c.met for c in self.conditions)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not match, one sentence each; of a match, the conditions that were met."""
        if self.matches:
            return tuple(c.sentence for c in self.conditions)
        found = []
        if self.named == "no":
            found.append("it does not name this principal")
        if not self.action:
            found.append("it is not about this action")
        if not self.resource:
            found.append("it is not about this key")
        return (*found, *(c.sentence for c in self.conditions if not c.met))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    verdict: Verdict
    statements: tuple[StatementResult, ...]

    @property
    def allowed(self) -> bool:
        return self.verdict == "allow"

    @property
    def decided_by(self) -> tuple[StatementResult, ...]:
        """The statements that matched and carry the verdict; empty when nothing allowed it."""
        wanted = {"allow": "Allow", "deny-key": "Deny", "deny-identity": "Deny"}.get(self.verdict)
        source = {"deny-key": "key", "deny-identity": "identity"}.get(self.verdict)
        return tuple(
            s for s in self.statements if s.matches and s.effect == wanted and source in (None, s.policy)
        )  # fmt: skip


def decide(question: Question, key_policy: Mapping[str, Any] | None) -> Decision:
    """`key_policy` is None for operations without a key (CreateKey, GenerateRandom), where IAM alone decides.

    Policies are as `document.parse` returns them.
    """
    key = tuple(
        _statement(statement, question, "key", 0, index)
        for index, statement in enumerate(key_policy["Statement"] if key_policy is not None else ())
    )
    identity = tuple(
        _statement(statement, question, "identity", number, index)
        for number, policy in enumerate(question.caller.identity_policies)
        for index, statement in enumerate(policy["Statement"])
    )
    verdict = _verdict(question, key if key_policy is not None else None, identity)
    return Decision(verdict=verdict, statements=(*key, *identity))


def _verdict(
    question: Question, key: tuple[StatementResult, ...] | None, identity: tuple[StatementResult, ...]
) -> Verdict:
    matching = [s for s in key or () if s.matches]
    if any(s.effect == "Deny" for s in matching):
        return "deny-key"
    effects = {s.effect for s in identity if s.matches}
    if "Deny" in effects:
        return "deny-identity"
    identity_allows = "Allow" in effects or question.caller.kind == "root"
    if key is None:
        return "allow" if identity_allows else "none-identity"
    named = {s.named for s in matching}
    if "direct" in named or ("account" in named and identity_allows):
        return "allow"
    return "none-identity" if "account" in named else "none"


def _statement(
    statement: Mapping[str, Any], question: Question, policy: Literal["key", "identity"], number: int, index: int
) -> StatementResult:
    return StatementResult(
        policy=policy,
        number=number,
        index=index,
        sid=str(statement.get("Sid", "")),
        effect=statement["Effect"],
        named=_named(statement["Principal"], question.caller) if policy == "key" else "direct",
        action=_one_of(statement, "Action", question.action),
        resource=_one_of(statement, "Resource", question.resource),
        conditions=tuple(conditions.results(statement.get("Condition", {}), question.context)),
    )


def _one_of(statement: Mapping[str, Any], element: Literal["Action", "Resource"], value: str) -> bool:
    matches = action_matches if element == "Action" else lambda pattern, v: like(v, pattern)
    if element in statement:
        return any(matches(pattern, value) for pattern in as_strings(statement[element]))
    return not any(matches(pattern, value) for pattern in as_strings(statement[f"Not{element}"]))


def _named(principal: Any, caller: Caller) -> Named:
    names = ["*"] if principal == "*" else as_strings(principal.get("AWS", ["-"]))
    if "*" in names or caller.names() & set(names):
        return "direct"
    if caller.root_arn in names or caller.account in names:
        return "direct" if caller.kind == "root" else "account"
    return "no"


def why(verdict: Verdict, action: str) -> str:
    """The end of the sentence that AWS sends with AccessDeniedException."""
    return {
        "deny-key": "with an explicit deny in a resource-based policy",
        "deny-identity": "with an explicit deny in an identity-based policy",
        "none-identity": f"because no identity-based policy allows the {action} action",
    }.get(verdict, f"because no resource-based policy allows the {action} action")
