"""The primitives under the imports, against OpenSSL's, hashlib's and RFC vectors."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto import keywrap
from adytum_enclave.core.crypto.exclusive import Adder
from adytum_enclave.core.crypto.pbkdf2 import Pbkdf2Sha512
from adytum_enclave.core.crypto.stretch import Pbkdf2Cost, ScryptCost
from adytum_enclave.core.secrets import Arena
from adytum_wire import limits
from adytum_wire.errors import AdytumError


def slot_of(arena: Arena, value: bytes) -> Any:
    slot = arena.take(len(value))
    slot.view[:] = value
    return slot


@given(st.lists(st.binary(min_size=64, max_size=64), min_size=2, max_size=6))
@settings(max_examples=60)
def test_an_adder_adds_as_python_does(values: list[bytes]) -> None:
    arena = Arena(1 << 14)
    with slot_of(arena, values[0]) as target, Adder(arena, 64) as adder:
        for value in values[1:]:
            with slot_of(arena, value) as other:
                adder.add(target, other)
        wanted = 0
        for value in values:
            wanted ^= int.from_bytes(value, "big")
        assert bytes(target.view) == wanted.to_bytes(64, "big")
    assert arena.in_use == 0


def test_an_adder_takes_whole_blocks_only() -> None:
    with pytest.raises(AdytumError):
        Adder(Arena(4096), 17)


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=300), st.integers(1, 5))
@settings(max_examples=60)
def test_pbkdf2_sha512_is_hashlibs(password: bytes, salt: bytes, rounds: int) -> None:
    arena = Arena(1 << 14)
    with slot_of(arena, password) as key, slot_of(arena, salt) as salted, arena.take(64) as target:
        with Pbkdf2Sha512(key, salted, rounds=rounds, target=target) as stretching:
            stretching.run()
        assert bytes(target.view) == hashlib.pbkdf2_hmac("sha512", password, salt, rounds)
    assert arena.in_use == 0


def test_scrypt_is_rfc_7914s() -> None:
    arena = Arena(4096)
    with slot_of(arena, b"..pleaseletmein.") as password, arena.take(32) as key:
        ScryptCost(n=16384, r=8, p=1, salt=b"SodiumChloride").derive(password, 2, 15, key)
        assert bytes(key.view).hex() == "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"


def test_pbkdf2_sha256_is_hashlibs() -> None:
    arena = Arena(4096)
    with slot_of(arena, b"password") as password, arena.take(32) as key:
        Pbkdf2Cost(rounds=3, salt=b"salt").derive(password, 0, 8, key)
        assert bytes(key.view) == hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 3)


@pytest.mark.parametrize(
    ("n", "r", "p", "ok"),
    [
        (262144, 8, 1, True),  # geth's standard: 256 MiB
        (524288, 8, 1, False),
        (4096, 8, 6, True),
        (16, 1, 17, False),
        (0, 8, 1, False),
        (1, 8, 1, False),
        (3, 8, 1, False),
        (16, 0, 1, False),
        (16, 8, 0, False),
        (-16, 8, 1, False),
        (2, 2**40, 1, False),
        (262144, 8, 3, False),
    ],
)
def test_what_scrypt_may_cost(n: int, r: int, p: int, ok: bool) -> None:
    assert ScryptCost(n=n, r=r, p=p, salt=b"").is_affordable is ok
    assert not ScryptCost(n=16, r=1, p=1, salt=bytes(limits.MAX_SALT + 1)).is_affordable


def test_what_pbkdf2_may_cost() -> None:
    for rounds, ok in ((1, True), (limits.MAX_PBKDF2_ROUNDS, True), (limits.MAX_PBKDF2_ROUNDS + 1, False), (0, False)):
        assert Pbkdf2Cost(rounds=rounds, salt=b"").is_affordable is ok


def unwrapped(wrapping: bytes, wrapped: bytes) -> bytes | None:
    arena = Arena(1 << 14)
    with slot_of(arena, wrapping) as key, arena.take(32) as target:
        is_right = keywrap.unwrap(key, wrapped, target)
        found = bytes(target.view)
        assert is_right or found == bytes(32)
    assert arena.in_use == 0
    return found if is_right else None


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_key_unwrap_opens_what_openssl_wrapped(wrapping: bytes, key: bytes) -> None:
    assert unwrapped(wrapping, aes_key_wrap_with_padding(wrapping, key)) == key


def test_key_unwrap_refuses_another_key_every_changed_byte_and_rfc_3394() -> None:
    wrapping, key = os.urandom(32), os.urandom(32)
    wrapped = aes_key_wrap_with_padding(wrapping, key)
    assert unwrapped(os.urandom(32), wrapped) is None
    for at in range(len(wrapped)):
        broken = bytearray(wrapped)
        broken[at] ^= 1
        assert unwrapped(wrapping, bytes(broken)) is None
    assert unwrapped(wrapping, aes_key_wrap(wrapping, key)) is None
    assert unwrapped(wrapping, aes_key_wrap_with_padding(wrapping, key[:31])) is None
