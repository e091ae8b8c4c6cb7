"""BIP-32 and SLIP-10: their own vectors, and random paths against a library that we did not write."""

from __future__ import annotations

import copy
import hashlib
import hmac as python_hmac
import os
import pickle

import pytest
from bip_utils import (
    Bip32KeyError,
    Bip32Slip10Ed25519,
    Bip32Slip10Nist256p1,
    Bip32Slip10Secp256k1,
)
from ecdsa import NIST256p
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair

from adytum_enclave.core import hd
from adytum_enclave.core.crypto import hmac512, p256_scalars
from adytum_enclave.core.hd import MAX_CHILDREN, Seed, derive
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire.errors import AdytumError, Code
from adytum_wire.paths import HARDENED, format_path, parse_path
from adytum_wire.types import Algorithm

ORACLES = {
    Algorithm.SECP256K1: Bip32Slip10Secp256k1,
    Algorithm.ED25519: Bip32Slip10Ed25519,
    Algorithm.P256: Bip32Slip10Nist256p1,
}
ORDER = NIST256p.order

# BIP-32's test vectors 1 to 4: seed, then (path, private key). The third and fourth are about leading zeros.
SHORT = "000102030405060708090a0b0c0d0e0f"
LONG = (
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a"
    "5754514e4b484542"
)
ZEROS = (
    "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df"
    "2e5a3c51c73235be"
)
MORE_ZEROS = "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678"
BIP32 = [
    (
        SHORT,
        "m/0'/1/2'/2/1000000000",
        "xprvA41z7zogVVwxVSgdKUHDy1SKmdb533PjDz7J6N6mV6uS3ze1ai8FHa8kmHScGpWmj4WggLyQjgPie1rFSruoUihUZREPSL39UNdE3BBDu76",
    ),
    (
        LONG,
        "m/0/2147483647'/1/2147483646'/2",
        "xprvA2nrNbFZABcdryreWet9Ea4LvTJcGsqrMzxHx98MMrotbir7yrKCEXw7nadnHM8Dq38EGfSh6dqA9QWTyefMLEcBYJUuekgW4BYPJcr9E7j",
    ),
    (
        ZEROS,
        "m/0'",
        "xprv9uPDJpEQgRQfDcW7BkF7eTya6RPxXeJCqCJGHuCJ4GiRVLzkTXBAJMu2qaMWPrS7AANYqdq6vcBcBUdJCVVFceUvJFjaPdGZ2y9WACViL4L",
    ),
    (
        MORE_ZEROS,
        "m/0'/1'",
        "xprv9xJocDuwtYCMNAo3Zw76WENQeAS6WGXQ55RCy7tDJ8oALr4FWkuVoHJeHVAcAqiZLE7Je3vZJHxspZdFHfnBEjHqU5hG1Jaj32dVoS6XLT1",
    ),
]

# SLIP-10's vectors: curve, seed, path, private key, public key.
SLIP10 = [
    (
        Algorithm.P256,
        SHORT,
        "m/0'/1/2'/2/1000000000",
        "21c4f269ef0a5fd1badf47eeacebeeaa3de22eb8e5b0adcd0f27dd99d34d0119",
        "02216cd26d31147f72427a453c443ed2cde8a1e53c9cc44e5ddf739725413fe3f4",
    ),
    (
        Algorithm.P256,  # "derivation retry": the child at 28578' is found at the second try
        SHORT,
        "m/28578'",
        "06f0db126f023755d0b8d86d4591718a5210dd8d024e3e14b6159d63f53aa669",
        "02519b5554a4872e8c9c1c847115363051ec43e93400e030ba3c36b52a3e70a5b7",
    ),
    (
        Algorithm.P256,
        SHORT,
        "m/28578'/33941",
        "092154eed4af83e078ff9b84322015aefe5769e31270f62c3f66c33888335f3a",
        "0235bfee614c0d5b2cae260000bb1d0d84b270099ad790022c1ae0b2e782efe120",
    ),
    (
        Algorithm.P256,  # "seed retry"
        "a7305bc8df8d0951f0cb224c0e95d7707cbdf2c6ce7e8d481fec69c7ff5e9446",
        "m",
        "3b8c18469a4634517d6d0b65448f8e6c62091b45540a1743c5846be55d47d88f",
        "0383619fadcde31063d8c5cb00dbfe1713f3e6fa169d8541a798752a1c1ca0cb20",
    ),
    (
        Algorithm.ED25519,
        SHORT,
        "m/0'/1'/2'/2'/1000000000'",
        "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
        "3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a",
    ),
    (
        Algorithm.ED25519,
        LONG,
        "m/0'/2147483647'/1'/2147483646'/2'",
        "551d333177df541ad876a60ea71f00447931c0a9da16f227c11ea080d7391b8d",
        "47150c75db263559a70d5778bf36abbab30fb061ad69f69ece61a72b0cfa4fc0",
    ),
    (
        Algorithm.SECP256K1,
        SHORT,
        "m/0'/1/2'/2/1000000000",
        "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8",
        "022a471424da5e657499d1ff51cb43c47481a03b1e77f951fe64cec9f5a48f7011",
    ),
]


