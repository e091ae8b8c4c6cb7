"""Keystores: written by eth-keyfile, read here; the vectors of the Web3 Secret Storage definition."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import eth_account
import pytest
from eth_keyfile import create_keyfile_json
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto.stretch import Pbkdf2Cost, ScryptCost
from adytum_enclave.core.imports import keystore
from adytum_wire.errors import AdytumError, Code

SECRET = bytes.fromhex("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d")
OFFICIAL = {  # ethereum.org, Web3 Secret Storage Definition, test vectors; password "testpassword"
    "pbkdf2": {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    },
    "scrypt": {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32,
                "n": 262144,
                "p": 8,
                "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    },
}


def written(kdf: str = "scrypt", password: bytes = b"pass", secret: bytes = SECRET) -> dict[str, Any]:
    made: dict[str, Any] = create_keyfile_json(secret, password, kdf=kdf, iterations=4 if kdf == "pbkdf2" else 16)
    return made


def unlocked(bench: Any, file: dict[str, Any] | bytes, password: bytes = b"pass") -> tuple[bytes, str]:
    data = file if isinstance(file, bytes) else json.dumps(file).encode()
    secret, address = bench.run(keystore.unlock(bench.parts(password, data), bench.arena))
    with secret:
        return bytes(secret.view), address


@pytest.mark.parametrize("kdf", ["pbkdf2", "scrypt"])
def test_the_vectors_of_the_definition(bench: Any, kdf: str) -> None:
    assert unlocked(bench, OFFICIAL[kdf], b"testpassword") == (SECRET, "")


@pytest.mark.parametrize("kdf", ["pbkdf2", "scrypt"])
def test_what_eth_keyfile_writes_is_read(bench: Any, kdf: str) -> None:
    secret, password = os.urandom(32), os.urandom(9)
    found, address = unlocked(bench, written(kdf, password, secret), password)
    assert found == secret
    assert "0x" + address == eth_account.Account.from_key(secret).address.lower()


def test_an_empty_password_is_a_password(bench: Any) -> None:
    assert unlocked(bench, written(password=b""), b"")[0] == SECRET


def test_what_wallets_add_is_not_in_the_way(bench: Any) -> None:
    file = written() | {"x-ethers": {"client": "ethers/6"}, "name": "hot", "address": ""}
    assert unlocked(bench, file) == (SECRET, "")
    older = written()
    older["Crypto"] = older.pop("crypto")
    assert unlocked(bench, older)[0] == SECRET


def test_a_wrong_password_and_each_changed_part_are_refused(bench: Any) -> None:
    good = written()

    def refusal(file: dict[str, Any], password: bytes = b"pass") -> str:
        unlock = lambda parts: bench.run(keystore.unlock(parts, bench.arena))  # noqa: E731
        return str(bench.refused(unlock, password, json.dumps(file).encode()))

    assert refusal(good, b"Pass") == "$.sealed (password)"
    for name in ("ciphertext", "mac"):
        broken = copy.deepcopy(good)
        broken["crypto"][name] = ("00" if not broken["crypto"][name].startswith("00") else "11") + broken["crypto"][
            name
        ][2:]
        assert refusal(broken) == "$.sealed (password)", name
    salted = copy.deepcopy(good)
    salted["crypto"]["kdfparams"]["salt"] = "00" * 16
    assert refusal(salted) == "$.sealed (password)"


def changed(*path: str, value: Any) -> bytes:
    file = written()
    at = file
    for name in path[:-1]:
        at = at[name]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(file).encode()


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (changed("version", value=1), "version"),
        (changed("version", value=True), "version"),
        (changed("version", value=...), "version"),
        (changed("crypto", "cipher", value="aes-128-cbc"), "cipher"),
        (changed("crypto", "kdf", value="argon2"), "kdf"),
        (changed("crypto", "extra", value=1), "crypto"),
        (changed("crypto", "mac", value=...), "crypto"),
        (changed("crypto", "mac", value="zz"), "mac"),
        (changed("crypto", "ciphertext", value="00"), "ciphertext"),
        (changed("crypto", "cipherparams", value={}), "cipherparams"),
        (changed("crypto", "cipherparams", "iv", value="00"), "cipherparams"),
        (changed("crypto", "kdfparams", "dklen", value=64), "kdfparams"),
        (changed("crypto", "kdfparams", "n", value="16"), "kdfparams"),
        (changed("crypto", "kdfparams", "n", value=2**30), "kdfparams too costly"),
        (changed("crypto", "kdfparams", "r", value=2**20), "kdfparams too costly"),
        (changed("crypto", "kdfparams", "p", value=10**6), "kdfparams too costly"),
        (changed("crypto", "kdfparams", "n", value=15), "kdfparams too costly"),
        (changed("address", value="0x12"), "address"),
        (changed("address", value=5), "address"),
        (b'{"version":3,"version":3}', "JSON"),
        (b'{"version":3.0}', "JSON"),
        (b"[" * 100_0, "JSON"),
        (b"\xff", "JSON"),
        (b"null", "version"),
    ],
    ids=map(str, range(24)),
)
def test_what_is_no_keystore(file: bytes, field: str) -> None:
    with pytest.raises(AdytumError) as caught:
        keystore.parse(file)
    assert (caught.value.code, caught.value.field) == (Code.IMPORT_INVALID, f"$.sealed ({field})")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=6))
@settings(max_examples=60)
def test_any_value_in_any_place_parses_or_is_refused(value: Any) -> None:
    for path in (("crypto",), ("crypto", "kdfparams"), ("crypto", "kdfparams", "n"), ("crypto", "mac"), ("address",)):
        try:
            found = keystore.parse(changed(*path, value=value))
        except AdytumError as error:
            assert error.code is Code.IMPORT_INVALID
        else:
            assert isinstance(found.cost, ScryptCost | Pbkdf2Cost)


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        keystore.parse(data)
    assert caught.value.code is Code.IMPORT_INVALID
