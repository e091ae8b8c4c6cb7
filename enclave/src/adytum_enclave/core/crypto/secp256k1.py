"""secp256k1 by libsecp256k1: ECDSA (RFC 6979, low s, recoverable) and BIP-340, on slots.

The secret is 32 bytes, big endian, and never leaves its slot. The library's context holds nothing but tables and a
blinding value; `randomise` sets that value and is called once at start (warmup.py). Structures with secrets (keypairs)
live in slots too; `ffi.new` is for public ones only.

Left out: hashing. Callers give the 32-byte digest or message that they are sure of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib

from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire.errors import AdytumError, Code

SECRET_SIZE: Final = 32  # bytes
KEYPAIR_SIZE: Final = 96  # bytes, sizeof(secp256k1_keypair)

_SIGNATURE = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
_PLAIN_SIGNATURE = ffi.typeof("secp256k1_ecdsa_signature *")
_POINT = ffi.typeof("secp256k1_pubkey *")
_XONLY = ffi.typeof("secp256k1_xonly_pubkey *")
_BYTES = ffi.typeof("unsigned char[]")
_INT = ffi.typeof("int *")
_SIZE = ffi.typeof("size_t *")
_KEYPAIR = ffi.typeof("secp256k1_keypair *")


@cache
def _context() -> Any:
    """The one context, made at the first call and kept for the life of the process."""
    return lib.secp256k1_context_create(lib.SECP256K1_CONTEXT_NONE)


def randomise(arena: Arena, fill: Callable[[memoryview], None]) -> None:
    """Blind the context with 32 random bytes (secp256k1_context_randomize). Not while another thread signs."""
    with arena.take(32) as seed:
        fill(seed.view)
        _require(lib.secp256k1_context_randomize(_context(), seed.cdata(ffi)))


def is_valid_secret(secret: Slot) -> bool:
    """True when the slot holds 32 bytes with 0 < value < n."""
    return secret.size == SECRET_SIZE and bool(lib.secp256k1_ec_seckey_verify(_context(), secret.cdata(ffi)))


def public_key(secret: Slot) -> bytes:
    """The compressed point (33 bytes, SEC 1). Errors: INTERNAL for an invalid secret."""
    _require(is_valid_secret(secret))
    point = ffi.new(_POINT)
    _require(lib.secp256k1_ec_pubkey_create(_context(), point, secret.cdata(ffi)))
    return _serialize(point)


def sign_ecdsa(secret: Slot, digest: bytes) -> bytes:
    """Sign a 32-byte digest: r (32) || s (32, low) || v (1, recovery id 0..3). Nonce by RFC 6979 with SHA-256.

    Errors: INTERNAL for a digest of another length or an invalid secret.
    """
    _require(secret.size == SECRET_SIZE and len(digest) == 32)
    signature = ffi.new(_SIGNATURE)
    context = _context()
    _require(
        lib.secp256k1_ecdsa_sign_recoverable(context, signature, digest, secret.cdata(ffi), ffi.NULL, ffi.NULL),
    )
    out, recovery_id = ffi.new(_BYTES, 65), ffi.new(_INT)
    lib.secp256k1_ecdsa_recoverable_signature_serialize_compact(context, out, recovery_id, signature)
    out[64] = recovery_id[0]
    return bytes(ffi.buffer(out))


def make_keypair(secret: Slot) -> Slot:
    """The library's keypair (96 bytes) in a slot of the same arena, for many BIP-340 signatures. The caller owns it.

    Errors: INTERNAL for an invalid secret, RESOURCE_EXHAUSTED.
    """
    _require(secret.size == SECRET_SIZE)
    pair = secret.arena.take(KEYPAIR_SIZE)
    if not lib.secp256k1_keypair_create(_context(), ffi.cast(_KEYPAIR, pair.pointer), secret.cdata(ffi)):
        pair.wipe()
        raise AdytumError(Code.INTERNAL)
    return pair


def tweak_secret(secret: Slot, tweak: Slot) -> bool:
    """secret = secret + tweak modulo n, in place (secp256k1_ec_seckey_tweak_add). Both are 32 bytes.

    Result: False when the tweak is not below n or the sum is 0: the secret is zeroes then. Errors: INTERNAL.
    """
    _require(secret.size == SECRET_SIZE and tweak.size == SECRET_SIZE)
    return bool(lib.secp256k1_ec_seckey_tweak_add(_context(), secret.cdata(ffi), tweak.cdata(ffi)))


def tweak_keypair(pair: Slot, tweak: bytes) -> bytes:
    """Add a public tweak (32 bytes) to a keypair in place, as BIP-341 has it. Result: the x-only public key, 32 bytes.

    Errors: INTERNAL for a tweak that is not below n, or cancels the key (no hash ever will).
    """
    _require(pair.size == KEYPAIR_SIZE and len(tweak) == 32)
    keypair = ffi.cast(_KEYPAIR, pair.pointer)
    _require(lib.secp256k1_keypair_xonly_tweak_add(_context(), keypair, tweak))
    point, out = ffi.new(_XONLY), ffi.new(_BYTES, 32)
    _require(lib.secp256k1_keypair_xonly_pub(_context(), point, ffi.NULL, keypair))
    lib.secp256k1_xonly_pubkey_serialize(_context(), out, point)
    return bytes(ffi.buffer(out))


def tweak_public(x: bytes, tweak: bytes) -> bytes | None:
    """The x coordinate (32 bytes) of the point with x and even y plus `tweak` (32 bytes) times the generator: BIP-341's
    output key. None for an x that is on no point, and for a tweak that is not below n or leads to infinity."""
    inner, output = ffi.new(_XONLY), ffi.new(_POINT)
    context = _context()
    if len(x) != 32 or len(tweak) != 32 or not lib.secp256k1_xonly_pubkey_parse(context, inner, x):
        return None
    if not lib.secp256k1_xonly_pubkey_tweak_add(context, output, inner, tweak):
        return None
    return _serialize(output)[1:]


def sign_bip340_with(pair: Slot, message: bytes, aux: bytes) -> bytes:
    """As `sign_bip340`, with a keypair of `make_keypair`."""
    _require(pair.size == KEYPAIR_SIZE and len(message) == 32 and len(aux) == 32)
    out = ffi.new(_BYTES, 64)
    _require(lib.secp256k1_schnorrsig_sign32(_context(), out, message, ffi.cast(_KEYPAIR, pair.pointer), aux))
    return bytes(ffi.buffer(out))


def sign_bip340(secret: Slot, message: bytes, aux: bytes) -> bytes:
    """Sign 32 bytes by BIP-340 with 32 bytes of auxiliary randomness; the signature is 64 bytes.

    Errors: INTERNAL for other lengths or an invalid secret, RESOURCE_EXHAUSTED (a keypair takes 128 bytes meanwhile).
    """
    with make_keypair(secret) as pair:
        return sign_bip340_with(pair, message, aux)


def verify_ecdsa(public: bytes, digest: bytes, signature: bytes) -> bool:
    """True when r||s (64 bytes, low s only) over the 32-byte digest verifies by the point. Never raises."""
    point = _parse(public)
    if point is None or len(digest) != 32 or len(signature) != 64:
        return False
    parsed = ffi.new(_PLAIN_SIGNATURE)
    if not lib.secp256k1_ecdsa_signature_parse_compact(_context(), parsed, signature):
        return False
    return bool(lib.secp256k1_ecdsa_verify(_context(), parsed, digest, point))


def verify_bip340(public_x: bytes, message: bytes, signature: bytes) -> bool:
    """True when the 64-byte signature over the 32-byte message verifies by the x-only key (32 bytes). Never raises."""
    if len(public_x) != 32 or len(message) != 32 or len(signature) != 64:
        return False
    point = ffi.new(_XONLY)
    if not lib.secp256k1_xonly_pubkey_parse(_context(), point, public_x):
        return False
    return bool(lib.secp256k1_schnorrsig_verify(_context(), signature, message, 32, point))


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The compressed point that made r||s||v over the digest, or None when there is none."""
    if len(digest) != 32 or len(signature) != 65 or signature[64] > 3:
        return None
    parsed = ffi.new(_SIGNATURE)
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(_context(), parsed, signature, signature[64]):
        return None
    point = ffi.new(_POINT)
    if not lib.secp256k1_ecdsa_recover(_context(), point, parsed, digest):
        return None
    return _serialize(point)


