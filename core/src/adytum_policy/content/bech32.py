"""Segwit addresses: bech32 (BIP-173) for version 0, bech32m (BIP-350) for the others.

>>> decode("bc", encode("bc", 0, bytes(20)))
(0, b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')
"""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32, _BECH32M = 1, 0x2BC830A3
_MAX_TEXT = 90
_CHECKSUM = 6


class Bech32Error(ValueError):
    """Text that is no segwit address of the prefix. Carries no data."""


def encode(prefix: str, version: int, program: bytes) -> str:
    """The address of a witness program: `version` 0 to 16, 2 to 40 bytes."""
    data = [version, *_regroup(program, 8, 5)]
    constant = _BECH32M if version else _BECH32
    rest = _polymod([*_expand(prefix), *data, *([0] * _CHECKSUM)]) ^ constant
    checksum = [(rest >> 5 * (5 - at)) & 31 for at in range(_CHECKSUM)]
    return prefix + "1" + "".join(_ALPHABET[value] for value in (*data, *checksum))


def decode(prefix: str, text: str) -> tuple[int, bytes]:
    """(version, program) of a lower-case address that `encode` would have written so. Errors: Bech32Error."""
    if len(text) > _MAX_TEXT or not text.startswith(prefix + "1"):
        raise Bech32Error
    body = text[len(prefix) + 1 :]
    if len(body) < _CHECKSUM + 1 or not all(char in _ALPHABET for char in body):
        raise Bech32Error
    values = [_ALPHABET.index(char) for char in body]
    version, data = values[0], values[1:-_CHECKSUM]
    program = bytes(_regroup(bytes(data), 5, 8, pad=False))
    if version > 16 or not 2 <= len(program) <= 40 or (version == 0 and len(program) not in (20, 32)):
        raise Bech32Error
    if encode(prefix, version, program) != text:
        raise Bech32Error
    return version, program


def _regroup(data: bytes, width: int, wanted: int, *, pad: bool = True) -> list[int]:
    value = bits = 0
    result = []
    for part in data:
        value, bits = (value << width) | part, bits + width
        while bits >= wanted:
            bits -= wanted
            result.append((value >> bits) & ((1 << wanted) - 1))
        value &= (1 << bits) - 1
    if pad and bits:
        result.append((value << (wanted - bits)) & ((1 << wanted) - 1))
    return result


def _expand(prefix: str) -> list[int]:
    return [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for at, generator in enumerate(_GENERATOR):
            check ^= generator if (top >> at) & 1 else 0
    return check
