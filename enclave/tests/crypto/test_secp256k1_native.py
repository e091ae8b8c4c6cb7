"""secp256k1 against published vectors, coincurve's own high-level API and eth-keys."""

from __future__ import annotations

import hashlib
import os

import pytest
from coincurve import PrivateKey, PublicKeyXOnly
from eth_keys.datatypes import PrivateKey as EthPrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto import secp256k1
from adytum_enclave.core.secrets import Arena, Slot
from adytum_policy.content.address_bitcoin import add_tweak
from adytum_wire.errors import AdytumError, Code

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ARENA = 65536


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


@pytest.fixture
def arena() -> Arena:
    return Arena(ARENA)


# (secret, message hashed with SHA-256, r||s): the widely repeated RFC 6979 vectors for secp256k1 (Trezor, bitcoinjs)
RFC6979 = [
    (
        "0000000000000000000000000000000000000000000000000000000000000001",
        b"Satoshi Nakamoto",
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
    ),
    (
        "0000000000000000000000000000000000000000000000000000000000000001",
        b"All those moments will be lost in time, like tears in rain. Time to die...",
        "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b"
        "547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
    ),
    (
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140",
        b"Satoshi Nakamoto",
        "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d0"
        "6b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5",
    ),
    (
        "f8b8af8ce3c7cca5e300d33939540c10d45ce001b8f252bfbc57ba0342904181",
        b"Alan Turing",
        "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c"
        "58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea",
    ),
]


@pytest.mark.parametrize(("secret", "message", "expected"), RFC6979)
def test_ecdsa_meets_the_rfc_6979_vectors(arena: Arena, secret: str, message: bytes, expected: str) -> None:
    with slot_of(arena, bytes.fromhex(secret)) as slot:
        assert secp256k1.sign_ecdsa(slot, hashlib.sha256(message).digest())[:64].hex() == expected


# BIP-340, test-vectors.csv, index 0 to 3: secret, x-only key, aux, message, signature
BIP340 = [
    (
        "0000000000000000000000000000000000000000000000000000000000000003",
        "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
        "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
    ),
    (
        "b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfef",
        "dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659",
        "0000000000000000000000000000000000000000000000000000000000000001",
        "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
        "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de3341"
        "8906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a",
    ),
    (
        "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b14e5c9",
        "dd308afec5777e13121fa72b9cc1b7cc0139715309b086c960e18fd969774eb8",
        "c87aa53824b4d7ae2eb035a2b5bbbccc080e76cdc6d1692c4b0b62d798e6d906",
        "7e2d58d8b3bcdf1abadec7829054f90dda9805aab56c77333024b9d0a508b75c",
        "5831aaeed7b44bb74e5eab94ba9d4294c49bcf2a60728d8b4c200f50dd313c1b"
        "ab745879a5ad954a72c45a91c3a51d3c7adea98d82f8481e0e1e03674a6f3fb7",
    ),
    (
        "0b432b2677937381aef05bb02a66ecd012773062cf3fa2549e44f58ed2401710",
        "25d1dff95105f5253c4022f628a996ad3a0d95fbf21d468a1b33f8c160d8f517",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "7eb0509757e246f19449885651611cb965ecc1a187dd51b64fda1edc9637d5ec"
        "97582b9cb13db3933705b32ba982af5af25fd78881ebb32771fc5922efc66ea3",
    ),
]


@pytest.mark.parametrize(("secret", "public", "aux", "message", "signature"), BIP340)
def test_bip340_meets_the_official_vectors(
    arena: Arena, secret: str, public: str, aux: str, message: str, signature: str
) -> None:
    key, text, expected = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    with slot_of(arena, bytes.fromhex(secret)) as slot:
        assert secp256k1.public_key(slot)[1:] == key
        assert secp256k1.sign_bip340(slot, text, bytes.fromhex(aux)) == expected
    assert arena.in_use == 0
    assert secp256k1.verify_bip340(key, text, expected)


# BIP-340, test-vectors.csv, index 4 (valid), 5 (key not on the curve), 6 (has_even_y(R) is false)
def test_bip340_verification_vectors() -> None:
    key = bytes.fromhex("d69c3509bb99e412e68b0fe8544e72837dfa30746d8be2aa65975f29d22dc7b9")
    message = bytes.fromhex("4df3c3f68fcc83b27e9d42c90431a72499f17875c81a599b566c9889b9696703")
    signature = bytes.fromhex(
        "00000000000000000000003b78ce563f89a0ed9414f5aa28ad0d96d6795f9c63"
        "76afb1548af603b3eb45c9f8207dee1060cb71c04e80f593060b07d28308d7f4"
    )
    assert secp256k1.verify_bip340(key, message, signature)
    off_curve = bytes.fromhex("eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34")
    assert not secp256k1.verify_bip340(off_curve, message, signature)
    other = bytes.fromhex("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659")
    odd_r = bytes.fromhex(
        "fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a1460297556"
        "3cc27944640ac607cd107ae10923d9ef7a73c643e166be5ebeafa34b1ac553e2"
    )
    assert not secp256k1.verify_bip340(other, bytes.fromhex(BIP340[1][3]), odd_r)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, N - 1), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_it_agrees_with_coincurve_and_eth_keys(value: int, digest: bytes, aux: bytes) -> None:
    secret = value.to_bytes(32, "big")
    theirs = PrivateKey(secret)
    arena = Arena(4096, prefer_memfd_secret=False)
    with slot_of(arena, secret) as slot:
        public = secp256k1.public_key(slot)
        signature = secp256k1.sign_ecdsa(slot, digest)
        schnorr = secp256k1.sign_bip340(slot, digest, aux)
    assert public == theirs.public_key.format()
    assert signature == theirs.sign_recoverable(digest, hasher=None)
    assert int.from_bytes(signature[32:64], "big") <= N // 2
    ours = EthPrivateKey(secret).sign_msg_hash(digest)
    assert ours.to_bytes() == signature
    assert secp256k1.recover(digest, signature) == public
    assert secp256k1.verify_ecdsa(public, digest, signature[:64])
    assert schnorr == theirs.sign_schnorr(digest, aux)
    assert PublicKeyXOnly(public[1:]).verify(schnorr, digest)
    verifier = secp256k1.Verifier(public)
    assert verifier.bip340(digest, schnorr)
    assert verifier.ecdsa(digest, signature[:64])
    for flip in (0, 31, 63):
        changed = bytearray(signature)
        changed[flip] ^= 1
        assert not verifier.ecdsa(digest, bytes(changed[:64]))
        assert secp256k1.recover(digest, bytes(changed)) != public


