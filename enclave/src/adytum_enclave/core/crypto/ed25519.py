"""Ed25519 (RFC 8032) by libsodium, on slots. The secret is the 32-byte seed; every seed is valid.

libsodium signs with 64 bytes, seed || public key (`expand`), which also live in a slot. A public key that does not
belong to the seed would give the secret away, so the pair is never put together from outside.
"""

from __future__ import annotations

from typing import Final

from nacl._sodium import ffi, lib

from adytum_enclave.core.secrets import Slot
from adytum_wire.errors import AdytumError, Code

SEED_SIZE: Final = 32  # bytes
EXPANDED_SIZE: Final = 64  # bytes
SIGNATURE_SIZE: Final = 64  # bytes

_BYTES = ffi.typeof("unsigned char[]")


def expand(seed: Slot) -> tuple[Slot, bytes]:
    """(seed || public key in a slot of the same arena, which the caller owns; public key, 32 bytes).

    Errors: INTERNAL for a slot of another size, RESOURCE_EXHAUSTED.
    """
    if seed.size != SEED_SIZE:
        raise AdytumError(Code.INTERNAL)
    expanded = seed.arena.take(EXPANDED_SIZE)
    public = ffi.new(_BYTES, 32)
    if lib.crypto_sign_seed_keypair(public, expanded.cdata(ffi), seed.cdata(ffi)):
        expanded.wipe()
        raise AdytumError(Code.INTERNAL)
    return expanded, bytes(ffi.buffer(public))


def public_key(seed: Slot) -> bytes:
    """The public key of a seed, 32 bytes. Errors: as `expand`."""
    expanded, public = expand(seed)
    expanded.wipe()
    return public


def sign_with(expanded: Slot, message: bytes) -> bytes:
    """Sign with the result of `expand`. The signature is 64 bytes. Errors: INTERNAL."""
    if expanded.size != EXPANDED_SIZE:
        raise AdytumError(Code.INTERNAL)
    signed = ffi.new(_BYTES, SIGNATURE_SIZE + len(message))
    if lib.crypto_sign(signed, ffi.NULL, message, len(message), expanded.cdata(ffi)):
        raise AdytumError(Code.INTERNAL)
    return bytes(ffi.buffer(signed, SIGNATURE_SIZE))


def sign(seed: Slot, message: bytes) -> bytes:
    """Sign any bytes; the signature is 64 bytes. Errors: as `expand`."""
    expanded, _ = expand(seed)
    with expanded:
        return sign_with(expanded, message)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True when the signature verifies by libsodium's strict rules (no point of small order, canonical s)."""
    if len(public) != 32 or len(signature) != SIGNATURE_SIZE:
        return False
    signed = signature + message
    out = ffi.new(_BYTES, len(signed))
    return bool(lib.crypto_sign_open(out, ffi.NULL, signed, len(signed), public) == 0)
