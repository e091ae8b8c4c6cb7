"""Check secp256k1 signatures without a native library: the recovery id of ECDSA, and BIP-340. Public values only.

OpenSSL verifies ECDSA; what it cannot do is recover a key (the recovery id decides whose transaction Ethereum sees) and
BIP-340. The arithmetic here is plain Python, about two milliseconds a check, and takes no secret.

Sources: SEC 1 v2 section 4.1.6; BIP-340.
"""

from __future__ import annotations

import hashlib

_P = 2**256 - 2**32 - 977
_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_Affine = tuple[int, int]
_Jacobian = tuple[int, int, int]
_INFINITY: _Jacobian = (0, 1, 0)


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The compressed key (33 bytes) that made r||s||recovery id (65 bytes) over `digest` (32 bytes), or None.

    None also for a high s: such a signature is malleable and Ethereum refuses it.
    """
    if len(digest) != 32 or len(signature) != 65 or signature[64] > 3:
        return None
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    x = r + (_N if v & 2 else 0)
    if not (0 < r < _N and 0 < s <= _N // 2 and x < _P):
        return None
    point = _lift(x, odd=bool(v & 1))
    if point is None:
        return None
    inverse = pow(r, -1, _N)
    z = int.from_bytes(digest, "big")
    found = _affine(_combine(-z * inverse % _N, _G, s * inverse % _N, point))
    return None if found is None else bytes([2 + (found[1] & 1)]) + found[0].to_bytes(32, "big")


def is_bip340(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when the 64-byte `signature` verifies over `message` under the x coordinate of `public_key` (33 bytes)."""
    if len(public_key) != 33 or len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    point = _lift(int.from_bytes(public_key[1:], "big"), odd=False)
    if point is None or r >= _P or s >= _N:
        return False
    tag = hashlib.sha256(b"BIP0340/challenge").digest()
    hashed = hashlib.sha256(tag + tag + signature[:32] + public_key[1:] + message).digest()
    e = int.from_bytes(hashed, "big") % _N
    found = _affine(_combine(s, _G, _N - e, point))
    return found is not None and found[1] % 2 == 0 and found[0] == r


def _lift(x: int, *, odd: bool) -> _Affine | None:
    if x >= _P:
        return None
    square = (pow(x, 3, _P) + 7) % _P
    y = pow(square, (_P + 1) // 4, _P)
    if y * y % _P != square:
        return None
    return x, y if y & 1 == odd else _P - y


def _combine(a: int, p: _Affine, b: int, q: _Affine) -> _Jacobian:
    """a*p + b*q, both scalars at once (Shamir's trick)."""
    table: tuple[_Jacobian, ...] = (_INFINITY, (*p, 1), (*q, 1), _add((*p, 1), (*q, 1)))
    total = _INFINITY
    for bit in range(255, -1, -1):
        total = _double(total)
        total = _add(total, table[(a >> bit & 1) | (b >> bit & 1) << 1])
    return total


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    if not z:
        return point
    s = 4 * x * y * y % _P
    m = 3 * x * x % _P
    x3 = (m * m - 2 * s) % _P
    return x3, (m * (s - x3) - 8 * pow(y, 4, _P)) % _P, 2 * y * z % _P


def _add(one: _Jacobian, two: _Jacobian) -> _Jacobian:
    if not one[2]:
        return two
    if not two[2]:
        return one
    x1, y1, z1 = one
    x2, y2, z2 = two
    z1z1, z2z2 = z1 * z1 % _P, z2 * z2 % _P
    u1, u2 = x1 * z2z2 % _P, x2 * z1z1 % _P
    s1, s2 = y1 * z2 * z2z2 % _P, y2 * z1 * z1z1 % _P
    if u1 == u2:
        return _double(one) if s1 == s2 else _INFINITY
    h, r = (u2 - u1) % _P, (s2 - s1) % _P
    hh = h * h % _P
    hhh, v = h * hh % _P, u1 * hh % _P
    x3 = (r * r - hhh - 2 * v) % _P
    return x3, (r * (v - x3) - s1 * hhh) % _P, h * z1 * z2 % _P


def _affine(point: _Jacobian) -> _Affine | None:
    x, y, z = point
    if not z:
        return None
    inverse = pow(z, -1, _P)
    return x * inverse * inverse % _P, y * pow(inverse, 3, _P) % _P