@pytest.fixture
def arena() -> Arena:
    return Arena(65536)


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


def private(arena: Arena, seed: bytes, path: str, algorithm: Algorithm) -> tuple[bytes, bytes]:
    """(private, public) key, as only a test may read it."""
    with Seed(slot_of(arena, seed)) as whole:
        if path == "m":
            with whole.master(algorithm) as node, node.key() as key:
                return bytes(key.secret.view), key.public_key
        key = whole.key(path, algorithm)
        return bytes(key.secret.view), key.public_key


def refused(use: object, field: str = "$.path", code: Code = Code.REQUEST_INVALID) -> None:
    with pytest.raises(AdytumError) as caught:
        use()  # type: ignore[operator]
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(("seed", "path", "extended"), BIP32)
def test_bip32_vectors(arena: Arena, seed: str, path: str, extended: str) -> None:
    expected = Bip32Slip10Secp256k1.FromExtendedKey(extended)
    secret, public = private(arena, bytes.fromhex(seed), path, Algorithm.SECP256K1)
    assert secret == expected.PrivateKey().Raw().ToBytes()
    assert public == expected.PublicKey().RawCompressed().ToBytes()
    with Seed(slot_of(arena, bytes.fromhex(seed))) as whole, whole.node(path, Algorithm.SECP256K1) as node:
        assert bytes(node._chain.view) == expected.ChainCode().ToBytes()
    assert arena.in_use == 0


@pytest.mark.parametrize(("algorithm", "seed", "path", "secret", "public"), SLIP10)
def test_slip10_vectors(arena: Arena, algorithm: Algorithm, seed: str, path: str, secret: str, public: str) -> None:
    found = private(arena, bytes.fromhex(seed), path, algorithm)
    assert (found[0].hex(), found[1].hex()) == (secret, public)
    assert arena.in_use == 0


INDEX = st.one_of(st.integers(0, 3), st.integers(0, HARDENED - 1))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.binary(min_size=16, max_size=64),
    algorithm=st.sampled_from(list(ORACLES)),
    steps=st.lists(st.tuples(INDEX, st.booleans()), min_size=1, max_size=10),
)
def test_random_paths_give_what_another_library_gives(
    seed: bytes, algorithm: Algorithm, steps: list[tuple[int, bool]]
) -> None:
    indices = [index + HARDENED * (hard or algorithm is Algorithm.ED25519) for index, hard in steps]
    path = format_path(indices)
    oracle = ORACLES[algorithm].FromSeed(seed).DerivePath(path)
    arena = Arena(65536)
    secret, public = private(arena, seed, path, algorithm)
    raw = oracle.PublicKey().RawCompressed().ToBytes()
    assert (secret, public) == (oracle.PrivateKey().Raw().ToBytes(), raw[-32:] if len(public) == 32 else raw)
    assert arena.in_use == 0


def test_solanas_own_library_derives_the_same(arena: Arena) -> None:
    seed = os.urandom(64)
    path = "m/44'/501'/0'/0'"
    found = derive(slot_of(arena, seed), path, Algorithm.ED25519)
    assert bytes(Keypair.from_seed_and_derivation_path(seed, path).pubkey()) == found.public_key


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**256 - 1), st.integers(1, ORDER - 1))
def test_p256_sums(left: int, right: int) -> None:
    check_sum(left, right)


