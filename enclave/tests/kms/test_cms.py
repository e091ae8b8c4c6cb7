"""The CMS parser against two genuine KMS answers, OpenSSL's own writer, and every way of bending one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum_enclave.core.cms import CmsEnvelope, parse_cms
from adytum_wire.errors import AdytumError, Code

SKI, WRAPPED, IV, CIPHERTEXT = b"\x01" * 32, b"\x02" * 256, b"\x03" * 16, b"\x04" * 48


def refuse(data: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        parse_cms(data)
    assert caught.value.code is Code.KMS_ANSWER_INVALID
    assert caught.value.field == "CiphertextForRecipient"


@pytest.fixture
def genuine(kit: SimpleNamespace) -> bytes:
    return kit.build_cms(ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=CIPHERTEXT)


def private_key(numbers: dict[str, str]) -> rsa.RSAPrivateKey:
    n, e, d, p, q = (int(numbers[name], 16) if isinstance(numbers[name], str) else numbers[name] for name in "nedpq")
    public = rsa.RSAPublicNumbers(e, n)
    return rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    ).private_key()


def test_a_genuine_answer_opens_to_its_published_plaintext(cms_vectors: Path) -> None:
    envelope = parse_cms((cms_vectors / "edgebit_ciphertext_for_recipient.ber").read_bytes())
    key = private_key(json.loads((cms_vectors / "edgebit_rsa_key.json").read_text()))
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert envelope.ski == hashlib.sha256(spki).digest()
    cek = key.decrypt(envelope.encrypted_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    decryptor = Cipher(algorithms.AES(cek), modes.CBC(envelope.iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    opened = unpadder.update(decryptor.update(envelope.ciphertext) + decryptor.finalize()) + unpadder.finalize()
    assert opened == (cms_vectors / "edgebit_plaintext.bin").read_bytes()
    assert len(opened) == 32


def test_the_other_genuine_answer_parses(cms_vectors: Path) -> None:
    envelope = parse_cms((cms_vectors / "sdkc_input_ber_constructed.ber").read_bytes())
    assert envelope.ski.hex() == "7087b55df94ba3255cdf3c01840a2aa3ec93620625d601cf56f97bde7a3d2eb1"
    assert len(envelope.ciphertext) == 48


def test_the_builder_of_these_tests_writes_what_kms_writes(cms_vectors: Path, kit: SimpleNamespace) -> None:
    for path in sorted(cms_vectors.glob("*.ber")):
        genuine = path.read_bytes()
        e = parse_cms(genuine)
        built = kit.build_cms(ski=e.ski, encrypted_key=e.encrypted_key, iv=e.iv, ciphertext=e.ciphertext)
        assert built == genuine


@pytest.mark.parametrize("content", ["constructed", "segments", "primitive"])
@pytest.mark.parametrize("outer", ["tlv", "indefinite"])
def test_each_documented_form_reads_the_same(kit: SimpleNamespace, content: str, outer: str) -> None:
    data = kit.build_cms(
        ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=CIPHERTEXT, content=content, outer=getattr(kit, outer)
    )
    assert parse_cms(data) == CmsEnvelope(ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=CIPHERTEXT)


def test_what_openssl_writes_is_read(tmp_path: Path) -> None:
    """`openssl cms -encrypt` in DER and streamed BER. Its key identifier is SHA-1's 20 bytes, so only that may fail."""
    openssl = shutil.which("openssl")
    if openssl is None and not os.environ.get("CI"):
        pytest.skip("no openssl command")
    assert openssl is not None

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=tmp_path, timeout=60)

    key_id = "55" * 32
    (tmp_path / "plain").write_bytes(b"k" * 32)
    (tmp_path / "cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=x\n[dn]\n[x]\nsubjectKeyIdentifier=" + key_id + "\n"
    )
    run(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c", "-subj", "/CN=x", "-config", "cnf"
    )
    for name, extra in (("der", []), ("ber", ["-stream", "-indef"])):
        run(
            *("cms", "-encrypt", "-binary", "-in", "plain", "-outform", "DER", "-out", name, "-aes-256-cbc", "-keyid"),
            *(*extra, "-recip", "c", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"),
            *("-keyopt", "rsa_mgf1_md:sha256"),
        )
        envelope = parse_cms((tmp_path / name).read_bytes())
        assert envelope.ski.hex() == key_id
        assert len(envelope.ciphertext) == 48


def test_trailing_bytes_are_refused(genuine: bytes) -> None:
    refuse(genuine + b"\0")
    refuse(genuine + b"\0\0")
    refuse(genuine + genuine)


def test_every_truncation_is_refused(genuine: bytes) -> None:
    for end in range(len(genuine)):
        refuse(genuine[:end])


def test_more_than_kms_may_send_is_refused_before_it_is_read(kit: SimpleNamespace) -> None:
    fits = kit.build_cms(ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=bytes(5680))
    assert len(parse_cms(fits).ciphertext) == 5680
    refuse(kit.build_cms(ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=bytes(6144)))


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("signedData", "2a864886f70d010703", "2a864886f70d010702"),
        ("RSAES-PKCS1-v1_5", "2a864886f70d010107", "2a864886f70d010101"),
        ("OAEP with SHA-512 throughout", "608648016503040201", "608648016503040203"),
        ("a mask generator that is not MGF1", "2a864886f70d010108", "2a864886f70d010109"),
        ("AES-128-CBC", "60864801650304012a", "608648016503040102"),
        ("AES-256-GCM", "60864801650304012a", "60864801650304012e"),
        ("content that is signed data", "2a864886f70d010701", "2a864886f70d010702"),
        ("EnvelopedData version 0", "308002010231", "308002010031"),
        ("recipient named by issuer and serial", "8020" + "01" * 32, "3020" + "01" * 32),
        ("content not in [0]", "a0800430", "a1800430"),
        ("content of integers", "a0800430", "a0800230"),
        ("a SEQUENCE instead of the SET", "318201", "308201"),
        ("SHA-256 parameters that are not NULL", "6086480165030402010500", "6086480165030402010400"),
    ],
)
def test_another_algorithm_or_shape_is_refused(genuine: bytes, what: str, old: str, new: str) -> None:
    assert bytes.fromhex(old) in genuine, what
    refuse(genuine.replace(bytes.fromhex(old), bytes.fromhex(new)))


