"""The little CBOR (RFC 8949) that the NSM speaks: unsigned integers, bytes, text, arrays, maps, null, booleans.

`decode` refuses everything else, duplicate keys, trailing bytes, indefinite lengths and nesting deeper than 4, with
`CborError` and nothing else. `encode` writes shortest forms; `Indefinite` marks a map to be written as 0xBF ... 0xFF,
`Wide` an integer to be written in 8 bytes, `Raw` bytes that are CBOR already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_DEPTH: Final = 4

Value = int | bytes | str | None | bool | list["Value"] | dict["str | int", "Value"]


class CborError(ValueError):
    """The bytes are not the CBOR that is spoken here."""


@dataclass(frozen=True, slots=True)
class Indefinite:
    items: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Wide:
    value: int


@dataclass(frozen=True, slots=True)
class Raw:
    data: bytes


def _head(major: int, length: int) -> bytes:
    for limit, extra, size in ((24, None, 0), (1 << 8, 24, 1), (1 << 16, 25, 2), (1 << 32, 26, 4), (1 << 64, 27, 8)):
        if length < limit:
            if extra is None:
                return bytes([major << 5 | length])
            return bytes([major << 5 | extra]) + length.to_bytes(size, "big")
    raise CborError("the integer is too large")


def encode(value: object) -> bytes:
    """Errors: CborError for a value that has no place here."""
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int() if value >= 0:
            return _head(0, value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            data = value.encode()
            return _head(3, len(data)) + data
        case list() | tuple():
            return _head(4, len(value)) + b"".join(encode(item) for item in value)
        case dict():
            return _head(5, len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
        case Indefinite():
            return b"\xbf" + b"".join(encode(k) + encode(v) for k, v in value.items.items()) + b"\xff"
        case Wide():
            return b"\x1b" + value.value.to_bytes(8, "big")
        case Raw():
            return value.data
        case _:
            raise CborError("no such value in this CBOR")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise CborError("the bytes end early")
        self.at += count
        return self.data[self.at - count : self.at]

    def argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise CborError("indefinite lengths are not spoken here")
        return int.from_bytes(self.take(1 << (info - 24)), "big")

    def value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise CborError("nested too deeply")
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if major == 7:
            simple: dict[int, bool | None] = {20: False, 21: True, 22: None}
            if info not in simple:
                raise CborError("no such simple value here")
            return simple[info]
        count = self.argument(info)
        if major == 0:
            return count
        if major == 2:
            return self.take(count)
        if major == 3:
            try:
                return self.take(count).decode()
            except UnicodeDecodeError:
                raise CborError("text is not UTF-8") from None
        if major == 4:
            return [self.value(depth + 1) for _ in range(self.bounded(count))]
        if major == 5:
            result: dict[str | int, Value] = {}
            for _ in range(self.bounded(count)):
                key = self.value(depth + 1)
                if isinstance(key, bool) or not isinstance(key, str | int) or key in result:
                    raise CborError("a key is duplicate or neither text nor an integer")
                result[key] = self.value(depth + 1)
            return result
        raise CborError("no such type here")

    def bounded(self, count: int) -> int:
        if count > len(self.data) - self.at:
            raise CborError("the bytes end early")
        return count


def decode(data: bytes) -> Value:
    """Errors: CborError, whatever the bytes are."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise CborError("trailing bytes")
    return value