@pytest.mark.parametrize("right", [1, 2, ORDER // 2, ORDER - 2, ORDER - 1])
@pytest.mark.parametrize("left", [0, 1, ORDER // 2, ORDER // 2 + 1, ORDER - 2, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
def test_p256_sums_at_the_edges(left: int, right: int) -> None:
    check_sum(left, right)


def check_sum(left: int, right: int) -> None:
    arena = Arena(4096)
    a, b = slot_of(arena, left.to_bytes(32, "big")), slot_of(arena, right.to_bytes(32, "big"))
    valid = p256_scalars.add(a, b, a)
    total = (left + right) % ORDER
    assert valid == (left < ORDER and total != 0)
    if valid:
        assert int.from_bytes(a.view, "big") == total


@settings(max_examples=60, deadline=None)
@given(key=st.binary(min_size=32, max_size=32), message=st.binary(min_size=1, max_size=300))
def test_hmac_is_pythons(key: bytes, message: bytes) -> None:
    arena = Arena(8192)
    target = arena.take(64)
    hmac512.hmac(slot_of(arena, key), slot_of(arena, message), target)
    assert bytes(target.view) == python_hmac.digest(key, message, "sha512")
    hmac512.hmac_named(key[:20], slot_of(arena, message), target)
    assert bytes(target.view) == python_hmac.digest(key[:20], message, hashlib.sha512)


def test_hmac_refuses_other_sizes(arena: Arena) -> None:
    slots = {size: arena.take(size) for size in (31, 32, 64, 65)}
    for key, target in ((31, 64), (32, 65), (32, 32)):
        refused(lambda k=key, t=target: hmac512.hmac(slots[k], slots[32], slots[t]), "", Code.INTERNAL)
    refused(lambda: hmac512.hmac_named(bytes(129), slots[32], slots[64]), "", Code.INTERNAL)


def test_an_unhardened_child_of_ed25519_is_refused(arena: Arena) -> None:
    with pytest.raises(Bip32KeyError):
        Bip32Slip10Ed25519.FromSeed(bytes(32)).DerivePath("m/0")
    with Seed(slot_of(arena, bytes(32))) as seed:
        for path in ("m/0", "m/44'/501'/0", "m/0/1'"):
            refused(lambda p=path: seed.key(p, Algorithm.ED25519))
    assert arena.in_use == 0


@pytest.mark.parametrize("path", ["m/2147483648", "m/4294967295'", "m/44'/9999999999'"])
def test_an_index_over_31_bits_is_refused(arena: Arena, path: str) -> None:
    with Seed(slot_of(arena, bytes(32))) as seed:
        refused(lambda: seed.key(path, Algorithm.SECP256K1))
    assert arena.in_use == 0


@given(st.lists(st.integers(0, 2 * HARDENED - 1), max_size=10))
def test_paths_come_back(indices: list[int]) -> None:
    assert parse_path(format_path(indices)) == tuple(indices)


@pytest.mark.parametrize("algorithm", [Algorithm.SECP256K1, Algorithm.P256])
def test_a_child_that_bip32_skips(arena: Arena, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can find such a seed; so HMAC is made to give 2^256 - 1 once. BIP-32 refuses, SLIP-10 goes on."""
    with Seed(slot_of(arena, bytes(32))) as seed, seed.master(algorithm) as master:
        expected = bytes(master._chain.view)
        calls = []
        genuine = hmac512.hmac

        def hmac(key: Slot, message: Slot, target: Slot) -> None:
            calls.append(bytes(message.view))
            genuine(key, message, target)
            if len(calls) == 1:
                target.view[:] = b"\xff" * 64

        monkeypatch.setattr(hd, "hmac", hmac)
        if algorithm is Algorithm.SECP256K1:
            refused(lambda: master.child(HARDENED + 5))
        else:
            master.child(HARDENED + 5).wipe()
            assert calls[1] == b"\x01" + b"\xff" * 32 + b"\x80\x00\x00\x05"
        assert bytes(master._chain.view) == expected
    assert arena.in_use == 0


@pytest.mark.parametrize("size", [1, 15, 65])
def test_a_seed_of_a_size_that_no_seed_has(arena: Arena, size: int) -> None:
    refused(lambda: Seed(arena.take(size)), "", Code.RECORD_TAMPERED)
    assert arena.in_use == 0


def test_no_algorithm_no_key(arena: Arena) -> None:
    with Seed(slot_of(arena, bytes(32))) as seed:
        refused(lambda: seed.key("m/0'", Algorithm.NONE), "$.algorithm")


def test_a_seed_keeps_few_children_and_wipes_them_with_itself(arena: Arena) -> None:
    seed = Seed(slot_of(arena, bytes(32)))
    first = seed.key("m/0'", Algorithm.SECP256K1)
    assert seed.key("m/0'", Algorithm.SECP256K1) is first
    for number in range(1, MAX_CHILDREN):
        seed.key(f"m/{number}'", Algorithm.SECP256K1)
    seed.key("m/0'", Algorithm.SECP256K1)
    other = seed.key("m/0'", Algorithm.ED25519)
    assert first.secret.alive  # the least recently used one left
    assert seed.key("m/0'", Algorithm.ED25519) is other
    seed.wipe()
    seed.wipe()
    assert not first.secret.alive
    assert arena.in_use == 0


def test_an_arena_that_is_full_leaves_nothing_behind() -> None:
    for size in range(1, 24):
        arena = Arena(4096)
        whole = slot_of(arena, bytes(range(32)))
        before = arena.in_use
        taken = [arena.take(64) for _ in range(63 - size)]
        for algorithm in ORACLES:
            path = "m/1'" if algorithm is Algorithm.ED25519 else "m/1"
            try:
                derive(whole, path, algorithm).wipe()
            except AdytumError as error:
                assert error.code is Code.RESOURCE_EXHAUSTED
            assert arena.in_use == before + 64 * len(taken)


def test_neither_can_be_copied_or_pickled(arena: Arena) -> None:
    with Seed(slot_of(arena, bytes(32))) as seed, seed.master(Algorithm.P256) as node:
        for thing in (seed, node):
            for use in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError):
                    use(thing)
