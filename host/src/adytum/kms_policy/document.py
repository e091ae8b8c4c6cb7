"""Read a key policy or an identity policy strictly: what cannot be evaluated is refused by its name.

Left out, and refused: NotPrincipal, federated principals, policy variables. (`lint` reads those too, to warn of them.)
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal

from adytum.kms_policy import conditions
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.patterns import as_strings
from adytum_wire.strict_json import is_too_deep

MAX_KEY_POLICY: Final = 32 * 1024  # characters
Kind = Literal["key", "identity"]

_ACCOUNT = re.compile(r"[0-9]{12}")
_PRINCIPAL = re.compile(
    r"arn:aws[a-z-]*:(iam::[0-9]{12}:(root|user/[\w+=,.@/-]+|role/[\w+=,.@/-]+)"
    r"|sts::[0-9]{12}:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+)"
)
_ELEMENTS: Final = {
    "Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip


def load_json(text: str) -> Any:
    """JSON without repeated members, which readers resolve differently. Errors: KmsPolicyError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise KmsPolicyError("The policy repeats a member of an object.")
        return found

    if len(text) > MAX_KEY_POLICY:
        raise KmsPolicyError("The policy is too long.")
    if is_too_deep(text):
        raise KmsPolicyError("The policy is not JSON.")
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise KmsPolicyError("The policy is not JSON.") from None


def parse(text: str, *, kind: Kind, unknown_keys_absent: bool = False) -> dict[str, Any]:
    """The policy as a dict whose "Statement" is a list. Every statement of it can be evaluated.

    `unknown_keys_absent`: see `conditions.check`. Errors: KmsPolicyError with a sentence that names what is wrong.
    """
    policy = load_json(text)
    if not isinstance(policy, dict) or not set(policy) <= {"Version", "Id", "Statement"}:
        raise KmsPolicyError("A policy has Version, Id and Statement and nothing else.")
    if policy.get("Version", "2008-10-17") not in ("2008-10-17", "2012-10-17"):
        raise KmsPolicyError("The policy's Version is unknown.")
    statements = policy.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not statements:
        raise KmsPolicyError("The policy has no statements.")
    for statement in statements:
        _check(statement, kind, unknown_keys_absent)
    return {**policy, "Statement": statements}


def _check(statement: Any, kind: Kind, unknown_keys_absent: bool) -> None:
    if not isinstance(statement, dict):
        raise KmsPolicyError("A statement is not an object.")
    strange = set(statement) - _ELEMENTS
    if strange:
        raise KmsPolicyError(f"This evaluator does not know the statement element {min(strange)}.")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise KmsPolicyError("A statement's Effect is neither Allow nor Deny.")
    for plain, negated in (("Action", "NotAction"), ("Resource", "NotResource")):
        if (plain in statement) == (negated in statement):
            raise KmsPolicyError(f"A statement needs {plain} or {negated}, and not both.")
        as_strings(statement.get(plain, statement.get(negated)))
    for action in as_strings(statement.get("Action", statement.get("NotAction"))):
        if action != "*" and ":" not in action:
            raise KmsPolicyError("An action is <service>:<operation>.")
    if (kind == "key") != ("Principal" in statement):
        raise KmsPolicyError("A key policy's statements name a Principal, an identity policy's do not.")
    if kind == "key":
        _check_principal(statement["Principal"])
    if "Condition" in statement:
        conditions.check(statement["Condition"], unknown_keys_absent=unknown_keys_absent)


def _check_principal(principal: Any) -> None:
    if principal == "*":
        return
    if not isinstance(principal, dict) or not principal:
        raise KmsPolicyError("Policy contains a statement with one or more invalid principals.")
    for kind, names in principal.items():
        if kind == "Service":
            as_strings(names)
        elif kind == "AWS":
            if not all(n == "*" or _ACCOUNT.fullmatch(n) or _PRINCIPAL.fullmatch(n) for n in as_strings(names)):
                raise KmsPolicyError("Policy contains a statement with one or more invalid principals.")
        else:
            raise KmsPolicyError(f"This evaluator does not support principals of the kind {kind}.")
