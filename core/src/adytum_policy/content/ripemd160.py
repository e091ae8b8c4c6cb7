"""RIPEMD-160, because Bitcoin's addresses need it and OpenSSL may be built without it. For public data only.

Source: Dobbertin, Bosselaers, Preneel, "RIPEMD-160: A Strengthened Version of RIPEMD", appendix A.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_RHO = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)
_SHIFTS = (  # of round and message word
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)
_LEFT = (0, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0)


def ripemd160(data: bytes) -> bytes:
    """20 bytes."""
    state = _START
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + (8 * len(data)).to_bytes(8, "little")
    for at in range(0, len(padded), 64):
        words = [int.from_bytes(padded[at + 4 * word : at + 4 * word + 4], "little") for word in range(16)]
        left = _line(state, words, list(range(16)), _LEFT, range(5))
        right = _line(state, words, [(9 * word + 5) % 16 for word in range(16)], _RIGHT, range(4, -1, -1))
        state = tuple((state[(at + 1) % 5] + left[(at + 2) % 5] + right[(at + 3) % 5]) & _MASK for at in range(5))  # type: ignore[assignment]
    return b"".join(word.to_bytes(4, "little") for word in state)


def _line(
    state: tuple[int, ...], words: list[int], order: list[int], constants: tuple[int, ...], functions: range
) -> tuple[int, ...]:
    """One of the two lines of 80 steps. `functions`: which of the five functions each round uses."""
    a, b, c, d, e = state
    for turn, function in enumerate(functions):
        for word in order:
            total = (a + _mix(function, b, c, d) + words[word] + constants[turn]) & _MASK
            a, b, c, d, e = e, (_rotate(total, _SHIFTS[turn][word]) + e) & _MASK, b, _rotate(c, 10), d
        order = [_RHO[word] for word in order]
    return a, b, c, d, e


def _mix(function: int, x: int, y: int, z: int) -> int:
    if function == 0:
        return x ^ y ^ z
    if function == 1:
        return (x & y) | (~x & _MASK & z)
    if function == 2:
        return (x | (~y & _MASK)) ^ z
    if function == 3:
        return (x & z) | (y & ~z & _MASK)
    return x ^ (y | (~z & _MASK))


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK
