"""The recipient key: it opens what KMS and OpenSSL write for it, and refuses everything else in one voice."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from adytum_enclave.core import recipient
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena
from adytum_wire.errors import AdytumError, Code


@pytest.fixture(scope="module")
def key() -> RecipientKey:
    return RecipientKey.generate()


@pytest.fixture
def arena() -> Arena:
    return Arena(4096)


def refuse(key: RecipientKey, arena: Arena, blob: bytes, field: str) -> None:
    """The attack fails with the one code, and nothing is left in the arena."""
    with pytest.raises(AdytumError) as caught:
        key.open(blob, arena)
    assert caught.value.code is Code.KMS_ANSWER_INVALID
    assert caught.value.field == field
    assert caught.value.__cause__ is None
    assert arena.in_use == 0


@pytest.mark.parametrize("content", ["constructed", "segments", "primitive"])
def test_opens_a_data_key_into_the_arena(kit: SimpleNamespace, key: RecipientKey, arena: Arena, content: str) -> None:
    data_key = os.urandom(32)
    slot = key.open(kit.seal_for(key.spki, data_key, cek=os.urandom(32), content=content), arena)
    assert slot.size == 32
    assert bytes(slot.view) == data_key
    slot.wipe()
    assert arena.in_use == 0


def test_opens_a_genuine_answer_with_its_published_key(cms_vectors: Path, arena: Arena) -> None:
    text = json.loads((cms_vectors / "edgebit_rsa_key.json").read_text())
    n, e, d, p, q = (int(text[name], 16) if isinstance(text[name], str) else text[name] for name in "nedpq")
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, n)
    )
    key = RecipientKey(numbers.private_key())
    with key.open((cms_vectors / "edgebit_ciphertext_for_recipient.ber").read_bytes(), arena) as slot:
        assert bytes(slot.view) == (cms_vectors / "edgebit_plaintext.bin").read_bytes()
    other = (cms_vectors / "sdkc_input_ber_constructed.ber").read_bytes()
    refuse(key, arena, other, "CiphertextForRecipient.ski")


def test_spki_is_what_kms_wants(key: RecipientKey) -> None:
    public = load_der_public_key(key.spki)
    assert isinstance(public, rsa.RSAPublicKey)
    assert (public.key_size, public.public_numbers().e, len(key.spki)) == (2048, 65537, 294)


def test_an_answer_for_another_recipient_is_refused_before_rsa(
    kit: SimpleNamespace, key: RecipientKey, arena: Arena
) -> None:
    other = RecipientKey.generate()
    blob = kit.seal_for(other.spki, bytes(32), cek=bytes(32))
    refuse(key, arena, blob, "CiphertextForRecipient.ski")
    # the same under our identifier: RSA says no
    ours = hashlib.sha256(key.spki).digest()
    blob = kit.seal_for(other.spki, bytes(32), cek=bytes(32), ski=ours)
    refuse(key, arena, blob, "CiphertextForRecipient.content")


CONTENT = "CiphertextForRecipient.content"


@pytest.mark.parametrize("size", [0, 15, 16, 31, 33, 48, 64])
def test_a_plaintext_that_is_no_data_key_is_refused(
    kit: SimpleNamespace, key: RecipientKey, arena: Arena, size: int
) -> None:
    refuse(key, arena, kit.seal_for(key.spki, bytes(size), cek=bytes(32)), CONTENT)


@pytest.mark.parametrize("position", range(16))
def test_bad_padding_is_refused_like_any_other_failure(
    kit: SimpleNamespace, key: RecipientKey, arena: Arena, position: int
) -> None:
    pad = bytearray(b"\x10" * 16)
    pad[position] ^= 0x11
    refuse(key, arena, kit.seal_for(key.spki, bytes(32), cek=bytes(32), pad=bytes(pad)), CONTENT)


def test_valid_padding_of_another_length_is_refused(kit: SimpleNamespace, key: RecipientKey, arena: Arena) -> None:
    """47 bytes and a padding of one: well-formed PKCS #7, and no data key."""
    refuse(key, arena, kit.seal_for(key.spki, bytes(47), cek=bytes(32), pad=b"\x01"), CONTENT)


@pytest.mark.parametrize("size", [0, 1, 16, 24, 31, 33, 64])
def test_a_content_key_of_another_size_is_refused(
    kit: SimpleNamespace, key: RecipientKey, arena: Arena, size: int
) -> None:
    refuse(key, arena, kit.seal_for(key.spki, bytes(32), cek=bytes(size)), CONTENT)


def test_a_flipped_bit_anywhere_in_the_wrapped_key_is_refused(
    kit: SimpleNamespace, key: RecipientKey, arena: Arena
) -> None:
    blob = kit.seal_for(key.spki, bytes(32), cek=bytes(32))
    start = blob.index(bytes.fromhex("04820100")) + 4
    for offset in range(0, 256, 17):
        bent = bytearray(blob)
        bent[start + offset] ^= 1
        refuse(key, arena, bytes(bent), CONTENT)


def test_a_full_arena_is_said_so_and_stays_as_it_was(kit: SimpleNamespace, key: RecipientKey) -> None:
    arena = Arena(4096)
    with arena.take(4096), pytest.raises(AdytumError) as caught:
        key.open(kit.seal_for(key.spki, bytes(32), cek=bytes(32)), arena)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert arena.in_use == 0


def test_only_rsa_2048() -> None:
    with pytest.raises(ValueError, match="2048"):
        RecipientKey(rsa.generate_private_key(public_exponent=65537, key_size=1024))


def test_a_key_is_neither_copied_nor_pickled_nor_shown(key: RecipientKey) -> None:
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            how(key)
    assert repr(key) == "<RecipientKey>"


def test_the_content_key_is_overwritten_in_place() -> None:
    """The memory scan cannot see this alone: CPython soon gives a freed small object's memory to another."""
    secret = bytes(bytearray(os.urandom(32)))
    recipient._overwrite(secret)
    assert secret == bytes(32)
    recipient._overwrite(b"")
    assert not b""
