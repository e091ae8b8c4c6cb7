"""Looks for known secrets in files, in every form in which they could stand there, also inside other encodings.

    found = search({"dump": dump, "log": log}, {"alice's key": secret})

A dump writes bytes as hex, which may hold JSON, which may hold base64: each layer is taken off and searched too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping

PIECE = 16  # bytes: half of a key is a leak, and no accident
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_DEPTH = 2


def forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes to look for) of at least 16 secret bytes and of each 16-byte piece. Hex is lower case."""
    pieces = [secret] + [secret[at : at + PIECE] for at in range(0, len(secret) - PIECE + 1, PIECE)]
    for piece in dict.fromkeys(pieces):
        part = "" if piece is secret else "piece, "
        for order, data in (("", piece), ("reversed ", piece[::-1])):
            yield f"{part}{order}raw", data
            yield f"{part}{order}hex", data.hex().encode()
            yield f"{part}{order}decimal", str(int.from_bytes(data, "big")).encode()
            yield f"{part}{order}list", str(list(data))[1:-1].encode()
            yield f"{part}{order}escaped", "".join(f"\\x{byte:02x}" for byte in data).encode()
            for shift in range(3):
                # Inside a longer text the first and last characters depend on the neighbours: compare what does not.
                text = base64.b64encode(bytes(shift) + data)
                yield f"{part}{order}base64", text[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]


def layers(data: bytes, depth: int = _DEPTH) -> Iterator[bytes]:
    """`data`, and what its runs of hex and base64 decode to, also theirs."""
    yield data
    if depth == 0:
        return
    from_hex = b"\n".join(bytes.fromhex(run.group().decode()) for run in _HEX.finditer(data))
    parts = []
    for run in _BASE64.finditer(data.translate(_STANDARD)):
        text = run.group()
        parts.append(base64.b64decode(text[: len(text) // 4 * 4]))
    for decoded in (from_hex, b"\n".join(parts)):
        if decoded:
            yield from layers(decoded, depth - 1)


def search(files: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    """(file, secret, form) of everything that was found."""
    wanted = [(name, kind, form) for name, secret in secrets.items() for kind, form in forms(secret)]
    found = []
    for file, data in files.items():
        for layer in layers(data):
            lower, standard = layer.lower(), layer.translate(_STANDARD)
            for name, kind, form in wanted:
                place = lower if kind.endswith(("hex", "escaped")) else standard if kind.endswith("base64") else layer
                if form in place:
                    found.append((file, name, kind))
    return found
