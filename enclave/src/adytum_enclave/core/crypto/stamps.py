"""Verify clients' stamps by the fastest library in the enclave: libsodium for Ed25519, libsecp256k1 for its curve.

`adytum_wire.signatures` says what a valid stamp is; this accepts nothing that it refuses (a test compares them on
genuine, changed and degenerate input). libsodium refuses a little more: points of small order and non-canonical
encodings, which no honest signer makes.

Measured on one machine in one minute: Ed25519 54 us against 106 us by OpenSSL, secp256k1 36 us against 370 us.

>>> is_valid(Scheme.ED25519, bytes(32), b"message", bytes(64))
False
"""

from __future__ import annotations

from functools import lru_cache

from adytum_enclave.core.crypto import ed25519, secp256k1
from adytum_wire import signatures
from adytum_wire.types import Scheme, sha256


@lru_cache(
    maxsize=4096
)  # keys are public and the hosts' to choose, so bounded; parsing costs a fifth of a verification
def _verifier(public_key: bytes) -> secp256k1.Verifier | None:
    try:
        return secp256k1.Verifier(public_key)
    except ValueError:
        return None


def is_valid(scheme: Scheme, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when `signature` (64 bytes) over `message` verifies; sizes as in `Scheme`. Never raises for hostile input.

    Like `signatures.is_valid` it takes both s and n - s of an ECDSA signature: a stamp says who asked, and the request
    is known by the digest of its body, never by its stamp.
    """
    if scheme is Scheme.ED25519:
        return ed25519.verify(public_key, message, signature)
    if scheme is Scheme.SECP256K1:
        verifier = _verifier(public_key)
        return verifier is not None and verifier.ecdsa_any_s(sha256(message), signature)
    return signatures.is_valid(scheme, public_key, message, signature)
