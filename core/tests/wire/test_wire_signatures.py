"""Signature checks against pyca/cryptography, libsecp256k1 (coincurve) and eth-keys; hostile input never raises."""

from __future__ import annotations

import hashlib

import pytest
from coincurve import PrivateKey as LibSecp256k1Key
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_keys import keys as eth_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_wire.signatures import is_public_key, is_valid
from adytum_wire.types import Scheme

ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ORDER_SECP256K1 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
P25519 = 2**255 - 19

numbers = st.integers(1, 2**255)
messages = st.binary(max_size=60)


def ed25519(number: int, message: bytes) -> tuple[bytes, bytes]:
    key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return key.public_key().public_bytes_raw(), key.sign(message)


def p256(number: int, message: bytes) -> tuple[bytes, bytes]:
    key = ec.derive_private_key(number % ORDER_P256 or 1, ec.SECP256R1())
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return public, r.to_bytes(32, "big") + s.to_bytes(32, "big")


def secp256k1(number: int, message: bytes) -> tuple[bytes, bytes]:
    key = LibSecp256k1Key((number % ORDER_SECP256K1 or 1).to_bytes(32, "big"))
    return key.public_key.format(compressed=True), key.sign_recoverable(message)[:64]


SIGN = {Scheme.ED25519: ed25519, Scheme.P256: p256, Scheme.SECP256K1: secp256k1}
schemes = st.sampled_from(list(Scheme))


@settings(max_examples=60, deadline=None)
@given(schemes, numbers, messages, st.data())
def test_genuine_signatures_hold_and_any_changed_bit_does_not(
    scheme: Scheme, number: int, message: bytes, data: st.DataObject
) -> None:
    public, signature = SIGN[scheme](number, message)
    assert is_public_key(scheme, public)
    assert is_valid(scheme, public, message, signature)
    assert not is_valid(scheme, public, message + b"\0", signature)
    bit = data.draw(st.integers(0, 511))
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not is_valid(scheme, public, message, bytes(flipped))
    for other in Scheme:
        if other is not scheme:
            assert not is_valid(other, public, message, signature)


@settings(max_examples=20, deadline=None)
@given(numbers, messages)
def test_secp256k1_agrees_with_eth_keys(number: int, message: bytes) -> None:
    key = eth_keys.PrivateKey((number % ORDER_SECP256K1 or 1).to_bytes(32, "big"))
    signature = key.sign_msg_hash(hashlib.sha256(message).digest()).to_bytes()[:64]
    assert is_valid(Scheme.SECP256K1, key.public_key.to_compressed_bytes(), message, signature)


@given(schemes, st.binary(max_size=70), messages, st.binary(max_size=70) | st.binary(min_size=64, max_size=64))
def test_hostile_input_never_raises(scheme: Scheme, public: bytes, message: bytes, signature: bytes) -> None:
    assert is_valid(scheme, public, message, signature) is False
    is_public_key(scheme, public)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_degenerate_signatures(scheme: Scheme) -> None:
    public, good = SIGN[scheme](5, b"m")
    order = ORDER_P256 if scheme is Scheme.P256 else ORDER_SECP256K1
    r, s = good[:32], good[32:]
    edges = [bytes(32), (1).to_bytes(32, "big"), order.to_bytes(32, "big"), b"\xff" * 32]
    for edge in edges:
        assert not is_valid(scheme, public, b"m", edge + s)
        assert not is_valid(scheme, public, b"m", r + edge)
        assert not is_valid(scheme, public, b"m", edge + edge)
    for wrong in (b"", good[:63], good + b"\0", b"\0" + good):
        assert not is_valid(scheme, public, b"m", wrong)


@pytest.mark.parametrize("scheme", [Scheme.P256, Scheme.SECP256K1])
def test_only_compressed_points(scheme: Scheme) -> None:
    curve = ec.SECP256R1() if scheme is Scheme.P256 else ec.SECP256K1()
    key = ec.derive_private_key(5, curve).public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    uncompressed = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert is_public_key(scheme, compressed)
    for wrong in (
        uncompressed,
        bytes([6 + uncompressed[-1] % 2]) + uncompressed[1:],  # hybrid
        b"\0",  # infinity
        bytes(33),
        b"\x04" + compressed[1:],
        b"\x02" + b"\xff" * 32,  # x over the field's prime
        compressed + b"\0",
        compressed[:-1],
        b"",
    ):
        assert not is_public_key(scheme, wrong)


def _order_eight() -> set[int]:
    """The y coordinates of all points whose order divides 8: multiply points of the curve by the prime order."""
    d = -121665 * pow(121666, -1, P25519) % P25519
    prime_order = 2**252 + 27742317777372353535851937790883648493

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        k = d * a[0] * b[0] * a[1] * b[1] % P25519
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + k, -1, P25519)
        y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - k, -1, P25519)
        return x % P25519, y % P25519

    found: set[int] = set()
    for y in range(2, 60):
        square = (y * y - 1) * pow(d * y * y + 1, -1, P25519) % P25519
        x = pow(square, (P25519 + 3) // 8, P25519)
        if x * x % P25519 != square:
            x = x * pow(2, (P25519 - 1) // 4, P25519) % P25519
        if x * x % P25519 != square:
            continue
        total, point, rest = (0, 1), (x, y), prime_order
        while rest:
            if rest & 1:
                total = add(total, point)
            point, rest = add(point, point), rest >> 1
        found.add(total[1])
    return found


def test_an_ed25519_key_under_which_anybody_signs_is_no_key() -> None:
    """OpenSSL verifies (R, S) = (identity, 0) by the identity "key" over every message, so the key must be refused."""
    identity = (1).to_bytes(32, "little")
    assert is_valid(Scheme.ED25519, identity, b"anything", identity + bytes(32))
    small = _order_eight()
    assert len(small) == 5
    for y in small:
        for sign in (0, 1 << 255):
            assert not is_public_key(Scheme.ED25519, (y | sign).to_bytes(32, "little"))


def test_ed25519_keys_that_are_no_canonical_point() -> None:
    for y in (P25519, P25519 + 1, P25519 + 3, 2**255 - 1):
        assert not is_public_key(Scheme.ED25519, y.to_bytes(32, "little"))
    on_curve = sum(is_public_key(Scheme.ED25519, y.to_bytes(32, "little")) for y in range(2, 102))
    assert 30 < on_curve < 70  # half of all y belong to a point
    for wrong in (b"", bytes(31), bytes(33)):
        assert not is_public_key(Scheme.ED25519, wrong)
