"""HMAC-SHA-512 (RFC 2104, RFC 4231) with secrets in slots: what BIP-32 and SLIP-10 derive with.

Put together from libsodium's SHA-512 over blocks in slots, for the reasons that `hkdf` gives for HMAC-SHA-256.
One thread only, as an arena.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from nacl._sodium import ffi, lib

from adytum_enclave.core.secrets import Arena, Slot, copy
from adytum_wire.errors import AdytumError, Code

HASH_SIZE: Final = 64  # bytes
KEY_SIZE: Final = 32  # bytes of a secret key: a chain code

_BLOCK: Final = 128  # bytes, SHA-512's block
_AES: Final = 16  # bytes, AES's block
_SPARE: Final = _AES - 1  # bytes that update_into wants behind its output

# AES-128 with the all-zero key turns these into sixteen bytes 0x36 (HMAC's ipad) and 0x5c (its opad).
_INNER: Final = (0x36, bytes.fromhex("7e3c47a82776e62a61fcad5017316fee"))
_OUTER: Final = (0x5C, bytes.fromhex("02111d60aae434adaa1f35b9f16d35d7"))


def hmac(key: Slot, message: Slot, target: Slot) -> None:
    """Fill `target` (64 bytes) with the HMAC of a secret message under a secret key of 32 bytes.

    Errors: INTERNAL for other sizes, RESOURCE_EXHAUSTED.
    """
    if key.size != KEY_SIZE:
        raise AdytumError(Code.INTERNAL)
    _hmac(key.arena, key, message, target)


def hmac_named(key: bytes, message: Slot, target: Slot) -> None:
    """As `hmac`, under a public key of at most 128 bytes: the words that a master key is made with."""
    if len(key) > _BLOCK:
        raise AdytumError(Code.INTERNAL)
    _hmac(message.arena, key, message, target)


@cache
def _pads() -> CipherContext:
    """Made once, since making one costs more than the hash. It holds the public key and key stream, no input."""
    return Cipher(algorithms.AES(bytes(_AES)), modes.CTR(bytes(_AES))).encryptor()


def _hmac(arena: Arena, key: Slot | bytes, message: Slot, target: Slot) -> None:
    if target.size != HASH_SIZE:
        raise AdytumError(Code.INTERNAL)
    with arena.take(HASH_SIZE) as inner:
        _hash_after_key(arena, key, _INNER, message, inner)
        _hash_after_key(arena, key, _OUTER, inner, target)


def _hash_after_key(arena: Arena, key: Slot | bytes, pad: tuple[int, bytes], data: Slot, target: Slot) -> None:
    """target = SHA-512((key xor pad) || data)."""
    value, counter = pad
    with arena.take(_BLOCK + max(data.size, _SPARE)) as block:
        if isinstance(key, bytes):
            block.view[:_BLOCK] = bytes(byte ^ value for byte in key.ljust(_BLOCK, b"\0"))
        else:
            # Exclusive-or in native code, in constant time: see `hkdf`.
            pads = _pads()
            for start in range(0, KEY_SIZE, _AES):
                pads.reset_nonce(counter)
                pads.update_into(key.view[start : start + _AES], block.view[start : start + _AES + _SPARE])
            block.view[KEY_SIZE:_BLOCK] = bytes([value]) * (_BLOCK - KEY_SIZE)
        copy(data.view, block, _BLOCK)
        lib.crypto_hash_sha512(target.cdata(ffi), block.cdata(ffi), _BLOCK + data.size)
