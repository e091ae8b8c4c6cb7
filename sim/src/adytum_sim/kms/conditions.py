"""The Condition block of a policy: which keys and operators exist, and what one block says about one request.

A key or operator that this file does not know is refused when the policy is put, by name: a condition that is silently
never met (or, with a negated operator, always met) is how attestation policies go wrong.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "...with multiple keys or values";
KMS Developer Guide, "Condition keys". Left out: numeric, date, binary and address operators, and policy variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from adytum_sim.kms.errors import KmsFault

Context = Mapping[str, Sequence[str]]  # lower-case key to its values; an absent key is absent

_RECIPIENT: Final = "kms:recipientattestation:"
_ENCRYPTION_CONTEXT: Final = "kms:encryptioncontext:"

_EVALUATED: Final = {
    "aws:principalarn", "aws:principalaccount", "aws:principaltype", "aws:userid", "aws:securetransport",
    "aws:requestedregion", "aws:useragent", "aws:viaawsservice", "aws:principalisawsservice",
    "kms:bypasspolicylockoutsafetycheck", "kms:calleraccount", "kms:datakeypairspec", "kms:encryptionalgorithm",
    "kms:encryptioncontextkeys", "kms:keyorigin", "kms:keyspec", "kms:keyusage", "kms:multiregion",
    "kms:reencryptonsamekey", "kms:requestalias", "kms:resourcealiases",
    "kms:schedulekeydeletionpendingwindowindays", "kms:customermasterkeyspec", "kms:customermasterkeyusage",
    _RECIPIENT + "imagesha384", *(f"{_RECIPIENT}pcr{index}" for index in range(32)),
}  # fmt: skip
_MULTI_VALUED: Final = {"kms:encryptioncontextkeys", "kms:resourcealiases"}
_REAL_BUT_ABSENT: Final = {
    "kms:viaservice", "kms:expirationmodel", "kms:grantconstrainttype", "kms:grantisforawsresource",
    "kms:grantoperations", "kms:granteeprincipal", "kms:keyagreementalgorithm", "kms:macalgorithm", "kms:messagetype",
    "kms:multiregionkeytype", "kms:primaryregion", "kms:replicaregion", "kms:retiringprincipal",
    "kms:rotationperiodindays", "kms:signingalgorithm", "kms:validto", "kms:wrappingalgorithm", "kms:wrappingkeyspec",
    *(f"{_RECIPIENT}nitrotpmpcr{index}" for index in range(24)),
}  # fmt: skip


@lru_cache(maxsize=1024)
def glob(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """IAM's wildcards: `*` any run of characters, `?` one. `[` means itself."""
    parts = ("." if c == "?" else ".*" if c == "*" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _like(value: str, wanted: str) -> bool:
    return glob(wanted).fullmatch(value) is not None


def _arn_like(value: str, wanted: str) -> bool:
    """Each of the six parts is matched by itself; a wildcard does not reach over a colon."""
    have, want = value.split(":", 5), wanted.split(":", 5)
    return len(have) == len(want) and all(_like(a, b) for a, b in zip(have, want, strict=True))


def _same_ignoring_case(value: str, wanted: str) -> bool:
    return value.casefold() == wanted.casefold()


def _same(value: str, wanted: str) -> bool:
    return value == wanted


# name: (does this value match this wanted value, is the outcome negated)
_OPERATORS: Final[dict[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (_same, False),
    "StringNotEquals": (_same, True),
    "StringEqualsIgnoreCase": (_same_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_same_ignoring_case, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "ArnEquals": (_arn_like, False),
    "ArnLike": (_arn_like, False),
    "ArnNotEquals": (_arn_like, True),
    "ArnNotLike": (_arn_like, True),
    "Bool": (_same_ignoring_case, False),
}


def malformed(message: str) -> KmsFault:
    return KmsFault("MalformedPolicyDocumentException", message)


def _split(operator: str) -> tuple[str, str, bool]:
    """`ForAnyValue:StringLikeIfExists` to (`ForAnyValue`, `StringLike`, True)."""
    quantifier, colon, name = operator.rpartition(":")
    if colon and quantifier not in ("ForAllValues", "ForAnyValue"):
        raise malformed(f"The stand-in KMS does not know the condition operator {operator}.")
    if_exists = name.endswith("IfExists")
    base = name.removesuffix("IfExists")
    if base == "Null" and (if_exists or quantifier):
        raise malformed(f"The condition operator {operator} does not exist.")
    if base != "Null" and base not in _OPERATORS:
        raise malformed(f"The stand-in KMS does not know the condition operator {operator}.")
    return quantifier, base, if_exists


def as_strings(value: Any) -> list[str]:
    """A policy's "string or list of strings" (booleans are taken as AWS takes them). Errors: malformed policy."""
    items = value if isinstance(value, list) else [value]
    texts = [str(item).lower() if isinstance(item, bool) else item for item in items]
    if not texts or not all(isinstance(item, str) for item in texts):
        raise malformed("A policy element is neither a string nor a list of strings.")
    if any("${" in item for item in texts):
        raise malformed("The stand-in KMS does not support policy variables.")
    return texts


def check(block: Any) -> None:
    """Refuse a Condition block that could not be evaluated. Errors: malformed policy, naming the key."""
    if not isinstance(block, dict):
        raise malformed("Condition is not an object.")
    for operator, keys in block.items():
        quantifier, base, _ = _split(operator)
        if not isinstance(keys, dict) or not keys:
            raise malformed(f"The condition {operator} names no key.")
        for name, wanted in keys.items():
            values = as_strings(wanted)
            key = name.lower()
            if base in ("Bool", "Null") and not {v.lower() for v in values} <= {"true", "false"}:
                raise malformed(f"The condition {operator} takes true or false.")
            if key in _REAL_BUT_ABSENT:
                raise malformed(f"The stand-in KMS does not evaluate the condition key {name}.")
            if not (key in _EVALUATED or (key.startswith(_ENCRYPTION_CONTEXT) and len(key) > len(_ENCRYPTION_CONTEXT))):
                raise malformed(f"There is no condition key {name}.")
            if key in _MULTI_VALUED and not quantifier and base != "Null":
                raise malformed(f"The condition key {name} has several values; use ForAllValues or ForAnyValue.")


def _holds(operator: str, values: Sequence[str] | None, wanted: list[str]) -> bool:
    quantifier, base, if_exists = _split(operator)
    if base == "Null":
        return any((values is None) == (w.lower() == "true") for w in wanted)
    if values is None and if_exists:
        return True
    match, negated = _OPERATORS[base]

    def one(value: str) -> bool:
        return any(match(value, w) for w in wanted) != negated

    if quantifier == "ForAllValues":
        return all(one(value) for value in values or ())
    if quantifier == "ForAnyValue":
        return any(one(value) for value in values or ())
    if values is None:
        return negated  # a negated operator is met by an absent key: why a Deny covers unattested calls
    found = any(match(value, w) for value in values for w in wanted)
    return found != negated


def holds(block: Mapping[str, Any], context: Context) -> bool:
    """True when every operator and key of a checked block is met."""
    return all(
        _holds(operator, context.get(name.lower()), as_strings(wanted))
        for operator, keys in block.items()
        for name, wanted in keys.items()
    )