class Verifier:
    """Verifies by one public key, parsed once (parsing costs a fifth of a verification)."""

    __slots__ = ("_point", "_xonly")

    def __init__(self, public: bytes) -> None:
        """`public`: a compressed point, 33 bytes. Errors: ValueError."""
        point = _parse(public)
        if point is None:
            raise ValueError("not a compressed point of secp256k1")
        self._point = point
        self._xonly = ffi.new(_XONLY)
        _require(lib.secp256k1_xonly_pubkey_from_pubkey(_context(), self._xonly, ffi.NULL, point))

    def ecdsa(self, digest: bytes, signature: bytes) -> bool:
        """As `verify_ecdsa`."""
        parsed = ffi.new(_PLAIN_SIGNATURE)
        return (
            len(digest) == 32
            and len(signature) == 64
            and bool(lib.secp256k1_ecdsa_signature_parse_compact(_context(), parsed, signature))
            and bool(lib.secp256k1_ecdsa_verify(_context(), parsed, digest, self._point))
        )

    def ecdsa_any_s(self, digest: bytes, signature: bytes) -> bool:
        """As `ecdsa`, but a high s will do too: for signatures that others made and nobody identifies anything by."""
        parsed = ffi.new(_PLAIN_SIGNATURE)
        if len(digest) != 32 or len(signature) != 64:
            return False
        if not lib.secp256k1_ecdsa_signature_parse_compact(_context(), parsed, signature):
            return False
        lib.secp256k1_ecdsa_signature_normalize(_context(), parsed, parsed)
        return bool(lib.secp256k1_ecdsa_verify(_context(), parsed, digest, self._point))

    def bip340(self, message: bytes, signature: bytes) -> bool:
        """As `verify_bip340`, by the x coordinate of the key."""
        return (
            len(message) == 32
            and len(signature) == 64
            and bool(lib.secp256k1_schnorrsig_verify(_context(), signature, message, 32, self._xonly))
        )


def _parse(public: bytes) -> Any | None:
    point = ffi.new(_POINT)
    if len(public) != 33 or not lib.secp256k1_ec_pubkey_parse(_context(), point, public, 33):
        return None
    return point


def _serialize(point: Any) -> bytes:
    out, size = ffi.new(_BYTES, 33), ffi.new(_SIZE, 33)
    lib.secp256k1_ec_pubkey_serialize(_context(), out, size, point, lib.SECP256K1_EC_COMPRESSED)
    return bytes(ffi.buffer(out))


def _require(condition: object) -> None:
    if not condition:
        raise AdytumError(Code.INTERNAL)
