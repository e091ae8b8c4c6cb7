"""Conditions on the derivation path that a request names.

>>> PathMatcher(["m/44'/60'/*"]).holds("m/44'/60'/0'/0/7"), PathMatcher(["m/44'/60'/*"]).holds("")
(True, False)
"""

from __future__ import annotations

from collections.abc import Sequence


class PathMatcher:
    """`patterns`: whole paths, or "…/*" for everything below; "" for a record that is itself a key."""

    __slots__ = ("_below", "_whole")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._whole = frozenset(pattern for pattern in patterns if not pattern.endswith("/*"))
        # Below, not beginning with: "m/4/*" is not "m/44".
        self._below = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("/*"))

    def holds(self, path: str) -> bool:
        return path in self._whole or any(path.startswith(prefix) for prefix in self._below)
