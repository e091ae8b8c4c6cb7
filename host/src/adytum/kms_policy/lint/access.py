"""Rules about one statement: its form, whom it names, what it allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from adytum.kms_policy import keys
from adytum.kms_policy.lint.reader import Condition, Kind, Statement
from adytum.kms_policy.patterns import action_matches

Found = tuple[str, str]  # code, sentence
_PRINCIPAL = re.compile(
    r"\*|[0-9]{12}|arn:aws[a-z-]*:(iam::[0-9]{12}:(root|(user|role)/[\w+=,.@/-]+)"
    r"|sts::[0-9]{12}:(assumed-role|federated-user)/[\w+=,.@/-]+)"
)
_UNIQUE_ID = re.compile(r"A(IDA|ROA|GPA|NPA)[A-Z0-9]{12,}")
_PUBLIC: Final = {"Encapsulate", "Verify", "VerifyMac"}  # they yield nothing that is secret
_SENSITIVE: Final = frozenset((*keys.ATTESTABLE, *keys.NOT_ATTESTABLE, *keys.CONTROL)) - _PUBLIC
_ABOUT_THE_CALLER: Final = {"aws:principalarn", "kms:calleraccount", "aws:principalaccount", "aws:principalorgid"}


def form(statement: Statement) -> Iterator[Found]:
    for name in statement.strange:
        yield "ELEMENT_UNKNOWN", f"There is no statement element {name}; KMS refuses the policy."
    for condition in statement.conditions:
        if not condition.known_operator:
            yield "OPERATOR_UNKNOWN", f"There is no condition operator {condition.operator}."
        elif condition.key.lower().startswith("kms:") and not keys.exists(condition.key):
            yield "CONDITION_KEY_UNKNOWN", _unknown_key(condition, allows=statement.allows)


def _unknown_key(condition: Condition, *, allows: bool) -> str:
    absent_is_met = condition.negated or condition.if_exists or condition.quantifier == "ForAllValues"
    effect = "is met by every request" if absent_is_met else "is never met, so the statement never applies"
    result = ("; it restricts nothing" if absent_is_met else "; nobody can use the key") if allows else ""
    return f"There is no condition key {condition.key}: the condition {effect}{result}."


def who(statement: Statement) -> Iterator[Found]:
    if statement.principal_negated:
        yield (
            "PRINCIPAL_NEGATED",
            ("NotPrincipal names everybody else, anonymous callers and the sessions of the named roles included."),
        )
        return
    for name in statement.principals:
        if _UNIQUE_ID.fullmatch(name):
            yield "PRINCIPAL_GONE", "A principal is the unique id of a deleted user or role."
        elif not _PRINCIPAL.fullmatch(name):
            yield "PRINCIPAL_INVALID", "A principal is no ARN of a user, role, session or account; KMS refuses it."
    if not statement.allows:
        return
    if statement.for_everybody and not any(
        c.key.lower() in _ABOUT_THE_CALLER and not c.negated and not c.if_exists for c in statement.conditions
    ):
        yield "PRINCIPAL_WILDCARD", "Principal * means every AWS account and anonymous callers."
    if statement.services and statement.operations & _SENSITIVE:
        yield "PRINCIPAL_SERVICE", "A service principal may use the key, and services cannot attest."
    if statement.names_account and statement.operations & _SENSITIVE:
        yield (
            "ROOT_DELEGATION",
            ("The account is allowed, so any IAM policy in it can allow the same to any role, without attestation."),
        )


def what(statement: Statement, kind: Kind, closed: frozenset[str]) -> Iterator[Found]:
    """`closed`: the operations that are denied to everybody without a condition."""
    if not statement.allows:
        return
    if statement.action_negated:
        yield "ACTION_NEGATED", "NotAction in an Allow allows every operation that it does not name, future ones too."
    else:
        for pattern in statement.patterns:
            if any(c in pattern for c in "*?") and _reach(pattern) & _SENSITIVE:
                yield "ACTION_WILDCARD", f"{pattern} also means {', '.join(sorted(_reach(pattern) & _SENSITIVE)[:4])}."
    open_ = statement.operations - closed
    if {"ReEncryptFrom", "ReEncryptTo"} & open_:
        yield (
            "REENCRYPT_ALLOWED",
            ("ReEncrypt takes no attestation document: it moves any ciphertext under a key that attests nothing."),
        )
    if "CreateGrant" in open_:
        yield "GRANT_ALLOWED", "A grant gives the key to anybody, and its constraints know no attestation."
    if {"ReplicateKey", "ImportKeyMaterial"} & open_:
        yield (
            "COPY_ALLOWED",
            "A replica has a key policy of its own, and imported key material is known to who made it.",
        )
    others = open_ & {*keys.NOT_ATTESTABLE} - {"ReEncryptFrom", "ReEncryptTo", *_PUBLIC}
    if others and not any(c.about_attestation for c in statement.conditions):
        yield "UNATTESTED_USE_ALLOWED", f"{', '.join(sorted(others))} cannot be attested."
    yield from _resource(statement, kind)


def _reach(pattern: str) -> frozenset[str]:
    return frozenset(name for name in keys.OPERATIONS if action_matches(pattern, f"kms:{name}"))


def _resource(statement: Statement, kind: Kind) -> Iterator[Found]:
    if statement.resource_negated:
        yield "RESOURCE_NEGATED", "NotResource in an Allow allows every other key, those of other accounts too."
    elif kind == "identity":
        wide = [r for r in statement.resources if any(c in r for c in "*?")]
        if wide and statement.operations & _SENSITIVE:
            yield "RESOURCE_WILDCARD", "The policy allows this for every key that allows the account."
    elif not any(r == "*" or ":key/" in r for r in statement.resources):
        yield "RESOURCE_NOT_THIS_KEY", "In a key policy a statement whose Resource is not this key has no effect."
