"""Wallet keys: what they sign verifies elsewhere, what they refuse, and that nothing stays in the arena."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle

import coincurve
import pytest

from adytum_enclave.core import keys
from adytum_enclave.core.crypto import ed25519, p256, secp256k1
from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.warmup import warm_up
from adytum_wire.errors import AdytumError, Code
from adytum_wire.signatures import is_public_key, is_valid
from adytum_wire.types import Algorithm, Scheme, SigningScheme

PAIRS = [
    (Algorithm.SECP256K1, SigningScheme.ECDSA_SECP256K1),
    (Algorithm.SECP256K1, SigningScheme.BIP340),
    (Algorithm.P256, SigningScheme.ECDSA_P256),
    (Algorithm.ED25519, SigningScheme.ED25519),
]
KINDS = [Algorithm.SECP256K1, Algorithm.P256, Algorithm.ED25519]
AUX = bytes(32)


def fill(view: memoryview) -> None:
    view[:] = os.urandom(len(view))


def slot_of(arena: Arena, value: bytes) -> Slot:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


@pytest.fixture
def arena() -> Arena:
    return Arena(65536)


def refused(use: object, code: Code, field: str = "") -> None:
    with pytest.raises(AdytumError) as caught:
        use()  # type: ignore[operator]
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(("algorithm", "scheme"), PAIRS)
def test_what_it_signs_verifies_elsewhere(arena: Arena, algorithm: Algorithm, scheme: SigningScheme) -> None:
    message = b"message"
    digest = hashlib.sha256(message).digest()
    with keys.generate(algorithm, arena, fill) as key:
        payload = message if scheme is SigningScheme.ED25519 else digest
        signature = key.sign(scheme, payload, aux=AUX)
        assert signature == key.sign(scheme, payload, aux=AUX)
        public = key.public_key
    if scheme is SigningScheme.BIP340:
        assert coincurve.PublicKeyXOnly(public[1:]).verify(signature, digest)
    else:
        assert is_public_key(Scheme(algorithm.value), public)
        assert is_valid(Scheme(algorithm.value), public, message, signature[:64])
    assert len(signature) == (65 if scheme is SigningScheme.ECDSA_SECP256K1 else 64)
    assert arena.in_use == 0


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_loaded_key_is_the_generated_one(arena: Arena, algorithm: Algorithm) -> None:
    with keys.generate(algorithm, arena, fill) as key:
        again = keys.load(algorithm, slot_of(arena, bytes(key.secret.view)), code=Code.INTERNAL)
        assert again.public_key == key.public_key
        again.wipe()
    assert arena.in_use == 0


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_scheme_of_another_algorithm_is_refused(arena: Arena, algorithm: Algorithm) -> None:
    own = {scheme for a, scheme in PAIRS if a is algorithm}
    with keys.generate(algorithm, arena, fill) as key:
        for scheme in set(SigningScheme) - own:
            refused(lambda s=scheme: key.sign(s, bytes(32), aux=AUX), Code.REQUEST_INVALID, "$.scheme")


@pytest.mark.parametrize("code", [Code.RECORD_TAMPERED, Code.REQUEST_INVALID])
@pytest.mark.parametrize(
    ("algorithm", "secret"),
    [
        (Algorithm.SECP256K1, bytes(32)),
        (Algorithm.SECP256K1, b"\xff" * 32),
        (Algorithm.SECP256K1, b"\1" * 31),
        (Algorithm.P256, bytes(32)),
        (Algorithm.P256, b"\xff" * 32),
        (Algorithm.P256, b"\1" * 33),
        (Algorithm.ED25519, b"\1" * 64),
        (Algorithm.NONE, b"\1" * 32),
    ],
)
def test_a_secret_that_cannot_be_is_refused_and_wiped(
    arena: Arena, algorithm: Algorithm, secret: bytes, code: Code
) -> None:
    slot = slot_of(arena, secret)
    refused(lambda: keys.load(algorithm, slot, code=code), code)
    assert not slot.alive
    assert arena.in_use == 0


def test_a_random_source_that_yields_nothing_usable_is_refused(arena: Arena) -> None:
    calls = []
    for algorithm in (Algorithm.SECP256K1, Algorithm.P256):
        refused(lambda a=algorithm: keys.generate(a, arena, calls.append), Code.INTERNAL)
    refused(lambda: keys.generate(Algorithm.NONE, arena, fill), Code.INTERNAL)
    assert calls
    assert arena.in_use == 0


def test_a_random_source_that_fails_leaves_nothing(arena: Arena) -> None:
    def broken(_view: memoryview) -> None:
        raise OSError("no entropy")

    for use in (lambda: keys.generate(Algorithm.ED25519, arena, broken), lambda: warm_up(arena, broken)):
        with pytest.raises(OSError, match="no entropy"):
            use()
    assert arena.in_use == 0


def test_a_full_arena_leaves_nothing_behind() -> None:
    arena = Arena(4096)
    for free in range(0, 400, 64):
        hold = [arena.take(64) for _ in range((4096 - free) // 64)]
        for algorithm in KINDS:
            before = arena.in_use
            try:
                with keys.generate(algorithm, arena, fill) as key:
                    key.sign(next(s for a, s in reversed(PAIRS) if a is algorithm), bytes(32), aux=AUX)
            except AdytumError as error:
                assert error.code is Code.RESOURCE_EXHAUSTED
            assert arena.in_use == before
        for slot in hold:
            slot.wipe()


def test_a_faulty_signature_never_leaves(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glitch: the signing primitive returns a signature with one bit flipped."""

    def glitched(real: object, at: int) -> object:
        def sign(*arguments: object) -> bytes:
            signature = bytearray(real(*arguments))  # type: ignore[operator]
            signature[at] ^= 1
            return bytes(signature)

        return sign

    for module, name, algorithm, scheme, places in (
        (secp256k1, "sign_ecdsa", Algorithm.SECP256K1, SigningScheme.ECDSA_SECP256K1, (0, 40, 64)),
        (secp256k1, "sign_bip340_with", Algorithm.SECP256K1, SigningScheme.BIP340, (0, 40)),
        (p256, "sign", Algorithm.P256, SigningScheme.ECDSA_P256, (0, 63)),
        (ed25519, "sign_with", Algorithm.ED25519, SigningScheme.ED25519, (0, 40)),
    ):
        for at in places:
            with keys.generate(algorithm, arena, fill) as key, monkeypatch.context() as patch:
                patch.setattr(module, name, glitched(getattr(module, name), at))
                refused(lambda k=key, s=scheme: k.sign(s, bytes(32), aux=AUX), Code.INTERNAL)


