"""A CBOR reader (RFC 8949) that knows only what attestation documents use, and refuses the rest.

Known: unsigned integers, byte strings, text, arrays, maps, null. Refused: negative integers, tags, floats, booleans,
undefined, duplicate keys, keys other than integers and text, trailing bytes, lengths not in their shortest form,
nesting beyond `MAX_DEPTH`, and indefinite lengths, except for one map at the top where the caller asks for it (Nitro
hardware writes its payload so since 2025). General decoders accept much of this silently.

Contract for the fuzzer: garbage either reads or raises `CborError`. Nothing is allocated for a length that the input
does not have.

>>> read_all(bytes.fromhex("a16161f6"))
{'a': None}
"""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 4

UNSIGNED: Final = 0
BYTES: Final = 2
TEXT: Final = 3
ARRAY: Final = 4
MAP: Final = 5

_NULL: Final = 0xF6
_INDEFINITE_MAP: Final = 0xBF
_BREAK: Final = 0xFF

Value = int | bytes | str | list["Value"] | dict["int | str", "Value"] | None


class CborError(ValueError):
    """The bytes are not in the subset. The reader is then of no further use."""


class Reader:
    """Reads `data` from front to back. All methods raise `CborError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def peek(self) -> int:
        """The next byte, not consumed."""
        if self._at >= len(self._data):
            raise CborError("truncated")
        return self._data[self._at]

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self._data) - self._at:
            raise CborError("truncated")
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def end(self) -> None:
        if self._at != len(self._data):
            raise CborError("trailing bytes")

    def head(self, major: int) -> int:
        """The argument (value or length) of an item that must be of major type `major`."""
        initial = self.take(1)[0]
        if initial >> 5 != major:
            raise CborError("unexpected type")
        info = initial & 0x1F
        if info < 24:
            return info
        if info > 27:  # 28 to 30 are reserved, 31 is an indefinite length
            raise CborError("indefinite or reserved length")
        width = 1 << (info - 24)
        argument = int.from_bytes(self.take(width), "big")
        if argument < 24 or (width > 1 and argument >> (4 * width) == 0):
            raise CborError("not the shortest form")
        return argument

    def byte_string(self) -> bytes:
        return self.take(self.head(BYTES))

    def value(self, depth: int = 0, *, indefinite_map: bool = False) -> Value:
        """The next item, whatever it is. `indefinite_map`: it may be a map of indefinite length."""
        if depth > MAX_DEPTH:
            raise CborError("too deep")
        initial = self.peek()
        if initial == _NULL:
            self._at += 1
            return None
        if indefinite_map and initial == _INDEFINITE_MAP:
            self._at += 1
            return self._pairs(None, depth)
        major = initial >> 5
        if major == UNSIGNED:
            return self.head(UNSIGNED)
        if major == BYTES:
            return self.byte_string()
        if major == TEXT:
            return self._text()
        if major == ARRAY:
            return [self.value(depth + 1) for _ in range(self._count(ARRAY))]
        if major == MAP:
            return self._pairs(self._count(MAP), depth)
        raise CborError("unexpected type")

    def _count(self, major: int) -> int:
        count = self.head(major)
        if count > len(self._data) - self._at:  # each element takes a byte at least
            raise CborError("truncated")
        return count

    def _text(self) -> str:
        try:
            return self.take(self.head(TEXT)).decode("utf-8")
        except UnicodeDecodeError:
            raise CborError("not UTF-8") from None

    def _pairs(self, count: int | None, depth: int) -> dict[int | str, Value]:
        pairs: dict[int | str, Value] = {}
        while len(pairs) != count:
            if count is None and self.peek() == _BREAK:
                self._at += 1
                break
            key = self._text() if self.peek() >> 5 == TEXT else self.head(UNSIGNED)
            if key in pairs:
                raise CborError("duplicate key")
            pairs[key] = self.value(depth + 1)
        return pairs


def read_all(data: bytes, *, indefinite_map: bool = False) -> Value:
    """Read `data` as exactly one item. Errors: `CborError`."""
    reader = Reader(data)
    value = reader.value(indefinite_map=indefinite_map)
    reader.end()
    return value
