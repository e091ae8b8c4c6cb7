"""How one certificate of each of the five levels looks (names, lifetimes, path lengths, key usages).

The shapes were read off genuine documents of 2021 to 2026. Names keep AWS's form where a verifier may look at it
(the leaf's is `<module id>.<region>.aws`); the organisation is ours, so that nobody takes one for the real thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ROOT_COMMON_NAME = "adytum development only"
_ORGANISATION = "Adytum development only"

ROOT_LIFE = timedelta(days=365 * 30 + 8, hours=1)
REGIONAL_LIFE = timedelta(days=20, hours=1)
ZONAL_LIFE = timedelta(days=5, hours=17)
INSTANCE_LIFE = timedelta(hours=24)
LEAF_LIFE = timedelta(hours=3)
LEAF_BACKDATE = timedelta(seconds=3)  # real leaves are valid for 3:00:03
INTERMEDIATE_BACKDATE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate with its private key and the moment from which it must be replaced."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def is_fresh(self, at: datetime, margin: timedelta) -> bool:
        return self.certificate.not_valid_before_utc <= at and at + margin < self.certificate.not_valid_after_utc


def moment(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms // 1000, UTC)


def _name(common_name: str, *, place: bool = True, reverse: bool = False) -> x509.Name:
    parts = [(NameOID.COUNTRY_NAME, "US")]
    if place:
        parts += [(NameOID.STATE_OR_PROVINCE_NAME, "Washington"), (NameOID.LOCALITY_NAME, "Seattle")]
    parts += [(NameOID.ORGANIZATION_NAME, _ORGANISATION), (NameOID.ORGANIZATIONAL_UNIT_NAME, "stand-in")]
    parts.append((NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in (reversed(parts) if reverse else parts)])


def _usage(*, digital_signature: bool, content: bool = False, cert: bool = False, crl: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content,
        key_cert_sign=cert,
        crl_sign=crl,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _with_identifiers(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer: Issued
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(authority, critical=False).add_extension(subject, critical=False)


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: object) -> Issued:
    signer = issuer_key if isinstance(issuer_key, ec.EllipticCurvePrivateKey) else key
    return Issued(key=key, certificate=builder.sign(signer, hashes.SHA384()))


def root(at: datetime) -> Issued:
    """Self-signed, 30 years, CA without a path length."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(ROOT_COMMON_NAME, place=False)
    start = at - timedelta(days=1)
    builder = (
        _builder(name, name, key, x509.random_serial_number(), start, start + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(digital_signature=True, cert=True, crl=True), critical=True)
    )
    return _signed(builder, key, None)


def _authority(name: x509.Name, issuer: Issued, at: datetime, life: timedelta, path_length: int) -> Issued:
    key = ec.generate_private_key(ec.SECP384R1())
    start = at - INTERMEDIATE_BACKDATE
    builder = _builder(
        name, issuer.certificate.subject, key, x509.random_serial_number(), start, start + life
    ).add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = _with_identifiers(builder, key, issuer)
    if path_length:
        point = x509.UniformResourceIdentifier("http://crl.adytum.invalid/crl/development-only.crl")
        builder = builder.add_extension(
            _usage(digital_signature=True, cert=True, crl=True), critical=True
        ).add_extension(x509.CRLDistributionPoints([x509.DistributionPoint([point], None, None, None)]), critical=False)
    else:
        builder = builder.add_extension(_usage(digital_signature=False, cert=True), critical=True)
    return _signed(builder, key, issuer.key)


def regional(issuer: Issued, region: str, at: datetime) -> Issued:
    """20 days and 1 hour, path length 2."""
    name = _name(f"{_label()}.{region}.aws.nitro-enclaves", place=False)
    return _authority(name, issuer, at, REGIONAL_LIFE, 2)


def zonal(issuer: Issued, region: str, at: datetime) -> Issued:
    """5 days and 17 hours, path length 1. The parts of its name stand in the other order, as in AWS's."""
    name = _name(f"{_label()}.zonal.{region}.aws.nitro-enclaves", reverse=True)
    return _authority(name, issuer, at, ZONAL_LIFE, 1)


def instance(issuer: Issued, region: str, instance_id: str, at: datetime) -> Issued:
    """24 hours, path length 0, keyCertSign only."""
    return _authority(_name(f"{instance_id}.{region}.aws.nitro-enclaves"), issuer, at, INSTANCE_LIFE, 0)


def leaf(issuer: Issued, region: str, module_id: str, at: datetime) -> Issued:
    """3 hours and 3 seconds; no identifiers; its serial number carries the enclave's id and the time of issue.

    `module_id` ends in `-enc` and 16 hex digits.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    enclave_id = bytes.fromhex(module_id.rpartition("-enc")[2])
    serial = int.from_bytes(enclave_id + bytes(4) + int(at.timestamp()).to_bytes(4, "big"), "big")
    name = _name(f"{module_id}.{region}.aws")
    builder = (
        _builder(name, issuer.certificate.subject, key, serial or 1, at - LEAF_BACKDATE, at + LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, content=True), critical=False)
    )
    return _signed(builder, key, issuer.key)


def _label() -> str:
    return f"{x509.random_serial_number() >> 95:016x}"[-16:]
