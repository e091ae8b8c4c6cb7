"""Exclusive-or of secret bytes in native code and constant time: a loop in Python would look up each byte.

OpenSSL offers no bare exclusive-or, so AES under the public all-zero key stands in: a block that goes through the
cipher and back again comes out as it was, and CBC decryption adds the block before it.

Left out: sizes that are no multiple of 16 bytes.

>>> arena = Arena(4096)
>>> with arena.take(16) as a, arena.take(16) as b:
...     a.view[:], b.view[:] = bytes([12]) * 16, bytes([10]) * 16
...     with Adder(arena, 16) as adder:
...         adder.add(a, b)
...     bytes(a.view) == bytes([6]) * 16
True
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from adytum_enclave.core.secrets import Arena, Slot, Wiped
from adytum_wire.errors import AdytumError, Code

BLOCK: Final = 16  # bytes
_SPARE: Final = BLOCK - 1  # bytes that update_into wants behind its output
_ZERO: Final = bytes(BLOCK)


class Adder(Wiped):
    """`add` as often as wanted, for values of `size` bytes. A context manager: it owns three slots."""

    __slots__ = ("_decrypt", "_encrypt", "_hidden", "_mixed", "_out", "size")

    def __init__(self, arena: Arena, size: int) -> None:
        """Errors: INTERNAL for another size than whole blocks, RESOURCE_EXHAUSTED."""
        if size <= 0 or size % BLOCK:
            raise AdytumError(Code.INTERNAL)
        self.size: Final = size
        self._hidden = arena.take(size + _SPARE)
        try:
            self._mixed = arena.take(2 * size)
            try:
                self._out = arena.take(2 * size + _SPARE)
            except BaseException:
                self._mixed.wipe()
                raise
        except BaseException:
            self._hidden.wipe()
            raise
        self._encrypt = Cipher(algorithms.AES(_ZERO), modes.ECB()).encryptor()  # noqa: S305 (a permutation, no secrecy)
        self._decrypt = Cipher(algorithms.AES(_ZERO), modes.CBC(_ZERO)).decryptor()

    def add(self, target: Slot, other: Slot) -> None:
        """target = target xor other, both of `size` bytes."""
        hidden, mixed, out = self._hidden.view, self._mixed.view, self._out.view
        self._encrypt.update_into(other.view, hidden)
        for at in range(0, self.size, BLOCK):
            mixed[2 * at : 2 * at + BLOCK] = target.view[at : at + BLOCK]
            mixed[2 * at + BLOCK : 2 * at + 2 * BLOCK] = hidden[at : at + BLOCK]
        # D(E(other)) xor the block before it, which is the target's; what the other blocks become is of no use
        self._decrypt.update_into(mixed, out)
        for at in range(0, self.size, BLOCK):
            target.view[at : at + BLOCK] = out[2 * at + BLOCK : 2 * at + 2 * BLOCK]

    def wipe(self) -> None:
        for slot in (self._hidden, self._mixed, self._out):
            slot.wipe()
