"""The little CBOR (RFC 8949) that the NSM speaks: integers from 0, byte and text strings, arrays, maps, booleans, null.

Strict where readings could differ: no duplicate keys, no trailing bytes, no tags, no floats, no indefinite strings;
keys are text or integers; depth and size are bounded before anything is allocated. Tolerant where real hardware
differs: maps and arrays of indefinite length (documents since 2025), integers longer than need be (QEMU).

Left out: verifying attestation documents; that is `adytum_verify`, which the enclave does not contain.

Contract for the fuzzer: `decode` returns a value or raises `CborError`; nothing else leaves it.

>>> encode({"LockPCR": {"index": 16}}).hex()
'a1674c6f636b504352a165696e64657810'
>>> decode(bytes.fromhex("bf616101ff"))
{'a': 1}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str | int, Value] | None"

MAX_SIZE: Final = 16 * 1024  # bytes; an attestation document's payload is the largest thing read
_MAX_DEPTH: Final = 6  # an answer around a document has 3
_UINT, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 2, 3, 4, 5, 7
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_SIMPLE_VALUES: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


class CborError(ValueError):
    """The bytes are not what this module reads. Its text is fixed: it holds nothing of the input."""


def encode(value: Value) -> bytes:
    """Shortest-form, definite-length CBOR; map entries in the order given. Errors: TypeError for another type."""
    match value:
        case None | bool():
            return b"\xf6" if value is None else b"\xf5" if value else b"\xf4"
        case int() if value >= 0:
            return _head(_UINT, value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case list():
            return _head(_ARRAY, len(value)) + b"".join(encode(item) for item in value)
        case dict():
            entries = (encode(key) + encode(item) for key, item in value.items())
            return _head(_MAP, len(value)) + b"".join(entries)
    raise TypeError("not a value of the NSM's CBOR")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise TypeError("an integer has at most 64 bits")


def decode(data: bytes) -> Value:
    """Decode exactly one item that fills `data` (at most 16 KiB). Errors: CborError."""
    if len(data) > MAX_SIZE:
        raise CborError("too large")
    reader = _Reader(data)
    value = reader.item(0)
    if reader.position != len(data):
        raise CborError("trailing bytes")
    return value


class _Reader:
    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise CborError("truncated")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise CborError("reserved or indefinite length")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def item(self, depth: int) -> Value:
        if depth > _MAX_DEPTH:
            raise CborError("too deep")
        initial = self._take(1)[0]
        major, info = initial >> 5, initial & 31
        if major == _UINT:
            return self._argument(info)
        if major == _BYTES:
            return self._take(self._argument(info))
        if major == _TEXT:
            try:
                return self._take(self._argument(info)).decode()
            except UnicodeDecodeError:
                raise CborError("text is not UTF-8") from None
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in self._entries(info)]
        if major == _MAP:
            return self._map(info, depth)
        if major == _SIMPLE and info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        raise CborError("a type that the NSM does not use")

    def _entries(self, info: int) -> Iterator[None]:
        """One step for each entry, by count or until the break."""
        if info != _INDEFINITE:
            count = self._argument(info)
            if count > len(self._data) - self.position:  # each entry takes a byte at least
                raise CborError("truncated")
            for _ in range(count):
                yield None
            return
        while True:
            if self._take(1)[0] == _BREAK:
                return
            self.position -= 1
            yield None

    def _map(self, info: int, depth: int) -> dict[str | int, Value]:
        result: dict[str | int, Value] = {}
        for _ in self._entries(info):
            key = self.item(depth + 1)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise CborError("a key is text or an integer")
            if key in result:
                raise CborError("duplicate key")
            result[key] = self.item(depth + 1)
        return result
