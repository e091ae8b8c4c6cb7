"""The randomness port: `Fill` writes random bytes into all of a buffer and keeps no copy, so that secret ones never
pass through `bytes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Fill: TypeAlias = Callable[[memoryview], None]


def public_bytes(fill: Fill, size: int) -> bytes:
    """`size` random bytes that are not secret: nonces, identifiers."""
    buffer = bytearray(size)
    fill(memoryview(buffer))
    return bytes(buffer)
