"""The Condition block of a policy: which keys and operators exist, and what one block says about one request.

A key or operator that is not known is refused when the policy is read, by name: a condition that is silently never met
(or, with a negated operator, always met) is how attestation policies go wrong.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "...with multiple keys or values";
KMS Developer Guide, "Condition keys". Left out: numeric, date, binary and address operators, and policy variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adytum.kms_policy import keys
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.patterns import arn_like, as_strings, like

Context = Mapping[str, Sequence[str]]  # lower-case key to its values; an absent key is absent


def _same_ignoring_case(value: str, wanted: str) -> bool:
    return value.casefold() == wanted.casefold()


def _same(value: str, wanted: str) -> bool:
    return value == wanted


# name: (does this value match this wanted value, is the outcome negated)
OPERATORS: Final[dict[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (_same, False),
    "StringNotEquals": (_same, True),
    "StringEqualsIgnoreCase": (_same_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_same_ignoring_case, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "ArnEquals": (arn_like, False),
    "ArnLike": (arn_like, False),
    "ArnNotEquals": (arn_like, True),
    "ArnNotLike": (arn_like, True),
    "Bool": (_same_ignoring_case, False),
}
_QUANTIFIERS: Final = ("ForAllValues", "ForAnyValue")
_PCR = re.compile(r"[0-9A-Fa-f]{96}")
_SHOWN: Final = 160  # characters of a value in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """`ForAnyValue:StringLikeIfExists` taken apart. `base` is a name of OPERATORS, or `Null`."""

    quantifier: str
    base: str
    if_exists: bool

    @property
    def negated(self) -> bool:
        return self.base != "Null" and OPERATORS[self.base][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionResult:
    """What one operator said about one key of one request. `values` is None when the request has no such key."""

    operator: str
    key: str
    wanted: tuple[str, ...]
    values: tuple[str, ...] | None
    met: bool

    @property
    def sentence(self) -> str:
        have = "the request has no such key" if self.values is None else f"the request has {_short(self.values)}"
        outcome = "met" if self.met else "not met"
        if self.operator == "Null":
            wanted = "must be absent" if self.wanted[0].lower() == "true" else "must be present"
            return f"{self.key} {wanted}, {outcome}: {have}"
        return f"{self.operator} {self.key} {outcome}: the policy names {_short(self.wanted)}, {have}"


def _short(values: Sequence[str]) -> str:
    """Of a PCR its ends, of a long list its beginning."""
    shown = [f"{v[:12]}...{v[-6:]}" if _PCR.fullmatch(v) else v[:_SHOWN] for v in values[:4]]
    return " or ".join(shown) + (f" or {len(values) - 4} more" if len(values) > 4 else "")


def split(operator: str) -> Operator:
    """Errors: KmsPolicyError, by the operator's name."""
    quantifier, colon, name = operator.rpartition(":")
    if colon and quantifier not in _QUANTIFIERS:
        raise KmsPolicyError(f"This evaluator does not know the condition operator {operator}.")
    if_exists = name.endswith("IfExists")
    base = name.removesuffix("IfExists")
    if base == "Null" and (if_exists or quantifier):
        raise KmsPolicyError(f"The condition operator {operator} does not exist.")
    if base != "Null" and base not in OPERATORS:
        raise KmsPolicyError(f"This evaluator does not know the condition operator {operator}.")
    return Operator(quantifier=quantifier, base=base, if_exists=if_exists)


def check(block: Any, *, unknown_keys_absent: bool = False) -> None:
    """Refuse a Condition block that could not be evaluated.

    `unknown_keys_absent`: let keys pass that do not exist or that no request carries; they are then absent, which is
    what KMS does with them. Errors: KmsPolicyError, naming the key.
    """
    if not isinstance(block, dict):
        raise KmsPolicyError("Condition is not an object.")
    for operator, wanted_of in block.items():
        parts = split(operator)
        if not isinstance(wanted_of, dict) or not wanted_of:
            raise KmsPolicyError(f"The condition {operator} names no key.")
        for name, wanted in wanted_of.items():
            values = as_strings(wanted)
            key = name.lower()
            if parts.base in ("Bool", "Null") and not {v.lower() for v in values} <= {"true", "false"}:
                raise KmsPolicyError(f"The condition {operator} takes true or false.")
            if key in keys.MULTI_VALUED and not parts.quantifier and parts.base != "Null":
                raise KmsPolicyError(f"The condition key {name} has several values; use ForAllValues or ForAnyValue.")
            if unknown_keys_absent:
                continue
            if key in keys.REAL_BUT_ABSENT:
                raise KmsPolicyError(f"This evaluator does not evaluate the condition key {name}.")
            if not keys.exists(name):
                raise KmsPolicyError(f"There is no condition key {name}.")


def _holds(parts: Operator, values: Sequence[str] | None, wanted: list[str]) -> bool:
    if parts.base == "Null":
        return any((values is None) == (w.lower() == "true") for w in wanted)
    if values is None and parts.if_exists:
        return True
    match, negated = OPERATORS[parts.base]

    def one(value: str) -> bool:
        return any(match(value, w) for w in wanted) != negated

    if parts.quantifier == "ForAllValues":
        return all(one(value) for value in values or ())
    if parts.quantifier == "ForAnyValue":
        return any(one(value) for value in values or ())
    if values is None:
        return negated  # a negated operator is met by an absent key: why a Deny covers unattested calls
    found = any(match(value, w) for value in values for w in wanted)
    return found != negated


def results(block: Mapping[str, Any], context: Context) -> Iterator[ConditionResult]:
    """What each operator and key of a checked block says; the block holds when all are met."""
    for operator, wanted_of in block.items():
        parts = split(operator)
        for name, wanted in wanted_of.items():
            texts, values = as_strings(wanted), context.get(name.lower())
            yield ConditionResult(
                operator=operator,
                key=name,
                wanted=tuple(texts),
                values=None if values is None else tuple(values),
                met=_holds(parts, values, texts),
            )
