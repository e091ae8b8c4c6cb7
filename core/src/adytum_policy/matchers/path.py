"""Conditions on the derivation path that a request names.

>>> PathMatcher(["m/44'/60'/*"]).holds("m/44'/60'/0'/0/7"), PathMatcher(["m/44'/60'/*"]).holds("")
(True, False)
"""

from __future__ import annotations

from collections.abc import Sequence

_MOST_STEPS = 10  # of a path, as in `adytum_wire.types.Path`
_HARDENED = 2**31


class PathMatcher:
    """`patterns`: whole paths, or "…/*" for everything below; "" for a record that is itself a key."""

    __slots__ = ("_below", "_whole")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._whole = frozenset(pattern for pattern in patterns if not pattern.endswith("/*"))
        # Below, not beginning with: "m/4/*" is not "m/44".
        self._below = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("/*"))  # () begins nothing

    def holds(self, path: str) -> bool:
        return path in self._whole or path.startswith(self._below)


def is_reachable(pattern: str) -> bool:
    """Whether some request can name a path that a pattern (of the shape's) means. In a deny rule one that nobody can
    would never bite: "m" (the master key signs nothing), an index of 2^31 and more, which is written with an apostrophe
    or not at all, and what is below the tenth step."""
    if not pattern:
        return True
    steps = pattern.split("/")[1:]
    below = steps[-1:] == ["*"]
    indices = steps[:-1] if below else steps
    fits = len(indices) < _MOST_STEPS if below else 0 < len(indices) <= _MOST_STEPS
    return fits and all(int(step.removesuffix("'")) < _HARDENED for step in indices)
