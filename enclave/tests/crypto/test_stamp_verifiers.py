"""The enclave's fast stamp verifier against `adytum_wire.signatures` (OpenSSL): it never accepts what that refuses."""

from __future__ import annotations

import hashlib

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto import stamps
from adytum_wire import signatures
from adytum_wire.types import Scheme

ORDER_SECP256K1 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
L = 2**252 + 27742317777372353535851937790883648493  # order of Ed25519's base point
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]

numbers = st.integers(1, 2**252)
messages = st.binary(max_size=80)
schemes = st.sampled_from([Scheme.ED25519, Scheme.SECP256K1])


def signed(scheme: Scheme, number: int, message: bytes) -> tuple[bytes, bytes]:
    if scheme is Scheme.ED25519:
        key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
        return key.public_key().public_bytes_raw(), key.sign(message)
    secret = PrivateKey(number.to_bytes(32, "big"))
    return secret.public_key.format(compressed=True), secret.sign_recoverable(message)[:64]


def both(scheme: Scheme, public: bytes, message: bytes, signature: bytes) -> tuple[bool, bool]:
    """(the fast answer, the answer of the slow path that defines what a stamp is)"""
    return (
        stamps.is_valid(scheme, public, message, signature),
        signatures.is_valid(scheme, public, message, signature),
    )


@settings(max_examples=60, deadline=None)
@given(schemes, numbers, messages)
def test_what_an_honest_client_stamps_is_accepted(scheme: Scheme, number: int, message: bytes) -> None:
    public, signature = signed(scheme, number, message)
    assert both(scheme, public, message, signature) == (True, True)


@settings(max_examples=150, deadline=None)
@given(schemes, numbers, messages, st.data())
def test_one_changed_bit_anywhere_gives_the_same_answer(
    scheme: Scheme, number: int, message: bytes, data: st.DataObject
) -> None:
    public, signature = signed(scheme, number, message)
    whole = bytearray(public + signature + message)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    end = len(public)
    fast, slow = both(scheme, bytes(whole[:end]), bytes(whole[end + 64 :]), bytes(whole[end : end + 64]))
    assert fast is slow is False


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(Scheme)), st.binary(max_size=70), messages, st.binary(max_size=70))
def test_hostile_bytes_never_raise_and_are_refused(
    scheme: Scheme, public: bytes, message: bytes, signature: bytes
) -> None:
    assert both(scheme, public, message, signature) == (False, False)


@settings(max_examples=40, deadline=None)
@given(numbers, messages)
def test_both_forms_of_an_ecdsa_signature_are_taken_as_by_the_slow_path(number: int, message: bytes) -> None:
    """OpenSSL-based clients make a high s every other time."""
    public, signature = signed(Scheme.SECP256K1, number, message)
    high = signature[:32] + (ORDER_SECP256K1 - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert both(Scheme.SECP256K1, public, message, high) == (True, True)


EDGES = [0, 1, ORDER_SECP256K1 - 1, ORDER_SECP256K1, ORDER_SECP256K1 + 1, 2**256 - 1]


@pytest.mark.parametrize("r", EDGES)
@pytest.mark.parametrize("s", EDGES)
def test_degenerate_ecdsa_numbers_are_refused_by_both(r: int, s: int) -> None:
    public, _ = signed(Scheme.SECP256K1, 5, b"m")
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert both(Scheme.SECP256K1, public, b"m", signature) == (False, False)


def test_a_key_in_another_form_than_compressed_is_refused_by_both() -> None:
    key = PrivateKey((5).to_bytes(32, "big"))
    signature = key.sign_recoverable(b"m")[:64]
    uncompressed = key.public_key.format(compressed=False)
    hybrid = bytes([6 + uncompressed[-1] % 2]) + uncompressed[1:]
    for form in (uncompressed, hybrid, uncompressed[1:], b"\0" * 33):
        assert both(Scheme.SECP256K1, form, b"m", signature) == (False, False)


def test_p256_is_left_to_the_slow_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Scheme] = []

    def slow(scheme: Scheme, *_rest: bytes) -> bool:
        asked.append(scheme)
        return True

    monkeypatch.setattr(stamps.signatures, "is_valid", slow)
    assert stamps.is_valid(Scheme.P256, b"key", b"m", bytes(64))
    assert asked == [Scheme.P256]


# --- Ed25519's corners, where libraries disagree: points of small order and points with a part of small order


def add(a: Point, b: Point) -> Point:
    k = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + k, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - k, -1, P)
    return x % P, y % P


def multiply(number: int, point: Point) -> Point:
    total = (0, 1)
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def point_of(y: int) -> Point:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return min(x, P - x), y


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE_Y = 4 * pow(5, -1, P) % P
BASE = next(p for p in (point_of(BASE_Y), (P - point_of(BASE_Y)[0], BASE_Y)) if p[0] % 2 == 0)
ORDER_EIGHT = point_of(0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7)
SMALL = [multiply(n, ORDER_EIGHT) for n in range(8)]


def forged(secret: int, nonce: int, key_part: Point, nonce_part: Point, message: bytes) -> tuple[bytes, bytes]:
    """What the holder of `secret` makes when parts of small order are added to the key and to R."""
    public = encoded(add(multiply(secret, BASE), key_part))
    r = encoded(add(multiply(nonce, BASE), nonce_part))
    h = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L
    return public, r + ((nonce + h * secret) % L).to_bytes(32, "little")


def test_the_arithmetic_of_these_tests_makes_good_signatures() -> None:
    public, signature = forged(7, 11, SMALL[0], SMALL[0], b"m")
    assert both(Scheme.ED25519, public, b"m", signature) == (True, True)
    assert multiply(8, ORDER_EIGHT) == (0, 1)
    assert len({encoded(point) for point in SMALL}) == 8


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, L - 1), st.integers(0, L - 1), st.sampled_from(SMALL), st.sampled_from(SMALL), st.binary(max_size=8)
)
def test_signatures_with_parts_of_small_order_are_never_accepted_by_the_fast_path_alone(
    secret: int, nonce: int, key_part: Point, nonce_part: Point, message: bytes
) -> None:
    """A verifier that multiplies by the cofactor accepts these; OpenSSL does not. Should a later libsodium change its
    rule, this test says so."""
    public, signature = forged(secret, nonce, key_part, nonce_part, message)
    fast, slow = both(Scheme.ED25519, public, message, signature)
    assert slow or not fast


@pytest.mark.parametrize("key", SMALL)
def test_a_key_under_which_anybody_signs_anything_is_refused(key: Point) -> None:
    for r in SMALL:
        assert not stamps.is_valid(Scheme.ED25519, encoded(key), b"anything", encoded(r) + bytes(32))


def test_an_s_that_is_not_reduced_is_refused_by_both() -> None:
    public, signature = signed(Scheme.ED25519, 9, b"m")
    s = int.from_bytes(signature[32:], "little")
    for factor in range(1, 8):
        again = signature[:32] + (s + factor * L).to_bytes(32, "little")
        assert both(Scheme.ED25519, public, b"m", again) == (False, False)