@pytest.mark.parametrize(
    "change",
    [
        {"ski": bytes(20)},
        {"ski": bytes(33)},
        {"encrypted_key": bytes(255)},
        {"encrypted_key": bytes(512)},
        {"iv": bytes(15)},
        {"iv": bytes(12)},
        {"ciphertext": b""},
        {"ciphertext": bytes(47)},
    ],
)
def test_another_size_is_refused(kit: SimpleNamespace, change: dict[str, bytes]) -> None:
    parts = {"ski": SKI, "encrypted_key": WRAPPED, "iv": IV, "ciphertext": CIPHERTEXT} | change
    refuse(kit.build_cms(**parts))
    refuse(kit.build_cms(**parts, content="primitive"))


def test_two_recipients_are_refused(kit: SimpleNamespace, genuine: bytes) -> None:
    start = genuine.index(bytes.fromhex("3182016b"))
    recipient = genuine[start + 4 : start + 4 + 0x16B]
    for recipients in (recipient * 2, b""):
        refuse(genuine[:start] + kit.tlv(0x31, recipients) + genuine[start + 4 + 0x16B :])


@pytest.mark.parametrize(
    "nest", [b"\x30\x80" * 3000, b"\x24\x80" * 3000, b"\x30\x82\x10\x00" * 1500, b"\x05\x00" * 3000]
)
def test_a_bomb_of_nested_or_many_elements_is_refused(nest: bytes) -> None:
    refuse(nest)
    refuse(b"\x30\x80" + nest[:6000])


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_garbage_raises_the_one_error(data: bytes) -> None:
    refuse(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutations_parse_to_the_right_sizes_or_raise_the_one_error(kit: SimpleNamespace, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(["constructed", "segments", "primitive"]))
    outer = data.draw(st.sampled_from([kit.tlv, kit.indefinite]))
    mutated = bytearray(
        kit.build_cms(ski=SKI, encrypted_key=WRAPPED, iv=IV, ciphertext=CIPHERTEXT, content=content, outer=outer)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["set", "delete", "insert"])):
            case "set":
                mutated[position] = data.draw(st.integers(0, 255))
            case "delete":
                del mutated[position : position + data.draw(st.integers(1, 8))]
            case "insert":
                mutated[position:position] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        envelope = parse_cms(bytes(mutated))
    except AdytumError as error:
        assert error.code is Code.KMS_ANSWER_INVALID
    else:
        assert (len(envelope.ski), len(envelope.encrypted_key), len(envelope.iv)) == (32, 256, 16)
        assert envelope.ciphertext and len(envelope.ciphertext) % 16 == 0
