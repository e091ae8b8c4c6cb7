"""What the client says of a file before it sends it: forms, addresses, problems, and names for requests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum.client import imports
from adytum.imports import candidates, raw_keys
from adytum.imports.candidates import Candidate
from adytum_wire import limits

SECRET = b"\x05" * 32
WORDS = b"legal winner thank year wave sausage worth useful legal winner thank yellow"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def examined(path: Path, data: bytes, **options: bool) -> Candidate:
    return candidates.examine(written(path, data), **options)  # type: ignore[arg-type]


def keystore(**changes: object) -> bytes:
    return json.dumps(Account.encrypt(SECRET, "p", iterations=2) | changes).encode()


@pytest.mark.parametrize(
    ("name", "data", "form", "problem"),
    [
        ("k.json", keystore(), "keystore-v3", ""),
        ("k", b"\n " + keystore(), "keystore-v3", ""),
        ("k.json", b"{}", "keystore-v3", "not a keystore of version 3"),
        ("k.json", keystore(version=1), "keystore-v3", "not version 3"),
        ("w.txt", WORDS, "bip39", ""),
        ("w.txt", WORDS.upper() + b"\n", "bip39", ""),
        ("h.txt", b"0x" + b"0a" * 32 + b"\n", "raw-hex", raw_keys.NAME_IT),
        ("node-1.enc", os.urandom(60), "mpc-legacy", ""),
        ("node-1.keydata.enc", b"\xff" * 60, "mpc-legacy", ""),
        ("x.bin", b"\xff" * 60, "", "none of the known forms"),
        ("note.txt", b"call bob", "", "none of the known forms"),
        ("m.enc", b"MPCENC\0\0" + bytes(40), "mpcenc-v1", "not a header that is known"),
        ("big.enc", b"\xff" * limits.MAX_FILE, "mpc-legacy", "too large for one request"),
    ],
    ids=map(str, range(13)),  # the contents are random, and names of tests must not be
)
def test_what_a_file_is(tmp_path: Path, name: str, data: bytes, form: str, problem: str) -> None:
    found = examined(tmp_path / name, data)
    assert (found.format, found.problem) == (form, problem)


def test_a_costly_keystore_is_named_before_it_is_sent(tmp_path: Path) -> None:
    file = json.loads(keystore())
    file["crypto"]["kdfparams"]["n"] = 2**30
    assert "more memory" in examined(tmp_path / "k", json.dumps(file).encode()).problem


@pytest.mark.parametrize(
    ("part", "name", "value", "problem"),
    [
        ("crypto", "cipher", "aes-128-cbc", "cipher"),
        ("crypto", "ciphertext", "00" * 31, "no private key"),
        ("crypto", "kdf", "argon2id", "kdf"),
        ("crypto", "more", 1, "not a keystore"),
        ("kdfparams", "dklen", 16, "kdfparams"),
        ("kdfparams", "p", 17, "more work"),
        ("kdfparams", "n", 3, "not possible"),
        ("kdfparams", "salt", "xx", "salt"),
        ("kdfparams", "r", "8", "not a keystore"),
    ],
)
def test_a_keystore_that_cannot_open_is_named_before_it_is_sent(
    tmp_path: Path, part: str, name: str, value: object, problem: str
) -> None:
    file = json.loads(keystore())
    (file["crypto"] if part == "crypto" else file["crypto"]["kdfparams"])[name] = value
    assert problem in examined(tmp_path / "k", json.dumps(file).encode()).problem
    twice = keystore().replace(b'"version": 3', b'"version": 3, "version": 3')
    assert "not a keystore" in examined(tmp_path / "k", twice).problem


def test_addresses_in_files_and_names(tmp_path: Path) -> None:
    address = Account.from_key(SECRET).address
    other = Account.create().address
    assert examined(tmp_path / "k.json", keystore()).expected == address
    for name in (f"UTC--2026--{other[2:].lower()}", f"{other}.json", f"{other[2:]}"):
        named = examined(tmp_path / name, keystore(address=""), expect_name=True)
        assert named.expected == other, name
        assert examined(tmp_path / name, keystore(address="")).expected == ""
    assert "differ" in examined(tmp_path / f"{other}.json", keystore(), expect_name=True).problem
    assert examined(tmp_path / f"{other}.enc", b"\xff" * 60, expect_name=True).expected == ""
    assert examined(tmp_path / ("a" * 41), keystore(address=""), expect_name=True).expected == ""


def test_the_same_file_has_the_same_request_and_another_has_another(tmp_path: Path) -> None:
    one = examined(tmp_path / "k.json", keystore())
    same = candidates.request_id("acme", one, ["b", "a"], b"pass")
    assert same == candidates.request_id("acme", one, ["a", "b"], b"other")  # no oracle for passwords
    others = {
        candidates.request_id("acme", one, ["a"], b""),
        candidates.request_id("acm", one, ["a", "b"], b""),
        candidates.request_id("acme", examined(tmp_path / "k2.json", keystore()), ["a", "b"], b""),
    }
    assert same not in others
    assert len(others) == 3
    words = examined(tmp_path / "w", WORDS)
    assert candidates.request_id("acme", words, [], b"x") != candidates.request_id("acme", words, [], b"y")


def test_what_is_packed_fits_into_a_request() -> None:
    from adytum_wire.requests import ImportFile, SealedFile
    from adytum_wire.strict_json import encode

    packed = imports.pack_file(b"p", bytes(imports.MAX_PACKED - 5))
    body = ImportFile(
        v=1,
        tenant="t" * 63,
        request_id="r" * 64,
        issued_at=2**53,
        format="keystore-v3",
        labels=["l" * 63] * 16,
        expected="e" * 130,
        sealed=SealedFile(enc="0" * 64, ciphertext="0" * (2 * (len(packed) + 16))),
    )
    assert len(encode(body)) <= limits.MAX_BODY
    with pytest.raises(ValueError, match="bytes"):
        imports.pack_file(b"pp", bytes(imports.MAX_PACKED - 5))


def test_folders_are_searched_in_order_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b/2.enc", "a/1.enc", "a/.x", "c.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [str(path.relative_to(tmp_path)) for path in candidates.find([tmp_path])]
    assert found == ["a/1.enc", "b/2.enc"]


@given(st.binary(max_size=300), st.sampled_from(["auto", *imports.FORMATS]))
@settings(max_examples=80, deadline=None)
def test_any_file_is_examined_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any", data)
    found = candidates.examine(path, kind, expect_name=True)
    assert found.format or found.problem


def test_a_passphrase_is_nfkd() -> None:
    assert imports.passphrase("\u00e9") == "e\u0301".encode()
