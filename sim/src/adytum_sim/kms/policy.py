"""Key policies and IAM policies: read strictly, then decided as AWS does. An explicit deny wins.

The rule that matters most (KMS Developer Guide, "Key policies"): an IAM policy counts only when the key policy says so,
by allowing the account (`arn:aws:iam::<account>:root`). The default key policy says so, which is how an IAM policy
goes around an attestation condition that stands only in another statement of the key policy.

Left out, and refused by name: NotPrincipal, federated principals, policy variables, grants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from adytum_sim.kms import conditions
from adytum_sim.kms.caller import Caller
from adytum_sim.kms.conditions import Context, as_strings, glob, malformed

MAX_KEY_POLICY: Final = 32 * 1024  # characters
_ACCOUNT = re.compile(r"[0-9]{12}")
_PRINCIPAL = re.compile(
    r"arn:aws[a-z-]*:(iam::[0-9]{12}:(root|user/[\w+=,.@/-]+|role/[\w+=,.@/-]+)"
    r"|sts::[0-9]{12}:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+)"
)
_ELEMENTS: Final = {
    "Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip

Verdict = Literal["allow", "none", "deny-key", "deny-identity", "none-identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May `caller` do `action` (`kms:Decrypt`) on `resource` (an ARN, or `*`)? `context` keys are lower case."""

    caller: Caller
    action: str
    resource: str
    context: Context


def parse(text: str, *, kind: Literal["key", "identity"]) -> dict[str, Any]:
    """Read a policy. Errors: MalformedPolicyDocumentException with a sentence that names what is wrong."""
    if len(text) > MAX_KEY_POLICY:
        raise malformed("The policy is too long.")
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        raise malformed("The policy is not JSON.") from None
    if not isinstance(policy, dict) or not set(policy) <= {"Version", "Id", "Statement"}:
        raise malformed("A policy has Version, Id and Statement and nothing else.")
    if policy.get("Version", "2008-10-17") not in ("2008-10-17", "2012-10-17"):
        raise malformed("The policy's Version is unknown.")
    statements = policy.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not statements:
        raise malformed("The policy has no statements.")
    for statement in statements:
        _check(statement, kind)
    return {**policy, "Statement": statements}


def _check(statement: Any, kind: str) -> None:
    if not isinstance(statement, dict):
        raise malformed("A statement is not an object.")
    strange = set(statement) - _ELEMENTS
    if strange:
        raise malformed(f"The stand-in KMS does not know the statement element {min(strange)}.")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise malformed("A statement's Effect is neither Allow nor Deny.")
    for plain, negated in (("Action", "NotAction"), ("Resource", "NotResource")):
        if (plain in statement) == (negated in statement):
            raise malformed(f"A statement needs {plain} or {negated}, and not both.")
        as_strings(statement.get(plain, statement.get(negated)))
    for action in as_strings(statement.get("Action", statement.get("NotAction"))):
        if action != "*" and ":" not in action:
            raise malformed("An action is <service>:<operation>.")
    if (kind == "key") != ("Principal" in statement):
        raise malformed("A key policy's statements name a Principal, an identity policy's do not.")
    if kind == "key":
        _check_principal(statement["Principal"])
    if "Condition" in statement:
        conditions.check(statement["Condition"])


def _check_principal(principal: Any) -> None:
    if principal == "*":
        return
    if not isinstance(principal, dict) or not principal:
        raise malformed("Policy contains a statement with one or more invalid principals.")
    for kind, names in principal.items():
        if kind == "Service":
            as_strings(names)
        elif kind == "AWS":
            if not all(n == "*" or _ACCOUNT.fullmatch(n) or _PRINCIPAL.fullmatch(n) for n in as_strings(names)):
                raise malformed("Policy contains a statement with one or more invalid principals.")
        else:
            raise malformed(f"The stand-in KMS does not support principals of the kind {kind}.")


def _matches(statement: Mapping[str, Any], question: Question) -> bool:
    """Action, resource and condition; not the principal."""
    if "Action" in statement:
        action = any(glob(a, ignore_case=True).fullmatch(question.action) for a in as_strings(statement["Action"]))
    else:
        action = not any(
            glob(a, ignore_case=True).fullmatch(question.action) for a in as_strings(statement["NotAction"])
        )
    if "Resource" in statement:
        resource = any(glob(r).fullmatch(question.resource) for r in as_strings(statement["Resource"]))
    else:
        resource = not any(glob(r).fullmatch(question.resource) for r in as_strings(statement["NotResource"]))
    return action and resource and conditions.holds(statement.get("Condition", {}), question.context)


def _principal(statement: Mapping[str, Any], caller: Caller) -> Literal["direct", "account", "no"]:
    """How a key policy's statement names the caller: by itself, through its account, or not at all."""
    principal = statement["Principal"]
    names = ["*"] if principal == "*" else as_strings(principal.get("AWS", ["-"]))
    if "*" in names or caller.names() & set(names):
        return "direct"
    if caller.root_arn in names or caller.account in names:
        return "direct" if caller.kind == "root" else "account"
    return "no"


def decide(question: Question, key_policy: Mapping[str, Any] | None) -> Verdict:
    """`key_policy` is None for operations without a key (CreateKey, GenerateRandom), where IAM alone decides."""
    key_allows = "no"
    if key_policy is not None:
        matching = [
            (statement["Effect"], named)
            for statement in key_policy["Statement"]
            if (named := _principal(statement, question.caller)) != "no" and _matches(statement, question)
        ]
        if any(effect == "Deny" for effect, _ in matching):
            return "deny-key"
        allowing = {named for effect, named in matching if effect == "Allow"}
        key_allows = "direct" if "direct" in allowing else "account" if allowing else "no"
    identity = [
        statement["Effect"]
        for policy in question.caller.identity_policies
        for statement in policy["Statement"]
        if _matches(statement, question)
    ]
    if "Deny" in identity:
        return "deny-identity"
    identity_allows = "Allow" in identity or question.caller.kind == "root"
    if key_policy is None:
        return "allow" if identity_allows else "none-identity"
    if key_allows == "direct" or (key_allows == "account" and identity_allows):
        return "allow"
    return "none-identity" if key_allows == "account" else "none"


def why(verdict: Verdict, action: str) -> str:
    """The end of AWS's sentence."""
    return {
        "deny-key": "with an explicit deny in a resource-based policy",
        "deny-identity": "with an explicit deny in an identity-based policy",
        "none-identity": f"because no identity-based policy allows the {action} action",
    }.get(verdict, f"because no resource-based policy allows the {action} action")