@pytest.mark.parametrize("value", [0, N, N + 1, 2**256 - 1])
def test_scalars_out_of_range_are_refused_everywhere(arena: Arena, value: int) -> None:
    with slot_of(arena, value.to_bytes(32, "big")) as slot:
        assert not secp256k1.is_valid_secret(slot)
        for use in (
            lambda: secp256k1.public_key(slot),
            lambda: secp256k1.sign_ecdsa(slot, bytes(32)),
            lambda: secp256k1.sign_bip340(slot, bytes(32), bytes(32)),
        ):
            with pytest.raises(AdytumError) as caught:
                use()
            assert caught.value.code is Code.INTERNAL
    assert arena.in_use == 0


def test_lengths_that_would_read_past_a_buffer_are_refused(arena: Arena) -> None:
    with slot_of(arena, b"\1" * 32) as slot, arena.take(31) as short:
        for use in (
            lambda: secp256k1.sign_ecdsa(slot, bytes(31)),
            lambda: secp256k1.sign_ecdsa(short, bytes(32)),
            lambda: secp256k1.sign_bip340(slot, bytes(33), bytes(32)),
            lambda: secp256k1.sign_bip340(slot, bytes(32), b""),
            lambda: secp256k1.make_keypair(short),
        ):
            with pytest.raises(AdytumError) as caught:
                use()
            assert caught.value.code is Code.INTERNAL
        assert not secp256k1.is_valid_secret(short)
        public = secp256k1.public_key(slot)
    signature = bytes(64)
    assert not secp256k1.verify_ecdsa(public, bytes(31), signature)
    assert not secp256k1.verify_ecdsa(public, bytes(32), signature[:63])
    assert not secp256k1.verify_ecdsa(public[:32], bytes(32), signature)
    assert not secp256k1.verify_bip340(public, bytes(32), signature)
    assert secp256k1.recover(bytes(32), signature) is None
    assert secp256k1.recover(bytes(32), signature + b"\4") is None
    with pytest.raises(ValueError, match="compressed point"):
        secp256k1.Verifier(b"\2" + b"\xff" * 32)


def test_a_high_s_signature_is_refused(arena: Arena) -> None:
    with slot_of(arena, os.urandom(31) + b"\1") as slot:
        signature = secp256k1.sign_ecdsa(slot, bytes(32))
        public = secp256k1.public_key(slot)
    high = signature[:32] + (N - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    assert not secp256k1.verify_ecdsa(public, bytes(32), high)


def test_blinding_changes_no_signature(arena: Arena) -> None:
    with slot_of(arena, b"\7" * 32) as slot:
        before = secp256k1.sign_ecdsa(slot, b"d" * 32)
        seen = []

        def fill(view: memoryview) -> None:
            seen.append(len(view))
            view[:] = os.urandom(len(view))

        secp256k1.randomise(arena, fill)
        assert seen == [32]
        assert secp256k1.sign_ecdsa(slot, b"d" * 32) == before


@given(secret=st.integers(1, N - 1), tweak=st.integers(0, N - 1))
@settings(max_examples=40, deadline=None)
def test_a_tweaked_public_key_is_coincurves_and_openssls(secret: int, tweak: int) -> None:
    x = PrivateKey.from_int(secret).public_key.format()[1:]
    # The key and its tweak are no multiples of each other but by breaking SHA-256: `add_tweak` cannot double a point.
    assume(tweak not in (secret, N - secret))
    key, number = PublicKeyXOnly(x), tweak.to_bytes(32, "big")
    key.tweak_add(number)
    assert secp256k1.tweak_public(x, number) == key.format()
    if tweak:  # OpenSSL makes no private key of 0; no hash is
        assert add_tweak(x, number) == key.format()


@pytest.mark.parametrize(
    ("x", "tweak"),
    [(b"\xff" * 32, b"\1" * 32), (b"\5" * 31, b"\1" * 32), (b"\5" * 32, b"\1" * 32), (b"\2" * 32, b"\xff" * 32)],
)
def test_what_cannot_be_tweaked(x: bytes, tweak: bytes) -> None:
    """No point of the curve, a wrong size, a tweak over the order."""
    assert secp256k1.tweak_public(x, tweak) is None
