"""The digest check: lets a test prove that a file holds none of the stand-in's secrets, without knowing them.

Every 32-byte secret that the stand-in's randomness makes is noted as SHA-256 digests of its encodings (raw, hex, base64
at each alignment), never as itself. `scan` slides over a file and compares digests. It exists only in the stand-in: the
trusted program takes its randomness as a parameter and knows nothing of this.

`telling` is for a test run that searches many files in every encoding: the secrets themselves go to a private file.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SECRET_BYTES = 32

_RUNS = {
    "hex": re.compile(rb"[0-9a-fA-F]{64,}"),
    "base64": re.compile(rb"[A-Za-z0-9+/_-]{40,}"),
}


def encodings(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """Every form in which 32 secret bytes could stand in a text or binary file: (kind, bytes)."""
    yield "raw", secret
    yield "raw", secret[::-1]  # little-endian limbs
    yield "hex", secret.hex().encode()
    yield "hex", secret[::-1].hex().encode()
    for shift in range(3):
        # Inside a longer base64 text the first and last characters depend on the neighbours: compare what does not.
        text = base64.b64encode(bytes(shift) + secret)
        first = -(-shift * 8 // 6)
        last = (shift + len(secret)) * 8 // 6
        yield "base64", text[first:last]


class Witness:
    """Wraps a randomness port. `fill` behaves as the wrapped one."""

    def __init__(self, fill: Callable[[memoryview], None]) -> None:
        self._fill = fill
        self._digests: set[tuple[str, int, bytes]] = set()
        self.secrets = 0

    def fill(self, view: memoryview) -> None:
        self._fill(view)
        if len(view) == SECRET_BYTES:
            self.note(bytes(view))

    def note(self, secret: bytes) -> None:
        self.secrets += 1
        self._digests |= digests([secret])

    def export(self) -> list[tuple[str, int, str]]:
        """(kind, length, SHA-256 hex), for `scan` in another process."""
        return sorted((kind, length, digest.hex()) for kind, length, digest in self._digests)


def telling(fill: Callable[[memoryview], None], path: Path) -> Callable[[memoryview], None]:
    """`fill`, with every 32-byte secret appended to `path` (made, private). No copy stays in this process: the kernel
    reads the bytes from where they are."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def fill_and_tell(view: memoryview) -> None:
        fill(view)
        if len(view) == SECRET_BYTES:
            os.write(file, view)

    return fill_and_tell


def digests(secrets: Iterable[bytes]) -> set[tuple[str, int, bytes]]:
    """The digests of all encodings of known secrets."""
    return {(kind, len(form), _digest(form)) for secret in secrets for kind, form in encodings(secret)}


def scan(data: bytes, wanted: set[tuple[str, int, bytes]]) -> list[tuple[str, int]]:
    """(kind, offset) of every place in `data` that has one of the wanted digests."""
    hits: list[tuple[str, int]] = []
    lengths = {(kind, length) for kind, length, _ in wanted}
    for kind, length in sorted(lengths):
        known = {digest for k, n, digest in wanted if (k, n) == (kind, length)}
        for start, run in _runs(kind, data):
            for offset in range(len(run) - length + 1):
                window = run[offset : offset + length]
                forms = (window.lower(),) if kind == "hex" else (window,)
                if kind == "base64" and (b"-" in window or b"_" in window):
                    forms = (window.translate(_URLSAFE),)
                if any(_digest(form) in known for form in forms):
                    hits.append((kind, start + offset))
    return hits


_URLSAFE = bytes.maketrans(b"-_", b"+/")


def _runs(kind: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    if kind == "raw":
        yield 0, data
        return
    for match in _RUNS[kind].finditer(data):
        yield match.start(), match.group()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
