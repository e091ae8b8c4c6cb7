"""The little CBOR that an EIF signature needs: definite lengths, shortest form, no tags, no floats, bounded depth.

`loads(dumps(x)) == x`, and what `loads` takes `dumps` writes back as the same bytes. Everything else raises ValueError.
"""

from __future__ import annotations

from typing import Final

Value = int | bytes | str | list["Value"] | dict["Value", "Value"]

MAX_DEPTH: Final = 6
_ARGUMENT_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def dumps(value: Value) -> bytes:
    """Encode. Map entries keep their order. Errors: ValueError for other types and for integers over 64 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        encoded = value.encode()
        return _head(3, len(encoded)) + encoded
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(dumps(item) for item in value)
    if isinstance(value, dict):
        return _head(5, len(value)) + b"".join(dumps(key) + dumps(item) for key, item in value.items())
    raise ValueError("not in this subset of CBOR")


def loads(data: bytes) -> Value:
    """Decode exactly one item. Errors: ValueError for trailing bytes, duplicate keys, all that `dumps` cannot write."""
    value, end = _item(data, 0, 0)
    if end != len(data):
        raise ValueError("trailing bytes")
    return value


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for info, size in _ARGUMENT_SIZES.items():
        if number < 1 << (8 * size):
            return bytes([major << 5 | info]) + number.to_bytes(size, "big")
    raise ValueError("integer over 64 bits")


def _item(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    major, number, at = _read_head(data, at)
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        chunk = data[at : at + number]
        if len(chunk) != number:
            raise ValueError("short string")
        return (chunk if major == 2 else chunk.decode("utf-8")), at + number
    if number > len(data) - at:  # an element has at least one byte
        raise ValueError("short container")
    if major == 4:
        items: list[Value] = []
        for _ in range(number):
            item, at = _item(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 5:
        entries: dict[Value, Value] = {}
        for _ in range(number):
            key, at = _item(data, at, depth + 1)
            item, at = _item(data, at, depth + 1)
            if not isinstance(key, int | str) or key in entries:
                raise ValueError("map key")
            entries[key] = item
        return entries, at
    raise ValueError("tag, float or simple value")


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise ValueError("no item")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    size = _ARGUMENT_SIZES.get(info)
    if size is None or at + size > len(data):
        raise ValueError("head")
    number = int.from_bytes(data[at : at + size], "big")
    if number < 24 or (size > 1 and number < 1 << (4 * size)):
        raise ValueError("not the shortest form")
    return major, number, at + size
