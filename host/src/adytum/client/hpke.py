"""HPKE (RFC 9180), base mode, with the contract's one suite: X25519, HKDF-SHA256, AES-256-GCM. Cryptography's own."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

ENC_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal(recipient: bytes, plaintext: bytes, *, info: bytes) -> tuple[bytes, bytes]:
    """Seal to the X25519 key `recipient` (32 bytes): (enc, ciphertext and tag). Errors: ValueError for a bad key."""
    blob = _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient), info)
    return blob[:ENC_BYTES], blob[ENC_BYTES:]


def unseal(private: X25519PrivateKey, enc: bytes, ciphertext: bytes, *, info: bytes) -> bytes:
    """The plaintext. Errors: ValueError for anything that does not open."""
    try:
        return _SUITE.decrypt(enc + ciphertext, private, info)
    except InvalidTag:
        raise ValueError("the sealed bytes do not open") from None
