"""PBKDF2-HMAC-SHA-512 (RFC 8018) for BIP-39, with password *and salt* secret: the salt holds the passphrase.

OpenSSL's PBKDF2 takes the salt as `bytes` and frees its own copy unwiped, so this is put together from libsodium's
SHA-512 over blocks in slots. 2048 rounds take about 30 ms. For a public salt use `stretch`.

Left out: results of another size than one block (64 bytes).
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl._sodium import ffi, lib

from adytum_enclave.core.crypto.exclusive import Adder
from adytum_enclave.core.secrets import Slot, copy
from adytum_wire.errors import AdytumError, Code

HASH_SIZE: Final = 64  # bytes

_BLOCK: Final = 128  # bytes, SHA-512's block
_AES: Final = 16
_SPARE: Final = _AES - 1
_FIRST: Final = (1).to_bytes(4, "big")  # the number of the only block

# AES-128 with the all-zero key turns these into sixteen bytes 0x36 (HMAC's ipad) and 0x5c (its opad).
_INNER: Final = bytes.fromhex("7e3c47a82776e62a61fcad5017316fee")
_OUTER: Final = bytes.fromhex("02111d60aae434adaa1f35b9f16d35d7")


def pbkdf2_sha512(password: Slot, salt: Slot, *, rounds: int, target: Slot) -> None:
    """Fill `target` (64 bytes). Errors: INTERNAL for another size, RESOURCE_EXHAUSTED."""
    if target.size != HASH_SIZE or rounds < 1:
        raise AdytumError(Code.INTERNAL)
    arena = password.arena
    message = max(salt.size + len(_FIRST), HASH_SIZE)
    with (
        arena.take(_BLOCK + message) as inner,
        arena.take(_BLOCK + HASH_SIZE + _SPARE) as outer,
        arena.take(HASH_SIZE) as value,
        Adder(arena, HASH_SIZE) as adder,
    ):
        _pad(password, _INNER, inner)
        _pad(password, _OUTER, outer)
        copy(salt.view, inner, _BLOCK)
        copy(memoryview(_FIRST), inner, _BLOCK + salt.size)
        size = _BLOCK + salt.size + len(_FIRST)
        start, digest = outer.cdata(ffi), outer.cdata(ffi) + _BLOCK
        for number in range(rounds):
            lib.crypto_hash_sha512(digest, inner.cdata(ffi), size)
            lib.crypto_hash_sha512(value.cdata(ffi), start, _BLOCK + HASH_SIZE)
            if number:
                adder.add(target, value)
            else:
                copy(value.view, target)
            copy(value.view, inner, _BLOCK)
            size = _BLOCK + HASH_SIZE


def _pad(password: Slot, counter: bytes, block: Slot) -> None:
    """block[:128] = key xor pad (RFC 2104), the key being the password, or its hash when it is longer than a block."""
    with password.arena.take(_BLOCK) as key, password.arena.take(_BLOCK + _SPARE) as padded:
        if password.size > _BLOCK:
            lib.crypto_hash_sha512(key.cdata(ffi), password.cdata(ffi), password.size)
        else:
            copy(password.view, key)
        for at in range(0, _BLOCK, _AES):
            # See `hkdf`: the first block of this key stream is sixteen bytes of the pad.
            pads = Cipher(algorithms.AES(bytes(_AES)), modes.CTR(counter)).encryptor()
            pads.update_into(key.view[at : at + _AES], padded.view[at : at + _AES + _SPARE])
        copy(padded.view[:_BLOCK], block)
