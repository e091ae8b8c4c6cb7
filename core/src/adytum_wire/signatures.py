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
_CURVES: dict[Scheme, ec.EllipticCurve] = {Scheme.P256: ec.SECP256R1(), Scheme.SECP256K1: ec.SECP256K1()}


@lru_cache(maxsize=4096)  # loading a point costs as much as verifying with it
def _load(scheme: Scheme, public_key: bytes) -> Ed25519PublicKey | ec.EllipticCurvePublicKey:
    if scheme is Scheme.ED25519:
        return Ed25519PublicKey.from_public_bytes(public_key)
    if len(public_key) != 33:
        raise ValueError("want a compressed point")
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[scheme], public_key)


def is_public_key(scheme: Scheme, public_key: bytes) -> bool:
    """True when `public_key` is a valid, canonical key of the scheme."""
    try:
        _load(scheme, public_key)
    except ValueError:
        return False
    return True


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
