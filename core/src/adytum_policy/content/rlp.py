"""RLP, strict: what decodes re-encodes to the same bytes (Ethereum Yellow Paper, appendix B).

Refuses every second spelling of a value: a single byte below 0x80 with a prefix, a long form where a short one fits,
leading zeros in lengths, trailing bytes. Depth is bounded, so the recursion is.

>>> decode(encode([b"cat", [b""]]))
[b'cat', [b'']]
"""

from __future__ import annotations

from typing import TypeAlias

Item: TypeAlias = "bytes | list[Item]"

MAX_DEPTH = 4  # transaction > access list > entry > storage keys


class RlpError(ValueError):
    """The bytes are not the canonical RLP of anything. Carries no data."""


def decode(data: bytes) -> Item:
    """Decode exactly one item that takes all of `data`. Errors: RlpError."""
    item, end = _item(data, 0, len(data), 0)
    if end != len(data):
        raise RlpError("trailing bytes")
    return item


def encode(item: Item) -> bytes:
    """The inverse of `decode`."""
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _prefix(0x80, len(item)) + item
    body = b"".join(map(encode, item))
    return _prefix(0xC0, len(body)) + body


def encode_int(value: int) -> bytes:
    """An unsigned integer as RLP's scalars are: big endian without leading zeros, 0 is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _item(data: bytes, at: int, end: int, depth: int) -> tuple[Item, int]:
    """Decode the item that begins at `at` and must end by `end`; return it and where it ended."""
    if at >= end:
        raise RlpError("too short")
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    if first < 0xC0:
        start, stop = _span(data, at, end, first - 0x80)
        if stop - start == 1 and data[start] < 0x80:
            raise RlpError("a byte below 0x80 stands for itself")
        return data[start:stop], stop
    if depth == MAX_DEPTH:
        raise RlpError("too deep")
    start, stop = _span(data, at, end, first - 0xC0)
    items: list[Item] = []
    while start < stop:
        item, start = _item(data, start, stop, depth + 1)
        items.append(item)
    return items, stop


def _span(data: bytes, at: int, end: int, code: int) -> tuple[int, int]:
    """Where the payload of the item at `at` starts and stops. `code` is the first byte less its base."""
    start = at + 1
    if code <= 55:
        size = code
    else:
        start += code - 55
        length = data[at + 1 : start]
        if start > end or length[0] == 0:
            raise RlpError("a length with leading zeros, or cut off")
        size = int.from_bytes(length, "big")
        if size <= 55:
            raise RlpError("a long form where the short one fits")
    if size > end - start:
        raise RlpError("too short")
    return start, start + size


def _prefix(base: int, size: int) -> bytes:
    if size <= 55:
        return bytes([base + size])
    length = encode_int(size)
    return bytes([base + 55 + len(length)]) + length
