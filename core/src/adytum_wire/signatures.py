"""Verify a signature by a public key: Ed25519 (RFC 8032), ECDSA P-256 and secp256k1 with SHA-256 (FIPS 186-5)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from adytum_wire.types import Scheme

_SHA256 = ec.ECDSA(hashes.SHA256())
_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519
# y coordinates of the eight points of small order. Under such a "key" anybody signs anything: OpenSSL, which does not
# look, accepts (R, S) = (identity, 0) over every message. core/tests/wire derives these numbers again.
_SMALL_ORDER_Y = frozenset(
    (
        0,
        1,
        _P25519 - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    )
)
_CURVES: dict[Scheme, ec.EllipticCurve] = {Scheme.P256: ec.SECP256R1(), Scheme.SECP256K1: ec.SECP256K1()}


@lru_cache(maxsize=4096)  # loading a point costs as much as verifying with it
def _load(scheme: Scheme, public_key: bytes) -> Ed25519PublicKey | ec.EllipticCurvePublicKey:
    if scheme is Scheme.ED25519:
        return Ed25519PublicKey.from_public_bytes(public_key)
    if len(public_key) != 33:
        raise ValueError("want a compressed point")
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[scheme], public_key)


def is_public_key(scheme: Scheme, public_key: bytes) -> bool:
    """True when `public_key` is a valid, canonical key of the scheme, and for Ed25519 not of small order."""
    try:
        _load(scheme, public_key)
    except ValueError:
        return False
    return scheme is not Scheme.ED25519 or _is_sound_ed25519(public_key)


def is_valid(scheme: Scheme, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when `signature` (64 bytes) over `message` verifies. Never raises for hostile input."""
    if len(signature) != 64:
        return False
    try:
        key = _load(scheme, public_key)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), message, _SHA256)
    except (ValueError, InvalidSignature):
        return False
    return True


@lru_cache(maxsize=256)
def _is_sound_ed25519(public_key: bytes) -> bool:
    """RFC 8032, 5.1.3: y is below p and on the curve. Loading checks nothing but the length."""
    y = int.from_bytes(public_key, "little") & (2**255 - 1)  # the top bit is the sign of x
    if y >= _P25519 or y in _SMALL_ORDER_Y:
        return False
    square = (y * y - 1) * (_D25519 * y * y + 1) % _P25519  # x^2 = u/v is a square exactly when u*v is
    return pow(square, (_P25519 - 1) // 2, _P25519) == 1
