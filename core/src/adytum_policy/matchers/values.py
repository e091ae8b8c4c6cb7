"""How one value of a policy document is checked and compiled. `None` when compiled stands for "*" (no condition)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from adytum_policy.content.address import is_checksummed
from adytum_policy.shape import Wildcard

T = TypeVar("T")

_MAX_UINT256 = 2**256 - 1


def strings(listed: Iterable[str]) -> frozenset[str] | None:
    return None if listed == "*" else frozenset(map(str, listed))


def addresses(listed: Iterable[str]) -> frozenset[bytes] | None:
    return None if listed == "*" else frozenset(bytes.fromhex(text[2:]) for text in listed)


def numbers(listed: list[int] | Wildcard) -> frozenset[int] | None:
    return None if listed == "*" else frozenset(listed)


def amount(text: str) -> int | None:
    return None if text == "*" else int(text)


def are_addresses(listed: list[str] | Wildcard) -> bool:
    """All lower case carries no checksum; anything else must carry the right one (EIP-55)."""
    return listed == "*" or all(text == text.lower() or is_checksummed(text) for text in listed)


def over(text: str) -> bool:
    """Whether an amount is one that no 256-bit number reaches."""
    return text != "*" and int(text) > _MAX_UINT256


def meets(condition: frozenset[T] | None, found: Iterable[T] | None, *, every: bool) -> bool:
    """Whether a list of facts meets a list of values: `every` one named, or any. No facts meet no condition (P-12)."""
    if condition is None:
        return True
    if not found:
        return False
    return condition.issuperset(found) if every else not condition.isdisjoint(found)
