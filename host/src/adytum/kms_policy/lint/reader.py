"""Read a policy leniently, into what the rules look at. What cannot be read at all is a finding, not an exception."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from adytum.kms_policy import keys
from adytum.kms_policy.conditions import OPERATORS
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.patterns import action_matches

Kind = Literal["key", "identity"]
_ELEMENTS: Final = {
    "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip
# Real operators that the evaluator does not decide.
_OTHER_OPERATORS: Final = {
    *(f"{kind}{end}" for kind in ("Numeric", "Date") for end in (
        "Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")),
    "BinaryEquals", "IpAddress", "NotIpAddress",
}  # fmt: skip
ACCOUNT = re.compile(r"[0-9]{12}|arn:aws[a-z-]*:iam::[0-9]{12}:root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One operator with one key. `base` is without quantifier and IfExists."""

    operator: str
    quantifier: str
    base: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    @property
    def known_operator(self) -> bool:
        plain = self.base in OPERATORS or self.base in _OTHER_OPERATORS
        return plain or (self.base == "Null" and not self.quantifier and not self.if_exists)

    @property
    def negated(self) -> bool:
        return "Not" in self.base

    @property
    def about_attestation(self) -> bool:
        return self.key.lower().startswith(keys.RECIPIENT)

    @property
    def pcr(self) -> int | None:
        return keys.pcr_index(self.key)

    @property
    def demands_pcr(self) -> bool:
        """Met only by a request whose document shows one of the values."""
        return (
            self.pcr is not None
            and self.base in ("StringEquals", "StringEqualsIgnoreCase", "StringLike")
            and not self.if_exists
            and self.quantifier != "ForAllValues"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`operations`: the KMS operations (without `kms:`) that the statement is about, of those in `keys.OPERATIONS`."""

    index: int
    sid: str
    allows: bool
    principals: tuple[str, ...]  # AWS principals and `*`
    services: tuple[str, ...]
    principal_negated: bool
    patterns: tuple[str, ...]
    action_negated: bool
    operations: frozenset[str]
    resources: tuple[str, ...]
    resource_negated: bool
    conditions: tuple[Condition, ...]
    block: Mapping[str, Any]
    strange: tuple[str, ...]

    @property
    def for_everybody(self) -> bool:
        return "*" in self.principals and not self.principal_negated

    @property
    def names_account(self) -> bool:
        return any(ACCOUNT.fullmatch(p) for p in self.principals)

    @property
    def for_this_key(self) -> bool:
        return not self.resource_negated and "*" in self.resources

    @property
    def demanded(self) -> dict[int, set[str]]:
        """PCR index to the values of which one is demanded, in lower case."""
        found: dict[int, set[str]] = {}
        for condition in self.conditions:
            if condition.demands_pcr and condition.pcr is not None:
                found[condition.pcr] = {value.lower() for value in condition.values}
        return found


def read(policy: Any) -> tuple[str, tuple[Statement, ...]]:
    """(Version, statements). Errors: KmsPolicyError when it has no readable shape."""
    if not isinstance(policy, dict):
        raise KmsPolicyError("A policy is a JSON object.")
    if strange := set(policy) - {"Version", "Id", "Statement"}:
        raise KmsPolicyError(f"A policy has no element {min(strange)}.")
    statements = policy.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not statements:
        raise KmsPolicyError("The policy has no statements.")
    return str(policy.get("Version", "")), tuple(_statement(raw, index) for index, raw in enumerate(statements))


def kind_of(policy: Any) -> Kind:
    """A key policy's statements have principals."""
    statements = policy.get("Statement", []) if isinstance(policy, dict) else []
    statements = statements if isinstance(statements, list) else [statements]
    found = any(isinstance(s, dict) and {"Principal", "NotPrincipal"} & set(s) for s in statements)
    return "key" if found else "identity"


def _statement(raw: Any, index: int) -> Statement:
    if not isinstance(raw, dict) or raw.get("Effect") not in ("Allow", "Deny"):
        raise KmsPolicyError(f"Statement {index} has no Effect that is Allow or Deny.")
    action_negated = "NotAction" in raw
    patterns = _texts(raw.get("Action", raw.get("NotAction")), index, "Action")
    if ("Action" in raw) == action_negated:
        raise KmsPolicyError(f"Statement {index} needs Action or NotAction, and not both.")
    principals, services = _principals(raw.get("Principal", raw.get("NotPrincipal", {})), index)
    resource = raw.get("Resource", raw.get("NotResource", []))
    block = raw.get("Condition", {})
    return Statement(
        index=index,
        sid=str(raw.get("Sid", "")),
        allows=raw["Effect"] == "Allow",
        principals=principals,
        services=services,
        principal_negated="NotPrincipal" in raw,
        patterns=patterns,
        action_negated=action_negated,
        operations=frozenset(
            name for name in keys.OPERATIONS if _covers(patterns, f"kms:{name}") != action_negated
        ),
        resources=_texts(resource, index, "Resource") if resource else (),
        resource_negated="NotResource" in raw,
        conditions=tuple(_conditions(block, index)),
        block=block,
        strange=tuple(sorted(set(raw) - _ELEMENTS)),
    )  # fmt: skip


def _covers(patterns: tuple[str, ...], action: str) -> bool:
    return any(action_matches(pattern, action) for pattern in patterns)


def _principals(raw: Any, index: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if raw == "*":
        return ("*",), ()
    if not isinstance(raw, dict):
        raise KmsPolicyError(f"Statement {index}: Principal is neither an object nor *.")
    found: list[str] = []
    services: list[str] = []
    for kind, names in raw.items():
        (found if kind == "AWS" else services).extend(_texts(names, index, "Principal"))
    return tuple(found), tuple(services)


def _conditions(block: Any, index: int) -> Iterator[Condition]:
    if not isinstance(block, dict) or not all(isinstance(wanted, dict) for wanted in block.values()):
        raise KmsPolicyError(f"Statement {index}: Condition is not an object of objects.")
    for operator, wanted_of in block.items():
        quantifier, _, name = operator.rpartition(":")
        for key, wanted in wanted_of.items():
            yield Condition(
                operator=operator,
                quantifier=quantifier,
                base=name.removesuffix("IfExists"),
                if_exists=name.endswith("IfExists"),
                key=key,
                values=_texts(wanted, index, "Condition"),
            )


def _texts(value: Any, index: int, element: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    texts = [str(item).lower() if isinstance(item, bool) else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise KmsPolicyError(f"Statement {index}: {element} is neither a string nor a list of strings.")
    return tuple(texts)
