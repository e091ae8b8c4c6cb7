"""Which 32 bytes are an X25519 key that a secret may be sealed to."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

_PROBE = X25519PrivateKey.from_private_bytes(b"\x01" * 32)  # any scalar: it is clamped to a multiple of eight


_P = 2**255 - 19


def is_x25519(public_key: bytes) -> bool:
    """False for another length, for points of small order, with which everybody shares secrets (RFC 7748, 6.1), and
    for a second spelling of a point (the highest bit set, or p and more): two holders must not be one."""
    if int.from_bytes(public_key, "little") >= _P:
        return False
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        return False
    return True
