"""PCRs and signatures of an EIF, against formulas written out by hand and against openssl."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_image.eif import SectionType, cbor, measure, read, rewrite, write
from adytum_image.eif.signature import parse, sign_pcr0, verify
from adytum_image.errors import EifCode, EifError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PCR0 = bytes(range(48))
PARTS = [
    (SectionType.KERNEL, b"k"),
    (SectionType.CMDLINE, b"c"),
    (SectionType.METADATA, b"{}"),
    (SectionType.RAMDISK, b"r0"),
    (SectionType.RAMDISK, b"r1"),
    (SectionType.RAMDISK, b"r2"),
]


def signer(key=None, *, begin=NOW - timedelta(days=1), end=NOW + timedelta(days=1)) -> tuple[bytes, bytes]:
    key = key or ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "release")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, begin, end)
    certificate = builder.sign(key, hashes.SHA384())
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem),
    )


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    return signer()


@pytest.fixture(scope="module")
def section(pair) -> bytes:
    return sign_pcr0(PCR0, key_pem=pair[0], certificate_pem=pair[1], now=NOW)


def extend(data: bytes) -> bytes:
    return hashlib.sha384(bytes(48) + hashlib.sha384(data).digest()).digest()


def code_of(call) -> EifCode:
    with pytest.raises(EifError) as caught:
        call()
    return caught.value.code


def test_pcrs_are_the_documented_hashes() -> None:
    found = measure(read(write(PARTS)))
    assert found.pcr0 == extend(b"kcr0r1r2")
    assert found.pcr1 == extend(b"kcr0")
    assert found.pcr2 == extend(b"r1r2")
    assert found.as_hex().keys() == {"PCR0", "PCR1", "PCR2"}


def test_pcr2_of_an_image_with_one_ramdisk_is_the_constant_that_pins_nothing() -> None:
    """The value seen in real documents of single-ramdisk images."""
    assert measure(read(write(PARTS[:4]))).pcr2.hex().startswith("21b9efbc184807662e966d34f390821309eeac68")


def test_metadata_is_not_measured() -> None:
    other = [part if part[0] is not SectionType.METADATA else (part[0], b'{"ImageName":"evil"}') for part in PARTS]
    assert measure(read(write(other))) == measure(read(write(PARTS)))


def test_signed_image_has_pcr8_and_keeps_the_others(pair) -> None:
    plain = read(write(PARTS))
    pcr0 = measure(plain).pcr0
    signed = read(rewrite(plain, signature=sign_pcr0(pcr0, key_pem=pair[0], certificate_pem=pair[1], now=NOW)))
    certificate = x509.load_pem_x509_certificate(pair[1]).public_bytes(serialization.Encoding.DER)
    assert measure(signed).pcr8 == extend(certificate)
    assert measure(signed).pcr0 == pcr0
    assert verify(signed.signature, pcr0).certificate.serial_number == 7
    assert rewrite(signed, signature=None) == write(PARTS)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_each_curve_of_nitro_cli_signs_and_verifies(curve) -> None:
    key, certificate = signer(ec.generate_private_key(curve))
    verify(sign_pcr0(PCR0, key_pem=key, certificate_pem=certificate, now=NOW), PCR0)


def test_openssl_accepts_the_signature_over_bytes_built_by_hand(pair, section, tmp_path) -> None:
    """The Sig_structure of RFC 9052 in hex, the way the AWS crate serialises it; openssl does the arithmetic."""
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("no openssl program")
    payload = bytes.fromhex("a2 6e") + b"register_index" + bytes.fromhex("00 6e") + b"register_value"
    payload += bytes.fromhex("9830") + b"".join(bytes([n]) if n < 24 else bytes([0x18, n]) for n in PCR0)
    signed = (
        bytes.fromhex("84 6a") + b"Signature1" + bytes.fromhex("44 a1013822 40 58") + bytes([len(payload)]) + payload
    )
    cose = parse(section).cose
    assert cose[:7] == bytes.fromhex("84 44a1013822 a0")
    assert cose[7:9] == bytes([0x58, len(payload)])
    raw = cose[-96:]
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    der = encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
    (tmp_path / "sig").write_bytes(der)
    (tmp_path / "data").write_bytes(signed)
    public = x509.load_pem_x509_certificate(pair[1]).public_key()
    (tmp_path / "key").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    command = ["openssl", "dgst", "-sha384", "-verify", "key", "-signature", "sig", "data"]
    assert b"Verified OK" in subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout


def test_section_is_arrays_of_integers_as_serde_writes_them(pair, section) -> None:
    value = cbor.loads(section)
    assert bytes(value[0]["signing_certificate"]) == pair[1]
    assert section[:2] == bytes.fromhex("81a2")


def test_attack_signature_of_another_image_is_refused(section) -> None:
    assert code_of(lambda: verify(section, bytes(48))) is EifCode.SIGNATURE_PCR


def test_attack_certificate_swapped_for_the_attackers_is_refused(section) -> None:
    value = cbor.loads(section)
    value[0]["signing_certificate"] = list(signer()[1])
    assert code_of(lambda: verify(cbor.dumps(value), PCR0)) is EifCode.SIGNATURE_INVALID


def test_attack_algorithm_changed_in_the_protected_header_is_refused(section) -> None:
    value = cbor.loads(section)
    cose = cbor.loads(bytes(value[0]["signature"]))
    cose[0] = bytes.fromhex("a10126")
    value[0]["signature"] = list(cbor.dumps(cose))
    assert code_of(lambda: verify(cbor.dumps(value), PCR0)) is EifCode.SIGNATURE_FORMAT


def test_signing_refuses_wrong_keys_and_times(pair) -> None:
    other, expired = signer(), signer(end=NOW - timedelta(hours=1), begin=NOW - timedelta(days=2))
    rsa_pair = signer(rsa.generate_private_key(65537, 2048))
    for key, certificate, code in (
        (pair[0], other[1], EifCode.KEY),
        (b"no key", pair[1], EifCode.KEY),
        (*rsa_pair, EifCode.KEY),
        (*expired, EifCode.SIGNATURE_CERTIFICATE),
        (pair[0], b"no certificate", EifCode.SIGNATURE_CERTIFICATE),
    ):
        assert (
            code_of(lambda key=key, cert=certificate: sign_pcr0(PCR0, key_pem=key, certificate_pem=cert, now=NOW))
            is code
        )


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_fuzz_a_damaged_signature_is_refused_with_a_code(section, data) -> None:
    at = data.draw(st.integers(0, len(section) - 1))
    value = data.draw(st.integers(0, 255))
    damaged = section[:at] + bytes([value]) + section[at + 1 :]
    try:
        assert verify(damaged, PCR0).cose
    except EifError:
        return
    # The signature does not cover the certificate, so its name or dates may change; its key may not, and PCR8 measures
    # all of it.
    was, now = parse(section).certificate, parse(damaged).certificate
    assert now.public_key() == was.public_key()


ATOMS = st.integers(-(2**63), 2**63) | st.binary(max_size=30) | st.text(max_size=30)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=30) | st.dictionaries(st.integers(-9, 9) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_cbor_round_trip(value) -> None:
    try:
        encoded = cbor.dumps(value)
        decoded = cbor.loads(encoded)
    except ValueError:
        return  # deeper than the bound
    assert decoded == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_fuzz_cbor_reads_one_form_only(data) -> None:
    try:
        value = cbor.loads(data)
    except ValueError:
        return
    assert cbor.dumps(value) == data
