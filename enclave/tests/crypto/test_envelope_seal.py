"""The envelope: what it is made of (by another implementation), and that every change of anything is refused."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core import envelope
from adytum_enclave.core.crypto import aead, hkdf
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

HEADER = b'{"v":1,"tenant":"acme"}'
NONCE = bytes(range(12))
DATA_KEY = bytes(range(32))
SECRET = b"s" * 32


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


@pytest.fixture
def arena() -> Arena:
    return Arena(1 << 17)


def sealed(arena: Arena, header: bytes = HEADER, secret: bytes = SECRET, data_key: bytes = DATA_KEY) -> bytes:
    with slot_of(arena, secret) as plaintext, slot_of(arena, data_key) as key:
        return envelope.seal(header, plaintext, key, nonce=NONCE, arena=arena)


def opened(arena: Arena, header: bytes, blob: bytes, data_key: bytes = DATA_KEY) -> bytes:
    with slot_of(arena, data_key) as key, envelope.open_blob(header, blob, key, arena) as secret:
        return bytes(secret.view)


def refused(arena: Arena, code: Code, header: bytes, blob: bytes, data_key: bytes = DATA_KEY) -> None:
    with pytest.raises(AdytumError) as caught:
        opened(arena, header, blob, data_key)
    assert caught.value.code is code
    assert arena.in_use == 0


def test_the_blob_is_what_the_specification_says(arena: Arena) -> None:
    derived = HKDF(SHA256(), 64, b"adytum/envelope/v1", hashlib.sha256(HEADER).digest()).derive(DATA_KEY)
    expected = derived[32:] + NONCE + AESGCM(derived[:32]).encrypt(NONCE, SECRET, HEADER)
    blob = sealed(arena)
    assert blob == expected
    assert len(blob) == len(SECRET) + envelope.OVERHEAD
    assert opened(arena, HEADER, blob) == SECRET
    assert arena.in_use == 0


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.binary(min_size=1, max_size=600), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens(header: bytes, secret: bytes, data_key: bytes) -> None:
    arena = Arena(1 << 16, prefer_memfd_secret=False)
    assert opened(arena, header, sealed(arena, header, secret, data_key), data_key) == secret


def test_the_largest_secret_fits_and_one_byte_more_does_not(arena: Arena) -> None:
    secret = os.urandom(limits.MAX_SECRET)
    assert opened(arena, HEADER, sealed(arena, secret=secret)) == secret
    with pytest.raises(AdytumError) as caught:
        sealed(arena, secret=secret + b"!")
    assert caught.value.code is Code.INTERNAL
    refused(arena, Code.RECORD_INVALID, HEADER, bytes(limits.MAX_SECRET + envelope.OVERHEAD + 1))


def test_every_flipped_bit_of_the_blob_is_refused(arena: Arena) -> None:
    blob = sealed(arena)
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1 << at % 8
        refused(arena, Code.RECORD_TAMPERED, HEADER, bytes(changed))


def test_a_blob_under_another_header_or_data_key_is_refused(arena: Arena) -> None:
    blob = sealed(arena)
    for header in (HEADER + b" ", HEADER[:-1], b"", HEADER.replace(b"acme", b"evil")):
        refused(arena, Code.RECORD_TAMPERED, header, blob)
    refused(arena, Code.RECORD_TAMPERED, HEADER, blob, bytes(32))
    refused(arena, Code.RECORD_TAMPERED, HEADER, sealed(arena, HEADER + b"2")[:44] + blob[44:])


def test_a_truncated_blob_is_refused(arena: Arena) -> None:
    blob = sealed(arena)
    for size in range(len(blob)):
        code = Code.RECORD_INVALID if size <= envelope.OVERHEAD else Code.RECORD_TAMPERED
        refused(arena, code, HEADER, blob[:size])
    refused(arena, Code.RECORD_TAMPERED, HEADER, blob + b"!")


def test_a_ciphertext_that_fits_the_key_but_not_the_commitment_is_refused_unopened(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack on AES-GCM's missing key commitment: a valid ciphertext with another commitment in front."""
    blob = sealed(arena)

    def never(*_arguments: object) -> bool:
        raise AssertionError("decrypted before the commitment was compared")

    monkeypatch.setattr(aead, "decrypt_into", never)
    refused(arena, Code.RECORD_TAMPERED, HEADER, bytes(32) + blob[32:])


def test_a_data_key_of_another_length_is_refused(arena: Arena) -> None:
    refused(arena, Code.RECORD_INVALID, HEADER, sealed(arena), bytes(16))
    for data_key, nonce in ((bytes(16), NONCE), (DATA_KEY, NONCE[:-1])):
        with slot_of(arena, SECRET) as secret, slot_of(arena, data_key) as key, pytest.raises(AdytumError) as caught:
            envelope.seal(HEADER, secret, key, nonce=nonce, arena=arena)
        assert caught.value.code is Code.INTERNAL


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=64))
def test_garbage_opens_nothing_and_raises_nothing_else(blob: bytes, header: bytes) -> None:
    refused_codes = {Code.RECORD_INVALID, Code.RECORD_TAMPERED}
    arena = Arena(4096, prefer_memfd_secret=False)
    with pytest.raises(AdytumError) as caught:
        opened(arena, header, blob)
    assert caught.value.code in refused_codes
    assert arena.in_use == 0


# McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B: test cases 14 and 16 (AES-256)
GCM_KEY = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
GCM_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM = [
    ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    (
        GCM_KEY,
        "cafebabefacedbaddecaf888",
        GCM_TEXT,
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


@pytest.mark.parametrize(("key", "nonce", "text", "aad", "ciphertext", "tag"), GCM)
def test_aes_256_gcm_meets_the_published_vectors(
    arena: Arena, key: str, nonce: str, text: str, aad: str, ciphertext: str, tag: str
) -> None:
    iv, data = bytes.fromhex(nonce), bytes.fromhex(aad)
    with slot_of(arena, bytes.fromhex(key)) as cipher_key, slot_of(arena, bytes.fromhex(text)) as plaintext:
        sealed_text = aead.encrypt(cipher_key, iv, plaintext, data)
        assert sealed_text.hex() == ciphertext + tag
        with arena.take(plaintext.size) as target:
            assert aead.decrypt_into(cipher_key, iv, sealed_text, data, target)
            assert bytes(target.view).hex() == text
            assert not aead.decrypt_into(cipher_key, iv, sealed_text[:-1] + b"!", data, target)
            assert bytes(target.view) == bytes(target.size)
        with arena.take(plaintext.size + 1) as wrong, pytest.raises(AdytumError):
            aead.decrypt_into(cipher_key, iv, sealed_text, data, wrong)


# RFC 5869, A.1 to A.3
RFC5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("ikm", "salt", "info", "okm"), RFC5869)
def test_hkdf_meets_the_rfc_5869_vectors(arena: Arena, ikm: str, salt: str, info: str, okm: str) -> None:
    with slot_of(arena, bytes.fromhex(ikm)) as key, arena.take(len(okm) // 2) as target:
        hkdf.derive(key, salt=bytes.fromhex(salt), info=bytes.fromhex(info), target=target)
        assert bytes(target.view).hex() == okm
    assert arena.in_use == 0


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_hmac_agrees_with_the_standard_library(key: bytes, message: bytes) -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    with slot_of(arena, key) as slot, arena.take(32) as target:
        hkdf.hmac(slot, message, target)
        assert bytes(target.view) == hmac.digest(key, message, "sha256")
    assert arena.in_use == 0
