"""ECDSA on P-256 (FIPS 186-5) by OpenSSL, the secret a 32-byte big-endian scalar in a slot.

OpenSSL takes keys as DER; the DER (SEC 1 inside PKCS #8, RFC 5915 and 5958) is put together in a slot, so the scalar is
never a Python int. Signing is deterministic (RFC 6979, SHA-256). s is made low (s or n - s, both are valid), so that
one request has one signature; who expects RFC 6979's own value compares s up to its sign.

Residue. OpenSSL's P-256 leaves the scalar (loading: half of it on the heap too) and the nonce, its inverse and its
Montgomery form (signing) on the stack; a nonce gives the key away as well. So each loading and signing is repeated at
once with a public dummy by the same path, which overwrites the same places. A test scans for all of these and finds
none; without the dummy it finds them. The price: loading and signing take twice as long.

What this cannot promise: while a `PrivateKey` is in use, OpenSSL's own copy lies in heap that is not locked. It is
overwritten when the object is collected.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NewType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from adytum_enclave.core.secrets import Slot, copy
from adytum_wire.errors import AdytumError, Code

SECRET_SIZE: Final = 32  # bytes
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # n, FIPS 186-5

_HALF_ORDER: Final = ORDER // 2

# PrivateKeyInfo { 0, { id-ecPublicKey, prime256v1 }, ECPrivateKey { 1, <32 bytes> } } up to the 32 bytes, which end it
_PREFIX: Final = bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420")

_DUMMY: Final = _PREFIX + bytes(31) + b"\x01"  # the public key is the generator

PrivateKey = NewType("PrivateKey", ec.EllipticCurvePrivateKey)


@cache
def _dummy_key() -> ec.EllipticCurvePrivateKey:
    return _load_der(memoryview(_DUMMY))


@cache
def _scheme() -> ec.ECDSA:
    return ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)


def load(secret: Slot) -> PrivateKey | None:
    """OpenSSL's key object of the scalar, or None when it is not 0 < value < n. The slot stays the caller's.

    Errors: RESOURCE_EXHAUSTED (the DER takes 128 bytes of the arena for the call).
    """
    if secret.size != SECRET_SIZE:
        return None
    with secret.arena.take(len(_PREFIX) + SECRET_SIZE) as der:
        copy(memoryview(_PREFIX), der)
        copy(secret.view, der, len(_PREFIX))
        try:
            return PrivateKey(_load_der(der.view))
        except ValueError:
            return None
        finally:
            _load_der(memoryview(_DUMMY))


def _load_der(der: memoryview) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(der, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # cannot be: the DER says what it is
    return key


def public_key(key: PrivateKey) -> bytes:
    """The compressed point, 33 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def sign(key: PrivateKey, digest: bytes) -> bytes:
    """Sign a 32-byte SHA-256 digest: r (32) || s (32, low). Errors: INTERNAL for a digest of another length."""
    if len(digest) != 32:
        raise AdytumError(Code.INTERNAL)
    der, _ = [one.sign(digest, _scheme()) for one in (key, _dummy_key())]
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")


class Verifier:
    """Verifies by one public key, parsed once."""

    __slots__ = ("_key",)

    def __init__(self, public: bytes) -> None:
        """`public`: a compressed point, 33 bytes. Errors: ValueError."""
        if len(public) != 33:
            raise ValueError("not a compressed point")
        self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)

    def ecdsa(self, digest: bytes, signature: bytes) -> bool:
        """True when r||s (64 bytes) over the 32-byte digest verifies and s is low. Never raises."""
        if len(digest) != 32 or len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if s > _HALF_ORDER:
            return False
        try:
            self._key.verify(encode_dss_signature(r, s), digest, _scheme())
        except InvalidSignature:
            return False
        return True
