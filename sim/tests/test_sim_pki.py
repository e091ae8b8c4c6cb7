"""The development PKI has the shape of the real one, and its documents are for its own anchor alone."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from adytum_sim.nsm import build_document
from adytum_sim.pki import ROOT_COMMON_NAME, DevPki
from adytum_verify import AWS_ANCHOR, AttestationError, authenticate_document

NOW = 1_790_000_000_000
HOUR = 3_600_000
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS = {index: bytes([index]) * 48 for index in range(16)}


@pytest.fixture(scope="module")
def pki() -> DevPki:
    return DevPki.create(NOW, region="eu-central-1")


def _certificates(pki: DevPki, now_ms: int = NOW) -> list[x509.Certificate]:
    chain = pki.chain(module_id=MODULE_ID, now_ms=now_ms)
    return [x509.load_der_x509_certificate(der) for der in (*chain.cabundle, chain.certificate)]


def test_the_five_certificates_have_the_real_shape(pki: DevPki) -> None:
    certificates = _certificates(pki)
    lifetimes = [c.not_valid_after_utc - c.not_valid_before_utc for c in certificates]
    assert lifetimes[1:] == [
        timedelta(days=20, hours=1),
        timedelta(days=5, hours=17),
        timedelta(hours=24),
        timedelta(hours=3, seconds=3),
    ]
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints) for c in certificates]
    assert [(e.value.ca, e.value.path_length, e.critical) for e in constraints] == [
        (True, None, True),
        (True, 2, True),
        (True, 1, True),
        (True, 0, True),
        (False, None, True),
    ]
    usages = [c.extensions.get_extension_for_class(x509.KeyUsage) for c in certificates]
    assert [
        (u.value.digital_signature, u.value.content_commitment, u.value.key_cert_sign, u.critical) for u in usages
    ] == [
        (True, False, True, True),
        (True, False, True, True),
        (True, False, True, True),
        (False, False, True, True),
        (True, True, False, False),
    ]
    for certificate, issuer in zip(certificates[1:], certificates, strict=False):
        certificate.verify_directly_issued_by(issuer)
    for certificate in certificates:
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert certificate.public_key().curve.name == "secp384r1"
        assert certificate.signature_hash_algorithm is not None
        assert certificate.signature_hash_algorithm.name == "sha384"
        assert len(certificate.public_bytes(Encoding.DER)) <= 1024
    assert len(certificates[4].extensions) == 2  # no SAN, EKU, SKI, AKI


def test_names_and_serial_number_are_formed_as_the_real_ones(pki: DevPki) -> None:
    names = [c.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value for c in _certificates(pki)]
    assert names[0] == ROOT_COMMON_NAME == "adytum development only"
    assert str(names[1]).endswith(".eu-central-1.aws.nitro-enclaves")
    assert ".zonal.eu-central-1." in str(names[2])
    assert names[3] == "i-0123456789abcdef0.eu-central-1.aws.nitro-enclaves"
    assert names[4] == f"{MODULE_ID}.eu-central-1.aws"
    serial = f"{_certificates(pki)[4].serial_number:032x}"
    assert serial == "0123456789abcdef" + "00000000" + f"{NOW // 1000:08x}"


def test_no_certificate_claims_to_be_amazons(pki: DevPki) -> None:
    for certificate in _certificates(pki):
        assert "Amazon" not in certificate.subject.rfc4514_string()


def test_a_leaf_is_reused_for_three_hours_and_then_replaced() -> None:
    pki = DevPki.create(NOW)
    first = pki.chain(module_id=MODULE_ID, now_ms=NOW)
    assert pki.chain(module_id=MODULE_ID, now_ms=NOW + 3 * HOUR - 61_000).certificate == first.certificate
    later = pki.chain(module_id=MODULE_ID, now_ms=NOW + 3 * HOUR)
    assert later.certificate != first.certificate
    assert later.cabundle == first.cabundle


def test_the_upper_certificates_are_replaced_before_they_expire() -> None:
    pki = DevPki.create(NOW)
    for hours in range(0, 60 * 24, 7):
        now = NOW + hours * HOUR
        for certificate in _certificates(pki, now):
            assert certificate.not_valid_before_utc.timestamp() * 1000 <= now
            assert now < certificate.not_valid_after_utc.timestamp() * 1000


@pytest.mark.parametrize("encoding", ["indefinite", "definite"])
def test_a_document_verifies_under_the_dev_anchor_and_is_refused_under_amazons(pki: DevPki, encoding: str) -> None:
    chain = pki.chain(module_id=MODULE_ID, now_ms=NOW)
    document = build_document(chain, module_id=MODULE_ID, timestamp_ms=NOW, pcrs=PCRS, encoding=encoding)  # type: ignore[arg-type]
    verified = authenticate_document(document, anchors=[pki.anchor], now_ms=NOW)
    assert dict(verified.pcrs) == PCRS
    with pytest.raises(AttestationError):
        authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=NOW)
    with pytest.raises(AttestationError):
        authenticate_document(document, anchors=[DevPki.create(NOW).anchor], now_ms=NOW)


def test_saved_and_loaded_it_has_the_same_anchor(pki: DevPki, tmp_path: Path) -> None:
    pki.save(tmp_path)
    loaded = DevPki.load(tmp_path, region=pki.region)
    assert loaded.root_pem == pki.root_pem
    chain = loaded.chain(module_id=MODULE_ID, now_ms=NOW)
    document = build_document(chain, module_id=MODULE_ID, timestamp_ms=NOW, pcrs=PCRS)
    authenticate_document(document, anchors=[pki.anchor], now_ms=NOW)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}


def test_a_key_that_is_not_the_roots_is_refused(pki: DevPki, tmp_path: Path) -> None:
    pki.save(tmp_path / "one")
    DevPki.create(NOW).save(tmp_path / "two")
    (tmp_path / "one" / "attestation-root.key").write_bytes((tmp_path / "two" / "attestation-root.key").read_bytes())
    with pytest.raises(ValueError, match="not the root's"):
        DevPki.load(tmp_path / "one")


@pytest.mark.parametrize(
    "module_id", ["", "i-1-enc1", MODULE_ID + "0", MODULE_ID.replace("enc", "tpm"), "x" + MODULE_ID]
)
def test_only_enclaves_get_a_chain(pki: DevPki, module_id: str) -> None:
    with pytest.raises(ValueError, match="module id"):
        pki.chain(module_id=module_id, now_ms=NOW)
