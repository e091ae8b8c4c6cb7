"""Base58 as Bitcoin and Solana write it (https://datatracker.ietf.org/doc/html/draft-msporny-base58-03).

>>> decode(encode(b"\\0\\0adytum")) == b"\\0\\0adytum"
True
"""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_MAX_TEXT = 128  # characters; the work grows with the square


class Base58Error(ValueError):
    """Text that is no base58. Carries no data."""


def encode(data: bytes) -> str:
    """Each leading zero byte is a "1"; the rest is one number."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """The inverse of `encode`, which knows one spelling of each byte string. Errors: Base58Error."""
    if len(text) > _MAX_TEXT:
        raise Base58Error
    number = 0
    for char in text:
        if char not in _VALUES:
            raise Base58Error
        number = number * 58 + _VALUES[char]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
