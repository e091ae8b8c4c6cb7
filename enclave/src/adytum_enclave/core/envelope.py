"""Seal and open a record's secret under a data key (spec/envelope.md).

    AES key (32) || commitment (32) = HKDF-SHA-256(IKM = data key, salt = "adytum/envelope/v1", info = SHA-256(header))
    ciphertext_blob                 = commitment (32) || nonce (12) || AES-256-GCM(AES key, nonce, secret, AAD = header)

AES-GCM alone does not commit to its key: one ciphertext may open under two. The commitment mends that, and is compared
in constant time before anything is decrypted. The header, all of it, is bound twice: by the derivation and by the AAD.

Left out: where data keys come from (KMS), and whether the public key in the header fits the secret (the caller's step).
"""

from __future__ import annotations

from typing import Final

from adytum_enclave.core.crypto import aead, hkdf
from adytum_enclave.core.secrets import Arena, Slot, equal
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

SALT: Final = b"adytum/envelope/v1"
DATA_KEY_SIZE: Final = 32  # bytes
COMMITMENT_SIZE: Final = 32  # bytes
NONCE_SIZE: Final = aead.NONCE_SIZE

_BODY: Final = COMMITMENT_SIZE + NONCE_SIZE
OVERHEAD: Final = _BODY + aead.TAG_SIZE  # bytes that a blob is longer than its secret
MAX_BLOB: Final = limits.MAX_SECRET + OVERHEAD


def seal(header_bytes: bytes, secret: Slot, data_key: Slot, *, nonce: bytes, arena: Arena) -> bytes:
    """The ciphertext_blob of `secret` (1 to `limits.MAX_SECRET` bytes). Both slots stay the caller's.

    `data_key`: 32 bytes, fresh from KMS for this record. `nonce`: 12 random bytes.
    Errors: INTERNAL for other lengths, RESOURCE_EXHAUSTED. No slot stays taken.
    """
    if data_key.size != DATA_KEY_SIZE or len(nonce) != NONCE_SIZE or secret.size > limits.MAX_SECRET:
        raise AdytumError(Code.INTERNAL)
    with arena.take(aead.KEY_SIZE) as key:
        commitment = _derive(header_bytes, data_key, key, arena)
        return commitment + nonce + aead.encrypt(key, nonce, secret, header_bytes)


def open_blob(header_bytes: bytes, ciphertext_blob: bytes, data_key: Slot, arena: Arena) -> Slot:
    """The secret of a blob that `seal` made under the same header bytes and data key. The caller owns the slot.

    Errors: RECORD_INVALID for a blob or a data key of an impossible length, RECORD_TAMPERED when anything of header,
    blob or data key differs, RESOURCE_EXHAUSTED. No slot stays taken then.
    """
    if data_key.size != DATA_KEY_SIZE or not OVERHEAD < len(ciphertext_blob) <= MAX_BLOB:
        raise AdytumError(Code.RECORD_INVALID)
    with arena.take(aead.KEY_SIZE) as key:
        commitment = _derive(header_bytes, data_key, key, arena)
        if not equal(commitment, ciphertext_blob[:COMMITMENT_SIZE]):
            raise AdytumError(Code.RECORD_TAMPERED)
        secret = arena.take(len(ciphertext_blob) - OVERHEAD)
        opened = False
        try:
            opened = aead.decrypt_into(
                key, ciphertext_blob[COMMITMENT_SIZE:_BODY], ciphertext_blob[_BODY:], header_bytes, secret
            )
        finally:
            if not opened:
                secret.wipe()
        if not opened:
            raise AdytumError(Code.RECORD_TAMPERED)
        return secret


def _derive(header_bytes: bytes, data_key: Slot, key: Slot, arena: Arena) -> bytes:
    """Fill `key`; return the commitment, which is public."""
    with arena.take(aead.KEY_SIZE + COMMITMENT_SIZE) as derived:
        hkdf.derive(data_key, salt=SALT, info=sha256(header_bytes), target=derived)
        key.view[:] = derived.view[: aead.KEY_SIZE]
        return bytes(derived.view[aead.KEY_SIZE :])
