"""HPKE (RFC 9180) on slots: base mode, one message a key, one suite.

    KEM 0x0020 DHKEM(X25519, HKDF-SHA256), KDF 0x0001 HKDF-SHA256, AEAD 0x0002 AES-256-GCM

For what a client imports (`open_sealed`) and what an unsealed secret leaves in (`seal_to`). The `cryptography` package
has this suite, but takes keys and gives plaintext as `bytes`; the tests hold the two against each other.

Left out: PSK and auth modes, exported secrets, more than one message (sequence numbers).

>>> arena = Arena(4096)
>>> def fill(view): view[:] = bytes(range(len(view)))
>>> key = generate_keypair(arena, fill)
>>> with arena.take(5) as secret:
...     secret.view[:] = b"12345"
...     enc, ciphertext = seal_to(key.public_key, secret, info=b"i", aad=b"a", arena=arena, fill=fill)
>>> with open_sealed(key, enc, ciphertext, info=b"i", aad=b"a", arena=arena) as opened:
...     opened.size
5
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final

from adytum_enclave.core.crypto import aead, hkdf, x25519
from adytum_enclave.core.entropy import Fill
from adytum_enclave.core.secrets import Arena, Slot, copy
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

ENC_SIZE: Final = x25519.SIZE  # bytes of the encapsulated key, a public key

_VERSION: Final = b"HPKE-v1"
_KEM_SUITE: Final = b"KEM\x00\x20"
_SUITE: Final = b"HPKE\x00\x20\x00\x01\x00\x02"
_BASE_MODE: Final = b"\x00"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HpkeKey:
    """An X25519 key pair; `secret` (32 bytes) is owned by it. `public_key`: 32 bytes."""

    secret: Slot = field(repr=False)
    public_key: bytes

    def wipe(self) -> None:
        self.secret.wipe()


def generate_keypair(arena: Arena, fill: Fill) -> HpkeKey:
    """A fresh key pair (every 32 bytes are a valid secret). Errors: RESOURCE_EXHAUSTED."""
    secret = arena.take(x25519.SIZE)
    try:
        fill(secret.view)
        return HpkeKey(secret=secret, public_key=x25519.public_key(secret))
    except BaseException:
        secret.wipe()
        raise


def open_sealed(
    key: HpkeKey,
    enc: bytes,
    ciphertext: bytes,
    *,
    info: bytes,
    aad: bytes,
    arena: Arena,
    most: int = limits.MAX_SECRET,
) -> Slot:
    """Open a message to `key` (RFC 9180, 6.1, OpenBase). The caller owns the slot.

    Errors: REQUEST_INVALID "$.sealed" for lengths that cannot be (`enc` 32 bytes; 1 to `most` bytes of plaintext, then
    a tag), an `enc` of small order, and anything that does not authenticate; RESOURCE_EXHAUSTED. No
    slot stays taken then.
    """
    size = len(ciphertext) - aead.TAG_SIZE
    if len(enc) != ENC_SIZE or not 0 < size <= most:
        raise AdytumError(Code.REQUEST_INVALID, "$.sealed")
    with arena.take(aead.KEY_SIZE) as message_key, arena.take(aead.NONCE_SIZE) as nonce:
        if not _schedule(key.secret, enc, enc + key.public_key, info, message_key, nonce):
            raise AdytumError(Code.REQUEST_INVALID, "$.sealed")
        plaintext = arena.take(size)
        opened = False
        try:
            opened = aead.decrypt_into(message_key, bytes(nonce.view), ciphertext, aad, plaintext)
        finally:
            if not opened:
                plaintext.wipe()
        if not opened:
            raise AdytumError(Code.REQUEST_INVALID, "$.sealed")
        return plaintext


def seal_to(
    recipient_public: bytes, plaintext: Slot, *, info: bytes, aad: bytes, arena: Arena, fill: Fill
) -> tuple[bytes, bytes]:
    """Seal a slot to a public key (RFC 9180, 6.1, SealBase): (enc of 32 bytes, ciphertext and tag). The plaintext stays
    the caller's.

    Errors: REQUEST_INVALID "$.recipient" for a key of another length or of small order; RESOURCE_EXHAUSTED.
    """
    if len(recipient_public) != x25519.SIZE:
        raise AdytumError(Code.REQUEST_INVALID, "$.recipient")
    ephemeral = generate_keypair(arena, fill)
    with ephemeral.secret, arena.take(aead.KEY_SIZE) as message_key, arena.take(aead.NONCE_SIZE) as nonce:
        enc = ephemeral.public_key
        if not _schedule(ephemeral.secret, recipient_public, enc + recipient_public, info, message_key, nonce):
            raise AdytumError(Code.REQUEST_INVALID, "$.recipient")
        return enc, aead.encrypt(message_key, bytes(nonce.view), plaintext, aad)


def _schedule(secret: Slot, public: bytes, kem_context: bytes, info: bytes, key: Slot, nonce: Slot) -> bool:
    """Fill `key` and `nonce`. False when the two sides agree on zeros. `kem_context`: enc || recipient's public key."""
    arena = secret.arena
    with arena.take(hkdf.HASH_SIZE) as shared, arena.take(hkdf.HASH_SIZE) as schedule:
        if not _agree(secret, public, kem_context, shared):
            return False
        # 5.1 KeySchedule, with no PSK: secret = LabeledExtract(shared_secret, "secret", "")
        context = _BASE_MODE + _labeled_hash(b"psk_id_hash", b"") + _labeled_hash(b"info_hash", info)
        hkdf.hmac(shared, _VERSION + _SUITE + b"secret", schedule)
        hkdf.expand(schedule, info=_labeled_info(_SUITE, b"key", context, key.size), target=key)
        hkdf.expand(schedule, info=_labeled_info(_SUITE, b"base_nonce", context, nonce.size), target=nonce)
        return True


def _agree(secret: Slot, public: bytes, kem_context: bytes, shared: Slot) -> bool:
    """4.1 Encap and Decap: the KEM's shared secret, or False for an all-zero Diffie-Hellman value."""
    label = _VERSION + _KEM_SUITE + b"eae_prk"
    with secret.arena.take(x25519.SIZE) as dh, secret.arena.take(len(label) + x25519.SIZE) as ikm:
        if not x25519.exchange(secret, public, dh):
            return False
        copy(memoryview(label), ikm)
        copy(dh.view, ikm, len(label))
        info = _labeled_info(_KEM_SUITE, b"shared_secret", kem_context, shared.size)
        hkdf.derive(ikm, salt=b"", info=info, target=shared)
        return True


def _labeled_hash(label: bytes, value: bytes) -> bytes:
    """LabeledExtract("", label, value) of public values."""
    return hmac.digest(b"", _VERSION + _SUITE + label + value, "sha256")


def _labeled_info(suite: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """4. LabeledExpand's info: I2OSP(L, 2) || "HPKE-v1" || suite_id || label || info."""
    return size.to_bytes(2, "big") + _VERSION + suite + label + info
