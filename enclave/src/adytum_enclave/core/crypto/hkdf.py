"""HKDF-SHA-256 (RFC 5869) and HMAC-SHA-256 (RFC 2104) with secrets in slots.

HKDF is OpenSSL's: it overwrites what it holds in between (the pseudorandom key) and writes straight into the target.
HMAC is put together here, because the ones at hand return `bytes` or copy the key: two SHA-256 by libsodium over blocks
in slots.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from nacl._sodium import ffi, lib

from adytum_enclave.core.secrets import Arena, Slot, copy, equal
from adytum_wire.errors import AdytumError, Code

HASH_SIZE: Final = 32  # bytes
BLOCK_SIZE: Final = 64  # bytes, SHA-256's; the longest key of HMAC that is not hashed first

_BLOCK: Final = BLOCK_SIZE
_AES: Final = 16  # bytes, AES's block
_SPARE: Final = _AES - 1  # bytes that update_into wants behind its output
MAC_ROOM: Final = _BLOCK + HASH_SIZE  # bytes beside the message in the work slot of `MacKey.verify`

# AES-128 with the all-zero key turns these into sixteen bytes 0x36 (HMAC's ipad) and 0x5c (its opad).
_INNER: Final = (0x36, bytes.fromhex("7e3c47a82776e62a61fcad5017316fee"))
_OUTER: Final = (0x5C, bytes.fromhex("02111d60aae434adaa1f35b9f16d35d7"))


def derive(input_key: Slot, *, salt: bytes, info: bytes, target: Slot) -> None:
    """Extract and expand: fill `target` (1 to 8,160 bytes) with HKDF(salt, input_key, info). Neither salt nor info is
    secret. Errors: ValueError for a target that is too long."""
    HKDF(SHA256(), target.size, salt, info).derive_into(input_key.view, target.view)


def expand(prk: Slot, *, info: bytes, target: Slot) -> None:
    """HKDF-Expand: fill `target` from a 32-byte pseudorandom key. Errors: ValueError for a target that is too long."""
    HKDFExpand(SHA256(), target.size, info).derive_into(prk.view, target.view)


def hmac(key: Slot, message: bytes, target: Slot) -> None:
    """Fill `target` (32 bytes) with the HMAC-SHA-256 of a public message under a secret key of 32 or 64 bytes.

    A key of another length up to 64 is given in 64 bytes with zeros behind it, which HMAC would put there anyway. With
    the key as salt this is HKDF-Extract. Errors: INTERNAL for other sizes, RESOURCE_EXHAUSTED.
    """
    if key.size not in (HASH_SIZE, BLOCK_SIZE) or target.size != HASH_SIZE:
        raise AdytumError(Code.INTERNAL)
    arena = key.arena
    with arena.take(HASH_SIZE) as inner:
        _hash_after_key(arena, key, _INNER, memoryview(message), inner)
        _hash_after_key(arena, key, _OUTER, inner.view, target)


def _hash_after_key(arena: Arena, key: Slot, pad: tuple[int, bytes], data: memoryview, target: Slot) -> None:
    """target = SHA-256((key xor pad) || data)."""
    with arena.take(_BLOCK + max(len(data), _SPARE)) as block:
        _pad(key, pad, block)
        copy(data, block, _BLOCK)
        lib.crypto_hash_sha256(target.cdata(ffi), block.cdata(ffi), _BLOCK + len(data))


def _pad(key: Slot, pad: tuple[int, bytes], block: Slot, at: int = 0) -> None:
    """block[at:at+64] = key xor pad. There are at least `_SPARE` bytes behind."""
    value, counter = pad
    # Exclusive-or in native code, in constant time: AES in counter mode with a public key, of which each first
    # block of key stream is sixteen bytes of the pad. A loop in Python would look up each byte of the key.
    for start in range(0, key.size, _AES):
        pads = Cipher(algorithms.AES(bytes(_AES)), modes.CTR(counter)).encryptor()
        pads.update_into(key.view[start : start + _AES], block.view[at + start : at + start + _AES + _SPARE])
    block.view[at + key.size : at + _BLOCK] = bytes([value]) * (_BLOCK - key.size)


class MacKey:
    """An HMAC-SHA-256 key for many messages: both padded blocks are made once. Takes ownership of `key` (32 bytes).

    Errors: INTERNAL for another size (the slot is wiped), RESOURCE_EXHAUSTED.
    """

    __slots__ = ("_blocks",)

    def __init__(self, key: Slot) -> None:
        with key:
            if key.size != HASH_SIZE:
                raise AdytumError(Code.INTERNAL)
            self._blocks = key.arena.take(2 * _BLOCK + _SPARE)
            _pad(key, _INNER, self._blocks)
            _pad(key, _OUTER, self._blocks, _BLOCK)

    def verify(self, message: bytes, mac: bytes, work: Slot) -> bool:
        """True when `mac` (32 bytes) is the message's, in a time that depends on lengths alone. `work`: a slot of at
        least `len(message) + MAC_ROOM` bytes, the caller's; secret afterwards."""
        view, address, blocks = work.view, work.cdata(ffi), self._blocks.view
        view[:_BLOCK] = blocks[:_BLOCK]
        view[_BLOCK : _BLOCK + len(message)] = message
        lib.crypto_hash_sha256(address + _BLOCK, address, _BLOCK + len(message))  # over its own input: read to the end
        view[:_BLOCK] = blocks[_BLOCK : 2 * _BLOCK]
        lib.crypto_hash_sha256(address, address, _BLOCK + HASH_SIZE)
        return equal(view[:HASH_SIZE], mac)

    def wipe(self) -> None:
        self._blocks.wipe()
