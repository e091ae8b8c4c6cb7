"""Seal and open a usage snapshot under a data key of KMS (spec/usage.md, U-6).

As an envelope, with a salt of its own: the key that encrypts is derived from the data key and the header, with a
commitment, so one data key serves all snapshots of a boot and each has its own key. What is sealed is no secret in the
sense of a key (the host sees every request that is counted): it may pass through ordinary memory. The data key may not.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adytum_enclave.core import envelope
from adytum_enclave.core.crypto import aead, hkdf
from adytum_enclave.core.secrets import Arena, Slot, equal
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

SALT: Final = b"adytum/usage/v1"
_BODY: Final = envelope.COMMITMENT_SIZE + envelope.NONCE_SIZE


def seal(header: bytes, plaintext: bytes, data_key: Slot, *, nonce: bytes, arena: Arena) -> bytes:
    """commitment (32) || nonce (12) || ciphertext and tag. `nonce`: 12 random bytes. Errors: RESOURCE_EXHAUSTED."""
    with arena.take(aead.KEY_SIZE + envelope.COMMITMENT_SIZE) as derived:
        commitment = _derive(header, data_key, derived)
        return commitment + nonce + AESGCM(derived.view[: aead.KEY_SIZE]).encrypt(nonce, plaintext, header)


def open_sealed(header: bytes, blob: bytes, data_key: Slot, *, arena: Arena) -> bytes:
    """The plaintext. Errors: USAGE_INVALID when anything of header, blob or data key differs; RESOURCE_EXHAUSTED."""
    if len(blob) <= _BODY + aead.TAG_SIZE:
        raise AdytumError(Code.USAGE_INVALID)
    with arena.take(aead.KEY_SIZE + envelope.COMMITMENT_SIZE) as derived:
        commitment = _derive(header, data_key, derived)
        if not equal(commitment, blob[: envelope.COMMITMENT_SIZE]):
            raise AdytumError(Code.USAGE_INVALID)
        nonce = blob[envelope.COMMITMENT_SIZE : _BODY]
        try:
            return AESGCM(derived.view[: aead.KEY_SIZE]).decrypt(nonce, blob[_BODY:], header)
        except InvalidTag:
            raise AdytumError(Code.USAGE_INVALID) from None


def _derive(header: bytes, data_key: Slot, derived: Slot) -> bytes:
    """Fill `derived` with AES key (32) || commitment (32); return the commitment, which is public."""
    if data_key.size != envelope.DATA_KEY_SIZE:
        raise AdytumError(Code.INTERNAL)
    hkdf.derive(data_key, salt=SALT, info=sha256(header), target=derived)
    return bytes(derived.view[aead.KEY_SIZE :])
