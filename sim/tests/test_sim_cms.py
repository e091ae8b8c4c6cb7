"""The envelope of an attested answer, against genuine ones of KMS and against OpenSSL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adytum_sim import cms

FORMS: list[cms.ContentForm] = ["constructed", "primitive"]


def _parts(blob: bytes) -> dict[str, bytes]:
    """Cut a genuine 493-byte answer at the offsets of the documented structure."""
    return {
        "recipient_id": blob[33:65],
        "encrypted_key": blob[131:387],
        "iv": blob[415:431],
        "ciphertext": blob[435:483],
    }


@pytest.mark.parametrize("name", ["edgebit_ciphertext_for_recipient.ber", "sdkc_input_ber_constructed.ber"])
def test_a_genuine_answer_is_rebuilt_byte_for_byte(vectors: Path, name: str) -> None:
    genuine = (vectors / "cms" / name).read_bytes()
    assert len(genuine) == 493
    assert cms.assemble(**_parts(genuine), form="constructed") == genuine


def test_the_recipient_is_named_as_in_a_genuine_answer(vectors: Path) -> None:
    numbers = json.loads((vectors / "cms" / "edgebit_rsa_key.json").read_text())
    public = rsa.RSAPublicNumbers(int(numbers["e"], 0) if isinstance(numbers["e"], str) else numbers["e"],
                                  int(numbers["n"], 0)).public_key()  # fmt: skip
    genuine = (vectors / "cms" / "edgebit_ciphertext_for_recipient.ber").read_bytes()
    assert cms.subject_key_identifier(public) == _parts(genuine)["recipient_id"]


@pytest.mark.parametrize(("size", "total"), [(32, 493), (28, 477), (10, 461), (0, 461)])
def test_the_sizes_are_those_of_kms(rsa_key: rsa.RSAPrivateKey, size: int, total: int) -> None:
    blob = cms.envelop(rsa_key.public_key(), bytes(size), random_bytes=os.urandom, form="constructed")
    assert len(blob) == total


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 16, 32, 120, 127, 1024, 2400])
def test_openssl_opens_it(
    rsa_key: rsa.RSAPrivateKey, open_cms: Callable[[bytes, bytes], bytes], form: Any, size: int
) -> None:
    plaintext = os.urandom(size)
    pem = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    blob = cms.envelop(rsa_key.public_key(), plaintext, random_bytes=os.urandom, form=form)
    assert open_cms(blob, pem) == plaintext


def test_each_envelope_has_its_own_key_and_iv(rsa_key: rsa.RSAPrivateKey) -> None:
    blobs = {cms.envelop(rsa_key.public_key(), b"same", random_bytes=os.urandom, form="primitive") for _ in range(4)}
    assert len(blobs) == 4
