"""Ed25519 and P-256 against RFC 8032, RFC 6979 and OpenSSL."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto import ed25519, p256
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire.errors import AdytumError, Code

# RFC 8032, 7.1: TEST 1 to 3
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
P256_SECRET = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
P256_X = "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
# RFC 6979, A.2.5, with SHA-256: message, r, s
RFC6979 = [
    (
        b"sample",
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    (
        b"test",
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
]


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


@pytest.fixture
def arena() -> Arena:
    return Arena(65536)


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
def test_ed25519_meets_the_rfc_8032_vectors(arena: Arena, seed: str, public: str, message: str, signature: str) -> None:
    text, expected = bytes.fromhex(message), bytes.fromhex(signature)
    with slot_of(arena, bytes.fromhex(seed)) as slot:
        assert ed25519.public_key(slot).hex() == public
        assert ed25519.sign(slot, text) == expected
    assert arena.in_use == 0
    assert ed25519.verify(bytes.fromhex(public), text, expected)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(0, 511))
def test_ed25519_agrees_with_openssl(seed: bytes, message: bytes, flip: int) -> None:
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    arena = Arena(4096, prefer_memfd_secret=False)
    with slot_of(arena, seed) as slot:
        expanded, public = ed25519.expand(slot)
        signature = ed25519.sign_with(expanded, message)
        expanded.wipe()
    assert public == theirs.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert signature == theirs.sign(message)
    assert ed25519.verify(public, message, signature)
    changed = bytearray(signature)
    changed[flip // 8] ^= 1 << flip % 8
    assert not ed25519.verify(public, message, bytes(changed))
    assert not ed25519.verify(public, message + b"!", signature)
    assert arena.in_use == 0


def test_ed25519_refuses_wrong_sizes_and_weak_keys(arena: Arena) -> None:
    with arena.take(31) as short:
        for use in (lambda: ed25519.expand(short), lambda: ed25519.sign_with(short, b"")):
            with pytest.raises(AdytumError) as caught:
                use()
            assert caught.value.code is Code.INTERNAL
    assert not ed25519.verify(bytes(32), b"", bytes(64))  # a point of small order verifies anything, if allowed
    assert not ed25519.verify(b"\1" + bytes(31), b"m", b"\1" + bytes(63))
    assert not ed25519.verify(bytes(31), b"", bytes(64))
    assert not ed25519.verify(bytes(32), b"", bytes(63))


@pytest.mark.parametrize(("message", "r", "s"), RFC6979)
def test_p256_meets_the_rfc_6979_vectors_up_to_low_s(arena: Arena, message: bytes, r: int, s: int) -> None:
    with slot_of(arena, bytes.fromhex(P256_SECRET)) as slot:
        key = p256.load(slot)
    assert key is not None
    assert p256.public_key(key).hex() == "03" + P256_X
    signature = p256.sign(key, hashlib.sha256(message).digest())
    assert signature == r.to_bytes(32, "big") + min(s, p256.ORDER - s).to_bytes(32, "big")
    assert arena.in_use == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, p256.ORDER - 1), st.binary(max_size=100))
def test_p256_agrees_with_openssl(value: int, message: bytes) -> None:
    theirs = ec.derive_private_key(value, ec.SECP256R1()).public_key()
    arena = Arena(4096, prefer_memfd_secret=False)
    with slot_of(arena, value.to_bytes(32, "big")) as slot:
        key = p256.load(slot)
    assert key is not None
    public = p256.public_key(key)
    assert public == theirs.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    digest = hashlib.sha256(message).digest()
    signature = p256.sign(key, digest)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    assert s <= p256.ORDER // 2
    theirs.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    verifier = p256.Verifier(public)
    assert verifier.ecdsa(digest, signature)
    assert not verifier.ecdsa(digest, r.to_bytes(32, "big") + (p256.ORDER - s).to_bytes(32, "big"))
    assert not verifier.ecdsa(hashlib.sha256(digest).digest(), signature)


@pytest.mark.parametrize("value", [0, p256.ORDER, p256.ORDER + 1, 2**256 - 1])
def test_p256_scalars_out_of_range_are_refused(arena: Arena, value: int) -> None:
    with slot_of(arena, value.to_bytes(32, "big")) as slot:
        assert p256.load(slot) is None
    assert arena.in_use == 0


def test_p256_refuses_wrong_sizes(arena: Arena) -> None:
    with arena.take(31) as short:
        assert p256.load(short) is None
    with slot_of(arena, b"\1" * 32) as slot:
        key = p256.load(slot)
    assert key is not None
    with pytest.raises(AdytumError) as caught:
        p256.sign(key, bytes(31))
    assert caught.value.code is Code.INTERNAL
    verifier = p256.Verifier(p256.public_key(key))
    assert not verifier.ecdsa(bytes(31), bytes(64))
    assert not verifier.ecdsa(bytes(32), bytes(63))
    assert not verifier.ecdsa(bytes(32), bytes(64))
    with pytest.raises(ValueError, match="compressed"):
        p256.Verifier(bytes(65))
