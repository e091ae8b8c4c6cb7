"""Share files, written here by `cryptography` and hashlib from the format's description alone."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.imports import mpc_legacy, mpcenc
from adytum_enclave.core.imports.parts import Parts
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

SHARE = b'{"Xi":"' + b"123456789" * 20 + b'"}'
PASSWORD = b"MPC_KEY_SHARE_ENCRYPTION_KEY"


def legacy(share: bytes = SHARE, password: bytes = PASSWORD) -> bytes:
    key = hashlib.scrypt(password, salt=b"mpc-key-share-salt", n=32768, r=8, p=1, dklen=32, maxmem=2**26)
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, share, None)


def headed(share: bytes = SHARE, password: bytes = PASSWORD, **changes: Any) -> bytes:
    """Defaults are a good file; each part can be put otherwise."""
    part: dict[str, Any] = {
        "magic": b"MPCENC\0\0", "version": 1, "flags": 0, "content": 1, "kdf": 1, "n": 1024, "r": 8, "p": 1,
        "salt": os.urandom(16), "mode": 2, "kek_id": b"tenant-7", "nonce": os.urandom(12), "aad": None, "tail": b"",
        "meta": (b"k1", b"node-1", b"gg20", b"secp256k1"),
    } | changes  # fmt: skip
    kek = hashlib.scrypt(password, salt=part["salt"], n=1024, r=8, p=1, dklen=32)
    key = os.urandom(32)
    wrapped = part.get("wrapped", aes_key_wrap_with_padding(kek, key))
    start = part["magic"] + struct.pack(">HHB", part["version"], part["flags"], part["content"])
    aad = start + part["kek_id"] if part["aad"] is None else part["aad"]
    out = start + struct.pack(">BIII", part["kdf"], part["n"], part["r"], part["p"])
    out += struct.pack(">H", len(part["salt"])) + part["salt"]
    out += struct.pack(">BH", part["mode"], len(part["kek_id"])) + part["kek_id"]
    out += struct.pack(">H", len(wrapped)) + wrapped
    out += struct.pack(">B", len(part["nonce"])) + part["nonce"] + struct.pack(">H", len(aad)) + aad
    for value, form in zip(part["meta"], (">H", ">H", ">B", ">B"), strict=True):
        out += struct.pack(form, len(value)) + value
    out += struct.pack(">q", 1_700_000_000)
    return out + AESGCM(key).encrypt(part["nonce"].ljust(12, b"\0"), share, aad) + part["tail"]


def opened(bench: Any, module: Any, file: bytes, password: bytes = PASSWORD) -> bytes:
    with bench.run(module.unlock(bench.parts(password, file), bench.arena)) as secret:
        return bytes(secret.view)


@pytest.mark.parametrize("size", [1, 32, 5_000, limits.MAX_SECRET])
def test_shares_come_out_as_they_went_in(bench: Any, size: int) -> None:
    share = os.urandom(size)
    assert opened(bench, mpc_legacy, legacy(share)) == share
    assert opened(bench, mpcenc, headed(share)) == share


def test_both_content_types_and_an_empty_aad_and_empty_meta_open(bench: Any) -> None:
    for changes in ({"content": 2}, {"aad": b""}, {"meta": (b"", b"", b"", b"")}, {"kek_id": b""}):
        assert opened(bench, mpcenc, headed(**changes)) == SHARE


@pytest.mark.parametrize("module", [mpcenc, mpc_legacy])
def test_a_wrong_password_and_every_changed_byte_of_the_ciphertext(bench: Any, module: Any) -> None:
    file = headed(SHARE) if module is mpcenc else legacy(SHARE)
    unlock = lambda parts: bench.run(module.unlock(parts, bench.arena))  # noqa: E731
    assert bench.refused(unlock, b"wrong", file) == "$.sealed (password)"
    for at in (len(file) - 1, len(file) - 17, len(file) - len(SHARE) - 16):
        broken = bytearray(file)
        broken[at] ^= 0x80
        assert bench.refused(unlock, PASSWORD, bytes(broken)) == "$.sealed (password)"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"magic": b"MPCENC\0\1"}, "magic"),
        ({"version": 2}, "version"),
        ({"flags": 1}, "flags"),
        ({"content": 3}, "content type"),
        ({"kdf": 2}, "kdf"),
        ({"n": 1000}, "kdf too costly"),
        ({"n": 2**31}, "kdf too costly"),
        ({"mode": 1}, "KMS_KEK"),
        ({"mode": 3}, "mode"),
        ({"wrapped": b"x" * 48}, "wrapped key"),
        ({"nonce": b"x" * 16}, "nonce"),
        ({"aad": b"MPCENC\0\0\0\1\0\0\1tenant-8"}, "aad"),
        ({"tail": b"x" * (limits.MAX_SECRET)}, "size"),
    ],
)
def test_headers_that_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(AdytumError) as caught:
        mpcenc.parse(headed(**changes))
    assert (caught.value.code, caught.value.field) == (Code.IMPORT_INVALID, f"$.sealed ({field})")


def test_a_header_spliced_onto_another_content_type_does_not_open(bench: Any) -> None:
    """The file says 2 where its ciphertext was bound to 1: with a bound header it is refused by name."""
    file = bytearray(headed())
    file[12] = 2
    unlock = lambda parts: bench.run(mpcenc.unlock(parts, bench.arena))  # noqa: E731
    assert bench.refused(unlock, PASSWORD, bytes(file)) == "$.sealed (aad)"


def test_every_truncation_is_refused(bench: Any) -> None:
    file = headed(b"s")
    for size in range(len(file)):
        try:
            found = mpcenc.parse(file[:size])
        except AdytumError as error:
            assert error.code is Code.IMPORT_INVALID
        else:  # the ciphertext lost bytes; its tag will say so
            assert len(found.ciphertext) < len(file)


def test_a_legacy_file_is_neither_too_short_nor_too_long(bench: Any) -> None:
    unlock = lambda parts: bench.run(mpc_legacy.unlock(parts, bench.arena))  # noqa: E731
    for size in (1, 28, 28 + limits.MAX_SECRET + 1):
        assert bench.refused(unlock, PASSWORD, bytes(size)) == "$.sealed (size)"


@given(st.binary(max_size=300), st.integers(0, 80))
@settings(max_examples=150)
def test_any_bytes_parse_or_are_refused(data: bytes, keep: int) -> None:
    try:
        mpcenc.parse(headed(b"s")[:keep] + data)
    except AdytumError as error:
        assert error.code is Code.IMPORT_INVALID


@given(st.binary(min_size=1, max_size=40))
def test_any_sealed_bytes_have_two_parts_or_none(data: bytes) -> None:
    from adytum_enclave.core.secrets import Arena

    arena = Arena(4096)
    with arena.take(len(data)) as slot:
        slot.view[:] = data
        try:
            parts = Parts.of(slot)
        except AdytumError as error:
            assert error.code is Code.IMPORT_INVALID
        else:
            assert parts.password_size + parts.file_size + 4 == len(data)
            assert parts.file_size > 0
