"""Adding two secret P-256 scalars modulo the order, in slots: what SLIP-10 needs for P-256.

OpenSSL's Python binding has no arithmetic, and a Python int would be a copy that nobody can wipe. So the sum is made of
libsodium's constant-time pieces, in little-endian:

    sum    = a + b                          sodium_add, 40 bytes
    wraps  = byte 32 of sum + (2^256 - n)   1 when sum >= n, else 0
    result = sum + wraps * (2^256 - n)      modulo 2^256; the product by crypto_core_ed25519_scalar_mul, which computes
                                            modulo 2^252 + ..., more than 2^256 - n (224 bits) can reach

No branch and no address depends on a secret.
"""

from __future__ import annotations

from typing import Final

from nacl._sodium import ffi, lib

from adytum_enclave.core.crypto.p256 import ORDER, SECRET_SIZE
from adytum_enclave.core.secrets import Slot, copy, equal
from adytum_wire.errors import AdytumError, Code

_WIDE: Final = 40  # bytes: room for carries
_COMPLEMENT: Final = (2**256 - ORDER).to_bytes(_WIDE, "little")


def add(a: Slot, b: Slot, target: Slot) -> bool:
    """target = a + b modulo n; all are 32 bytes, big endian. `target` may be one of the others.

    Result: False when a >= n or the sum is 0 (SLIP-10 tries again then; b is taken to be a valid scalar); what is in
    `target` is worth nothing then. Errors: INTERNAL for other sizes, RESOURCE_EXHAUSTED.
    """
    if {a.size, b.size, target.size} != {SECRET_SIZE}:
        raise AdytumError(Code.INTERNAL)
    arena = a.arena
    with (
        arena.take(_WIDE) as total,
        arena.take(_WIDE) as other,
        arena.take(_WIDE) as wraps,
        arena.take(SECRET_SIZE) as product,
        arena.take(SECRET_SIZE) as factor,
    ):
        _reverse(a, total)
        _reduced_by_order(total, wraps)
        # Once in 2^32; whoever learns of it learns that this index is skipped, which the result shows anyway.
        if not equal(wraps.view[SECRET_SIZE:], bytes(_WIDE - SECRET_SIZE)):
            return False
        _reverse(b, other)
        lib.sodium_add(total.cdata(ffi), other.cdata(ffi), _WIDE)
        _reduced_by_order(total, wraps)
        factor.view[:1] = wraps.view[SECRET_SIZE : SECRET_SIZE + 1]
        lib.crypto_core_ed25519_scalar_mul(product.cdata(ffi), factor.cdata(ffi), _COMPLEMENT[:SECRET_SIZE])
        other.zero()
        copy(product.view, other)
        lib.sodium_add(total.cdata(ffi), other.cdata(ffi), SECRET_SIZE)
        _reverse(total, target)
        return not equal(target.view, bytes(SECRET_SIZE))


def _reduced_by_order(value: Slot, target: Slot) -> None:
    """target = value + 2^256 - n: its low 32 bytes are value - n, its byte 32 is 1, when value >= n."""
    target.view[:] = _COMPLEMENT
    lib.sodium_add(target.cdata(ffi), value.cdata(ffi), _WIDE)


def _reverse(source: Slot, target: Slot) -> None:
    """The first 32 bytes of `target` = those of `source`, last one first. Byte by byte as memory: a reversed slice
    would be copied through the heap, and a byte that becomes an int is a lookup in a table."""
    for at in range(SECRET_SIZE):
        last = SECRET_SIZE - 1 - at
        target.view[at : at + 1] = source.view[last : last + 1]
