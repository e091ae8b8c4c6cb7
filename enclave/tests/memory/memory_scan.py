"""Search another process's memory for secrets: every readable mapping of /proc/PID/mem, byte by byte.

Usable from any test: `scan(pid, forms("key", secret))` returns where a secret, half of it, or its native or Python
number form lies. It needs the right to trace the process (its parent has it under Yama's default, root always);
`unreadable(pid)` says why not. What it cannot see: registers, kernel buffers, memfd_secret mappings.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 4 * 1024 * 1024
HALF = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    name: str
    address: int
    mapping: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    start: int
    end: int
    writable: bool
    name: str


def forms(name: str, secret: bytes) -> dict[str, bytes]:
    """The shapes in which a secret of at least 16 bytes lies around: as bytes, reversed (little-endian limbs), and as
    digits of a Python int. Of 32 bytes and more the first and last 16 bytes of each shape: they lie in any whole copy,
    and a freed chunk often loses its first 16 bytes and keeps the rest."""
    found: dict[str, bytes] = {}
    for order, value in (("big", secret), ("little", secret[::-1])):
        if len(value) < 2 * HALF:
            found[f"{name}/{order}"] = value
        else:
            found[f"{name}/{order}/first half"] = value[:HALF]
            found[f"{name}/{order}/last half"] = value[-HALF:]
    for order in ("big", "little"):
        number = int.from_bytes(secret, order)
        digits = [number >> shift & 0x3FFFFFFF for shift in (0, 30, 60, 90)]
        found[f"{name}/int, {order}"] = struct.pack("<4I", *digits)
    return found


def unreadable(pid: int) -> str:
    """Why the memory of a process cannot be read, or the empty string when it can."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            first = next(readable_mappings(pid))
            memory.seek(first.start)
            memory.read(16)
    except (OSError, StopIteration) as error:
        return f"/proc/PID/mem cannot be read here: {error}"
    return ""


def readable_mappings(pid: int) -> Iterator[Mapping]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else "anonymous"
        if fields[1].startswith("r") and name not in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            yield Mapping(start=start, end=end, writable=fields[1][1] == "w", name=name)


def scan(pid: int, patterns: dict[str, bytes], *, writable_only: bool = False) -> list[Hit]:
    """Every place where a pattern lies in the memory of `pid`; `writable_only` leaves out program text and constants,
    two thirds of a small Python process. A mapping that refuses to be read is skipped if it is
    secret memory (memfd_secret), else it raises: a scan that looked at nothing must not pass."""
    if not patterns or any(len(pattern) < HALF for pattern in patterns.values()):
        raise ValueError("a pattern has at least 16 bytes")
    overlap = max(len(pattern) for pattern in patterns.values()) - 1
    hits: set[tuple[str, int, str]] = set()
    looked_at = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for mapping in readable_mappings(pid):
            if writable_only and not mapping.writable:
                continue
            position = mapping.start
            tail = b""
            while position < mapping.end:
                try:
                    piece = os.pread(memory.fileno(), min(CHUNK, mapping.end - position), position)
                except OSError:
                    if "secretmem" in mapping.name or "memfd:secret" in mapping.name:
                        break
                    raise
                if not piece:
                    break
                block = tail + piece
                base = position - len(tail)
                for name, pattern in patterns.items():
                    at = block.find(pattern)
                    while at >= 0:
                        hits.add((name, base + at, mapping.name))
                        at = block.find(pattern, at + 1)
                looked_at += len(piece)
                position += len(piece)
                tail = block[-overlap:]
    if looked_at < 1024 * 1024:
        raise AssertionError("the scan read less than a megabyte: it proves nothing")
    return [Hit(name=name, address=address, mapping=where) for name, address, where in sorted(hits)]
