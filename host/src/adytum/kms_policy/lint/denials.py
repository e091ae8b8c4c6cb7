"""Rules about a key policy as a whole: what its Denies close, what they leave open, and whom they hit by mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from adytum.kms_policy import conditions, keys
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.lint.access import Found
from adytum.kms_policy.lint.reader import Condition, Statement

_ABOUT_THE_CALLER: Final = {"aws:principalarn", "aws:userid", "aws:principalaccount", "kms:calleraccount"}


def closed(statements: Sequence[Statement]) -> frozenset[str]:
    """The operations that are denied to everybody, whatever the request."""
    found: set[str] = set()
    for s in statements:
        if not s.allows and s.for_everybody and s.for_this_key and not s.conditions:
            found |= s.operations
    return frozenset(found)


def shapes(statement: Statement) -> Iterator[Found]:
    """One Deny: does it hit the calls that it seems to be about?"""
    if statement.allows:
        return
    attested = [c for c in statement.conditions if c.about_attestation and c.pcr is not None]
    negated = [c for c in attested if c.negated]
    if not attested:
        return
    if any(c.quantifier == "ForAnyValue" for c in negated):
        yield "DENY_MISSES_UNATTESTED", "ForAnyValue is not met when the key is absent: calls without a document pass."
    elif negated and any(c.base == "Null" and c.values == ("false",) for c in attested):
        yield "DENY_MISSES_UNATTESTED", "Null false exempts calls without a document from the Deny."
    elif not negated and not any(c.base == "Null" and c.values == ("true",) for c in attested):
        yield "DENY_MISSES_UNATTESTED", "The Deny hits the images that it names, and no call without a document."
    elif len(negated) > 1 or any(not c.about_attestation for c in statement.conditions):
        yield "DENY_ANDED", "The conditions of one statement are ANDed: one that is not met switches the Deny off."


def missing(statements: Sequence[Statement], shut: frozenset[str]) -> Iterator[Found]:
    """`shut`: as `closed` returns it."""
    used: set[str] = set().union(*(s.operations for s in statements if s.allows)) & set(keys.ATTESTABLE) - shut
    if not used:
        return
    if open_ := {name for name in used if not any(_hits_other_images(s, name) for s in statements)}:
        yield (
            "DENY_UNATTESTED_MISSING",
            (f"Nothing denies {', '.join(sorted(open_))} to calls without the right document: one more Allow does."),
        )
    if not {"ReEncryptFrom", "ReEncryptTo"} <= shut:
        yield "DENY_REENCRYPT_MISSING", "Nothing denies ReEncrypt, which needs no document."
    if "CreateGrant" not in shut:
        yield "DENY_GRANT_MISSING", "Nothing denies CreateGrant, and a grant needs no document."
    if "PutKeyPolicy" not in shut and not any(_hits_other_callers(s) for s in statements):
        yield "DENY_POLICY_CHANGE_MISSING", "Nothing denies PutKeyPolicy: whoever may call it can open the key."


def _hits_other_images(statement: Statement, operation: str) -> bool:
    """A Deny of everybody whose document does not show one of the PCR values, for lack of a document too."""
    if statement.allows or not statement.for_everybody or not statement.for_this_key:
        return False
    return (
        operation in statement.operations
        and len(statement.conditions) == 1
        and statement.conditions[0].pcr in (0, 1, 2)
        and statement.conditions[0].base in ("StringNotEquals", "StringNotEqualsIgnoreCase")
        and statement.conditions[0].quantifier != "ForAnyValue"
    )


def _hits_other_callers(statement: Statement) -> bool:
    return (
        not statement.allows
        and statement.for_everybody
        and statement.for_this_key
        and "PutKeyPolicy" in statement.operations
        and all(c.negated and c.key.lower() in _ABOUT_THE_CALLER for c in statement.conditions)
    )


def policy_change(statements: Sequence[Statement]) -> Iterator[tuple[Statement | None, Found]]:
    """Who may call PutKeyPolicy: somebody must, and nobody who can use the key."""
    users = {p for s in statements if s.allows and s.operations & {*keys.ATTESTABLE} for p in s.principals}
    possible = False
    for s in statements:
        if not s.allows or "PutKeyPolicy" not in s.operations:
            continue
        left = [p for p in s.principals if not any(_denied(d, "PutKeyPolicy", _caller(p)) for d in statements)]
        possible = possible or bool(left)
        if s.principal_negated or s.for_everybody or s.names_account:
            yield s, ("POLICY_CHANGE_WIDE", "The whole account, or everybody, may replace the key policy.")
        elif users & set(left):
            yield s, ("POLICY_CHANGE_WIDE", "A principal that uses the key may also replace its policy.")
    if not possible:
        yield (
            None,
            ("POLICY_CHANGE_NOBODY", "Nobody may call PutKeyPolicy: KMS refuses the policy, or the key is stuck."),
        )


def _caller(principal: str) -> dict[str, list[str]]:
    return {"aws:principalarn": [principal]}


def never_used(statement: Statement, statements: Sequence[Statement]) -> Iterator[Found]:
    """An Allow whose own document, tenant or principal a Deny hits."""
    if not statement.allows or statement.names_account:
        return
    for name in sorted(statement.operations & {*keys.ATTESTABLE}):
        denied = [d for d in statements if any(_denied(d, name, request) for request in _requests(statement))]
        if denied and not _is_wildcard_for(statement, name):
            by = ", ".join(d.sid or f"statement {d.index}" for d in denied[:4])
            yield "ALLOW_NEVER_USED", f"{name} is denied by {by}, also to the image that this statement allows."
            return


def _is_wildcard_for(statement: Statement, name: str) -> bool:
    """A wildcard that covers a denied operation has its own finding."""
    return statement.action_negated or f"kms:{name}".lower() not in {p.lower() for p in statement.patterns}


def _requests(statement: Statement) -> Iterator[dict[str, list[str]]]:
    """For each principal and value: the request that the Allow is written for."""
    positive = [c for c in statement.conditions if not c.negated and c.base != "Null" and not c.if_exists]
    base: dict[str, list[str]] = {}
    for condition in positive:
        name, value = condition.key.lower(), condition.values[0]
        base[name] = [value.lower() if condition.about_attestation else value]
    for principal in statement.principals or ("",):
        request = base | _caller(principal)
        yield request
        for condition in positive:
            if sum(len(c.values) > 1 for c in positive if c.about_attestation) <= 1:
                yield from (request | {condition.key.lower(): [_as_sent(condition, v)]} for v in condition.values[1:])


def _as_sent(condition: Condition, value: str) -> str:
    return value.lower() if condition.about_attestation else value


def _denied(deny: Statement, operation: str, request: dict[str, list[str]]) -> bool:
    """Does this Deny surely hit the request? Conditions on what the request does not say are left alone."""
    if deny.allows or operation not in deny.operations or not deny.for_this_key:
        return False
    if not deny.for_everybody and not set(deny.principals) & set(request["aws:principalarn"]):
        return False
    if not all(c.key.lower() in request for c in deny.conditions):
        return False
    try:
        return all(result.met for result in conditions.results(deny.block, request))
    except KmsPolicyError:
        return False
