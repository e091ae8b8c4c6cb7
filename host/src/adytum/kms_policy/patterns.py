"""Strings as IAM policies compare them: wildcards, ARNs by their parts, "a string or a list of strings"."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from adytum.kms_policy.errors import KmsPolicyError


@lru_cache(maxsize=1024)
def glob(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """IAM's wildcards: `*` any run of characters, `?` one. `[` means itself."""
    parts = ("." if c == "?" else ".*" if c == "*" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def like(value: str, wanted: str) -> bool:
    return glob(wanted).fullmatch(value) is not None


def arn_like(value: str, wanted: str) -> bool:
    """Each of the six parts is matched by itself; a wildcard does not reach over a colon."""
    have, want = value.split(":", 5), wanted.split(":", 5)
    return len(have) == len(want) and all(like(a, b) for a, b in zip(have, want, strict=True))


def action_matches(pattern: str, action: str) -> bool:
    """Action names ignore case."""
    return glob(pattern, ignore_case=True).fullmatch(action) is not None


def as_strings(value: Any) -> list[str]:
    """A policy's "string or list of strings" (booleans are taken as AWS takes them). Errors: KmsPolicyError."""
    items = value if isinstance(value, list) else [value]
    texts = [str(item).lower() if isinstance(item, bool) else item for item in items]
    if not texts or not all(isinstance(item, str) for item in texts):
        raise KmsPolicyError("A policy element is neither a string nor a list of strings.")
    if any("${" in item for item in texts):
        raise KmsPolicyError("This evaluator does not support policy variables.")
    return texts
