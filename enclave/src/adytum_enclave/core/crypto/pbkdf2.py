"""PBKDF2-HMAC-SHA-512 (RFC 8018) for BIP-39, with password *and salt* secret: the salt holds the passphrase.

OpenSSL's PBKDF2 takes the salt as `bytes` and frees its own copy unwiped, so this is put together from libsodium's
SHA-512 over blocks in slots. 2048 rounds take about 30 ms, so they run on a thread of the shell's (`effects.Stretch`),
which must not touch the arena: everything is taken beforehand. For a public salt use `stretch`.

Left out: results of another size than one block (64 bytes).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl._sodium import ffi, lib

from adytum_enclave.core.crypto.exclusive import Adder
from adytum_enclave.core.secrets import Slot, Wiped, copy
from adytum_wire.errors import AdytumError, Code

HASH_SIZE: Final = 64  # bytes

_BLOCK: Final = 128  # bytes, SHA-512's block
_AES: Final = 16
_SPARE: Final = _AES - 1
_FIRST: Final = (1).to_bytes(4, "big")  # the number of the only block

# AES-128 with the all-zero key turns these into sixteen bytes 0x36 (HMAC's ipad) and 0x5c (its opad).
_INNER: Final = bytes.fromhex("7e3c47a82776e62a61fcad5017316fee")
_OUTER: Final = bytes.fromhex("02111d60aae434adaa1f35b9f16d35d7")


class Pbkdf2Sha512(Wiped):
    """One derivation: made and wiped where the arena is used, `run` anywhere. It owns its slots but not `target`."""

    __slots__ = ("_adder", "_inner", "_outer", "_owned", "_rounds", "_size", "_target", "_value")

    def __init__(self, password: Slot, salt: Slot, *, rounds: int, target: Slot) -> None:
        """`target`: 64 bytes. Errors: INTERNAL for another size, RESOURCE_EXHAUSTED; no slot stays taken then."""
        if target.size != HASH_SIZE or rounds < 1:
            raise AdytumError(Code.INTERNAL)
        arena = password.arena
        with ExitStack() as owned:
            self._inner = owned.enter_context(arena.take(_BLOCK + max(salt.size + len(_FIRST), HASH_SIZE)))
            self._outer = owned.enter_context(arena.take(_BLOCK + HASH_SIZE + _SPARE))
            self._value = owned.enter_context(arena.take(HASH_SIZE))
            self._adder = owned.enter_context(Adder(arena, HASH_SIZE))
            _pad(password, _INNER, self._inner)
            _pad(password, _OUTER, self._outer)
            copy(salt.view, self._inner, _BLOCK)
            copy(memoryview(_FIRST), self._inner, _BLOCK + salt.size)
            self._size = _BLOCK + salt.size + len(_FIRST)
            self._rounds, self._target = rounds, target
            self._owned = owned.pop_all()

    def run(self) -> None:
        """Fill the target. Once."""
        target, inner, outer, value = self._target, self._inner, self._outer, self._value
        start, digest = outer.cdata(ffi), outer.cdata(ffi) + _BLOCK
        for number in range(self._rounds):
            lib.crypto_hash_sha512(digest, inner.cdata(ffi), self._size if number == 0 else _BLOCK + HASH_SIZE)
            lib.crypto_hash_sha512(value.cdata(ffi), start, _BLOCK + HASH_SIZE)
            if number:
                self._adder.add(target, value)
            else:
                copy(value.view, target)
            copy(value.view, inner, _BLOCK)

    def wipe(self) -> None:
        self._owned.close()


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
