"""AES-256-GCM (NIST SP 800-38D) by OpenSSL, key and plaintext in slots.

Left out: nonces. The caller never uses one twice with the same key.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adytum_enclave.core.secrets import Slot
from adytum_wire.errors import AdytumError, Code

KEY_SIZE: Final = 32  # bytes
NONCE_SIZE: Final = 12  # bytes
TAG_SIZE: Final = 16  # bytes


def encrypt(key: Slot, nonce: bytes, plaintext: Slot, aad: bytes) -> bytes:
    """Ciphertext || tag (16 bytes). Errors: INTERNAL for a key or nonce of another length."""
    return _cipher(key, nonce).encrypt(nonce, plaintext.view, aad)


def decrypt_into(key: Slot, nonce: bytes, ciphertext: bytes, aad: bytes, target: Slot) -> bool:
    """Open ciphertext || tag into `target`, whose size is the plaintext's. False when the tag does not verify: `target`
    then holds nothing of the plaintext. Errors: INTERNAL for lengths that do not fit."""
    if len(ciphertext) != target.size + TAG_SIZE:
        raise AdytumError(Code.INTERNAL)
    try:
        _cipher(key, nonce).decrypt_into(nonce, ciphertext, aad, target.view)
    except InvalidTag:
        target.zero()
        return False
    return True


def _cipher(key: Slot, nonce: bytes) -> AESGCM:
    if key.size != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise AdytumError(Code.INTERNAL)
    return AESGCM(key.view)
