"""HPKE against RFC 9180's vectors and, in both directions, the `cryptography` package's implementation."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core import hpke
from adytum_enclave.core.crypto import x25519
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


def fill(view: memoryview) -> None:
    view[:] = os.urandom(len(view))


@pytest.fixture
def arena() -> Arena:
    return Arena(1 << 17)


def refused(arena: Arena, field: str, use: object) -> None:
    before = arena.in_use
    with pytest.raises(AdytumError) as caught:
        use()  # type: ignore[operator]
    assert (caught.value.code, caught.value.field) == (Code.REQUEST_INVALID, field)
    assert arena.in_use == before


def test_the_kem_meets_rfc_9180_a_1_1(arena: Arena) -> None:
    """A.1's KEM is ours; its AEAD is AES-128-GCM, so the comparison ends at the shared secret."""
    ephemeral = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
    enc = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
    recipient = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    public = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
    shared = "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"
    with slot_of(arena, ephemeral) as mine, slot_of(arena, recipient) as theirs, arena.take(32) as out:
        assert x25519.public_key(mine) == enc
        assert x25519.public_key(theirs) == public
        for secret, other in ((mine, public), (theirs, enc)):
            assert hpke._agree(secret, other, enc + public, out)
            assert bytes(out.view).hex() == shared


@settings(max_examples=30, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=1, max_size=400),
    st.binary(max_size=60),
    st.binary(max_size=60),
)
def test_both_directions_agree_with_cryptography(secret: bytes, plaintext: bytes, info: bytes, aad: bytes) -> None:
    arena = Arena(1 << 16, prefer_memfd_secret=False)
    theirs = X25519PrivateKey.from_private_bytes(secret)
    public = theirs.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    slot = slot_of(arena, secret)
    key = hpke.HpkeKey(secret=slot, public_key=x25519.public_key(slot))
    assert key.public_key == public

    message = openssl.hpke._encrypt_with_aad(SUITE, plaintext, X25519PublicKey.from_public_bytes(public), info, aad)
    with hpke.open_sealed(key, message[:32], message[32:], info=info, aad=aad, arena=arena) as opened:
        assert bytes(opened.view) == plaintext

    with slot_of(arena, plaintext) as text:
        enc, ciphertext = hpke.seal_to(public, text, info=info, aad=aad, arena=arena, fill=fill)
    assert openssl.hpke._decrypt_with_aad(SUITE, enc + ciphertext, theirs, info, aad) == plaintext
    key.wipe()
    assert arena.in_use == 0


def test_every_change_is_refused(arena: Arena) -> None:
    key, other = hpke.generate_keypair(arena, fill), hpke.generate_keypair(arena, fill)
    with slot_of(arena, b"imported secret") as text:
        enc, sealed = hpke.seal_to(key.public_key, text, info=b"i", aad=b"tenant\0r-1", arena=arena, fill=fill)

    def opening(
        with_key: hpke.HpkeKey = key,
        enc: bytes = enc,
        sealed: bytes = sealed,
        info: bytes = b"i",
        aad: bytes = b"tenant\0r-1",
    ) -> object:
        return lambda: hpke.open_sealed(with_key, enc, sealed, info=info, aad=aad, arena=arena)

    refused(arena, "$.sealed", opening(with_key=other))
    refused(arena, "$.sealed", opening(info=b"j"))
    refused(arena, "$.sealed", opening(aad=b"tenant\0r-2"))
    for at in range(len(sealed)):
        refused(arena, "$.sealed", opening(sealed=sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]))
    for at in range(31):
        refused(arena, "$.sealed", opening(enc=enc[:at] + bytes([enc[at] ^ 4]) + enc[at + 1 :]))
    for size in (0, 15, 16, len(sealed) - 1):
        refused(arena, "$.sealed", opening(sealed=sealed[:size]))
    refused(arena, "$.sealed", opening(enc=enc[:-1]))
    refused(arena, "$.sealed", opening(sealed=bytes(limits.MAX_SECRET + 17)))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_small_order_is_refused(arena: Arena, point: bytes) -> None:
    """Anybody knows the shared secret of such a point: it is zero."""
    key = hpke.generate_keypair(arena, fill)
    refused(arena, "$.sealed", lambda: hpke.open_sealed(key, point, bytes(48), info=b"", aad=b"", arena=arena))
    with slot_of(arena, b"secret") as text:
        refused(
            arena,
            "$.recipient",
            lambda: hpke.seal_to(point, text, info=b"", aad=b"", arena=arena, fill=fill),
        )
        refused(
            arena,
            "$.recipient",
            lambda: hpke.seal_to(bytes(31), text, info=b"", aad=b"", arena=arena, fill=fill),
        )


def test_a_key_pair_shows_no_secret(arena: Arena) -> None:
    key = hpke.generate_keypair(arena, fill)
    assert repr(key) == f"HpkeKey(public_key={key.public_key!r})"
    key.wipe()
    assert arena.in_use == 0


def test_the_largest_secret_passes(arena: Arena) -> None:
    key = hpke.generate_keypair(arena, fill)
    secret = os.urandom(limits.MAX_SECRET)
    with slot_of(arena, secret) as text:
        enc, sealed = hpke.seal_to(key.public_key, text, info=b"", aad=b"", arena=arena, fill=fill)
    with hpke.open_sealed(key, enc, sealed, info=b"", aad=b"", arena=arena) as opened:
        assert bytes(opened.view) == secret
