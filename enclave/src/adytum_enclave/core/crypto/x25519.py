"""X25519 (RFC 7748) by libsodium, on slots."""

from __future__ import annotations

from typing import Final

from nacl._sodium import ffi, lib

from adytum_enclave.core.secrets import Slot
from adytum_wire.errors import AdytumError, Code

SIZE: Final = 32  # bytes of secret, public key and shared secret

_BYTES = ffi.typeof("unsigned char[]")


def public_key(secret: Slot) -> bytes:
    """The public key (32 bytes) of any 32 bytes. Errors: INTERNAL for a slot of another size."""
    _require_size(secret)
    public = ffi.new(_BYTES, SIZE)
    if lib.crypto_scalarmult_base(public, secret.cdata(ffi)):
        raise AdytumError(Code.INTERNAL)
    return bytes(ffi.buffer(public))


def exchange(secret: Slot, public: bytes, target: Slot) -> bool:
    """Fill `target` (32 bytes) with the shared secret. False for a point of small order, whose shared secret is all
    zeros whatever the secret (RFC 7748, 6.1; RFC 9180, 7.1.4). Errors: INTERNAL for other lengths."""
    _require_size(secret)
    _require_size(target)
    if len(public) != SIZE:
        raise AdytumError(Code.INTERNAL)
    return bool(lib.crypto_scalarmult(target.cdata(ffi), secret.cdata(ffi), public) == 0)


def _require_size(slot: Slot) -> None:
    if slot.size != SIZE:
        raise AdytumError(Code.INTERNAL)
