"""AES key unwrap with padding (RFC 5649) of a 32-byte key, in slots. `cryptography` has it, but hands out `bytes`.

Left out: wrapping, and other sizes of what is wrapped: only data keys of AES-256 come so.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from adytum_enclave.core.secrets import Slot, copy, equal
from adytum_wire.errors import AdytumError, Code

KEY_SIZE: Final = 32  # bytes, of the key that wraps and of the one that is wrapped
WRAPPED_SIZE: Final = 40  # bytes
_HALF: Final = 8
_BLOCK: Final = 16
_SPARE: Final = _BLOCK - 1
_COUNT: Final = KEY_SIZE // _HALF
_INITIAL: Final = bytes.fromhex("a65959a6") + KEY_SIZE.to_bytes(4, "big")  # RFC 5649, 3


def unwrap(wrapping: Slot, wrapped: bytes, target: Slot) -> bool:
    """Fill `target` (32 bytes) from 40 wrapped bytes. False when they were not wrapped with this key: `target` is zeros
    then. Errors: INTERNAL for other sizes, RESOURCE_EXHAUSTED."""
    if wrapping.size != KEY_SIZE or target.size != KEY_SIZE or len(wrapped) != WRAPPED_SIZE:
        raise AdytumError(Code.INTERNAL)
    arena = wrapping.arena
    with arena.take(_BLOCK) as block, arena.take(_BLOCK + _SPARE) as out:
        copy(memoryview(wrapped)[:_HALF], block)
        copy(memoryview(wrapped)[_HALF:], target)
        decrypt = Cipher(algorithms.AES(wrapping.view), modes.ECB()).decryptor()  # noqa: S305 (RFC 3394 is made of it)
        for step in range(6 * _COUNT, 0, -1):  # RFC 3394, 2.2.2
            at = (step - 1) % _COUNT * _HALF
            copy(target.view[at : at + _HALF], block, _HALF)
            _add_public(block, step.to_bytes(_HALF, "big") + bytes(_HALF), out)
            decrypt.update_into(block.view, out.view)
            copy(out.view[:_HALF], block)
            copy(out.view[_HALF:_BLOCK], target, at)
        if equal(block.view[:_HALF], _INITIAL):
            return True
        target.zero()
        return False


def _add_public(block: Slot, value: bytes, out: Slot) -> None:
    """block = block xor a public value: AES in counter mode with a public key, whose first block of key stream is the
    value (see `hkdf`)."""
    counter = Cipher(algorithms.AES(bytes(_BLOCK)), modes.ECB()).decryptor().update(value)  # noqa: S305
    Cipher(algorithms.AES(bytes(_BLOCK)), modes.CTR(counter)).encryptor().update_into(block.view, out.view)
    copy(out.view[:_BLOCK], block)