@pytest.mark.parametrize(("algorithm", "scheme"), PAIRS)
def test_a_wiped_key_signs_nothing(arena: Arena, algorithm: Algorithm, scheme: SigningScheme) -> None:
    key = keys.generate(algorithm, arena, fill)
    key.sign(scheme, bytes(32), aux=AUX)
    key.wipe()
    key.wipe()
    refused(lambda: key.sign(scheme, bytes(32), aux=AUX), Code.INTERNAL)
    assert arena.in_use == 0


@pytest.mark.parametrize(
    ("algorithm", "scheme", "payload", "aux"),
    [
        (Algorithm.SECP256K1, SigningScheme.ECDSA_SECP256K1, bytes(31), b""),
        (Algorithm.SECP256K1, SigningScheme.BIP340, bytes(33), AUX),
        (Algorithm.SECP256K1, SigningScheme.BIP340, bytes(32), b""),
        (Algorithm.P256, SigningScheme.ECDSA_P256, bytes(33), b""),
    ],
)
def test_payloads_of_another_length_are_refused(
    arena: Arena, algorithm: Algorithm, scheme: SigningScheme, payload: bytes, aux: bytes
) -> None:
    with keys.generate(algorithm, arena, fill) as key:
        refused(lambda: key.sign(scheme, payload, aux=aux), Code.INTERNAL)


def test_a_key_shows_its_public_half_only_and_cannot_be_copied(arena: Arena) -> None:
    with keys.generate(Algorithm.ED25519, arena, fill) as key:
        assert isinstance(key, WalletKey)
        assert repr(key) == f"<WalletKey ed25519 {key.public_key.hex()}>"
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copied(key)


def test_warm_up_takes_nothing_for_good(arena: Arena) -> None:
    warm_up(arena, fill)
    assert arena.in_use == 0
