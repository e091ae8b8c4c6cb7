"""Step 4: the certificate chain, walked by hand: exactly root, region, zone, instance, leaf.

A general path builder accepts chains that AWS would never issue (a CA as leaf, a leaf under the root, another curve),
and rejects each genuine one (their leaves have no SAN). So each certificate is compared with the profile of its place.
The root is known by the SHA-256 of its DER and by nothing else; revocation lists are not consulted, as AWS asks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from adytum_verify.codes import AttestationCode, AttestationError


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trusted root: the SHA-256 (32 bytes) of its DER certificate."""

    sha256: bytes

    def __post_init__(self) -> None:
        if len(self.sha256) != hashlib.sha256().digest_size:
            raise AttestationError(AttestationCode.ANCHOR_INVALID)


# AWS Nitro Enclaves Root-G1, commercial partition. AWS publishes the hash of a ZIP file that holds it; this is the hash
# of the certificate itself: openssl x509 -in root.pem -outform DER | sha256sum
AWS_ANCHOR: Final = Anchor(bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """`path_length` None: the root's, absent or long enough for what follows."""

    place: str
    ca: bool
    path_length: int | None


_PROFILES: Final = (
    _Profile(place="cabundle[0]", ca=True, path_length=None),
    _Profile(place="cabundle[1]", ca=True, path_length=2),
    _Profile(place="cabundle[2]", ca=True, path_length=1),
    _Profile(place="cabundle[3]", ca=True, path_length=0),
    _Profile(place="certificate", ca=False, path_length=None),
)
_KNOWN_CRITICAL: Final = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf whose chain holds. Times in ms: the span in which all five certificates are valid."""

    public_key: ec.EllipticCurvePublicKey
    common_name: str
    issuer_common_name: str
    valid_from_ms: int
    valid_until_ms: int


def anchor_from_pem(pem: bytes) -> Anchor:
    """The anchor for one PEM certificate, for other AWS partitions and for stand-ins. Errors: ANCHOR_INVALID."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise AttestationError(AttestationCode.ANCHOR_INVALID) from None
    if len(certificates) != 1:
        raise AttestationError(AttestationCode.ANCHOR_INVALID)
    return Anchor(certificates[0].fingerprint(hashes.SHA256()))


def verify_certificates(
    cabundle: tuple[bytes, ...], certificate: bytes, anchors: tuple[Anchor, ...], now_ms: int
) -> Leaf:
    """Walk from the anchor down to `certificate` (DER), all valid at `now_ms`.

    No field of a certificate is used before its issuer's signature over it holds, except to find that out.
    Errors: the CHAIN_ codes, NOT_YET_VALID, EXPIRED; `field` is the certificate's place.
    """
    if len(cabundle) + 1 != len(_PROFILES):
        raise AttestationError(AttestationCode.CHAIN_LENGTH)
    # 4.1 the root is one of the anchors; no anchors, no trust
    if Anchor(hashlib.sha256(cabundle[0]).digest()) not in anchors:
        raise AttestationError(AttestationCode.CHAIN_ANCHOR, _PROFILES[0].place)
    link: _Link | None = None
    links: list[_Link] = []
    for der, profile in zip((*cabundle, certificate), _PROFILES, strict=True):
        link = _check_guarded(der, profile, link, now_ms)
        links.append(link)
    return Leaf(
        public_key=links[-1].public_key,
        common_name=links[-1].common_name,
        issuer_common_name=links[-2].common_name,
        valid_from_ms=max(link.not_before for link in links) * 1000,
        valid_until_ms=min(link.not_after for link in links) * 1000 + 999,  # notAfter includes its second (RFC 5280)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A certificate that fits its place. Times in seconds since the epoch."""

    certificate: x509.Certificate
    public_key: ec.EllipticCurvePublicKey
    common_name: str
    not_before: int
    not_after: int


def _check_guarded(der: bytes, profile: _Profile, issuer: _Link | None, now_ms: int) -> _Link:
    try:
        return _check(der, profile, issuer, now_ms)
    except AttestationError:
        raise
    except Exception:
        # The X.509 parser raises many types for hostile bytes (ValueError, DuplicateExtension, UnsupportedAlgorithm,
        # and warnings where a program turns them into errors). All mean one thing here, and all refuse.
        raise AttestationError(AttestationCode.CHAIN_CERTIFICATE, profile.place) from None


def _check(der: bytes, profile: _Profile, issuer: _Link | None, now_ms: int) -> _Link:
    """One certificate against its place. `issuer` is None for the root, which its hash vouches for."""

    def refuse(code: AttestationCode) -> AttestationError:
        return AttestationError(code, profile.place)

    cert = x509.load_der_x509_certificate(der)
    # 4.2 P-384 and SHA-384, and nothing else
    key = cert.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise refuse(AttestationCode.CHAIN_ALGORITHM)
    if cert.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise refuse(AttestationCode.CHAIN_ALGORITHM)
    if issuer is not None:
        # 4.3 names are linked
        if cert.issuer != issuer.certificate.subject:
            raise refuse(AttestationCode.CHAIN_NAMES)
        # 4.4 the issuer signed it; this also compares the inner and the outer algorithm
        try:
            cert.verify_directly_issued_by(issuer.certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise refuse(AttestationCode.CHAIN_SIGNATURE) from None
    if cert.version is not x509.Version.v3:
        raise refuse(AttestationCode.CHAIN_CERTIFICATE)
    # 4.5 valid at `now`
    not_before = int(cert.not_valid_before_utc.timestamp())
    not_after = int(cert.not_valid_after_utc.timestamp())
    if now_ms // 1000 < not_before:
        raise refuse(AttestationCode.NOT_YET_VALID)
    if now_ms // 1000 > not_after:
        raise refuse(AttestationCode.EXPIRED)
    # 4.6 CA flag and path length
    if not _constraints_fit(cert, profile):
        raise refuse(AttestationCode.CHAIN_CONSTRAINTS)
    # 4.7 key usage
    if not _usage_fits(cert, profile):
        raise refuse(AttestationCode.CHAIN_KEY_USAGE)
    # 4.8 no critical extension that we do not understand
    if any(extension.critical and extension.oid not in _KNOWN_CRITICAL for extension in cert.extensions):
        raise refuse(AttestationCode.CHAIN_EXTENSION)
    return _Link(
        certificate=cert,
        public_key=key,
        common_name=_common_name(cert.subject),
        not_before=not_before,
        not_after=not_after,
    )


def _constraints_fit(cert: x509.Certificate, profile: _Profile) -> bool:
    try:
        extension = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    found = extension.value
    if not profile.ca:
        return not found.ca and found.path_length is None
    if not found.ca or not extension.critical:
        return False
    if profile.path_length is None:
        return found.path_length is None or found.path_length >= len(_PROFILES) - 2
    return found.path_length == profile.path_length


def _usage_fits(cert: x509.Certificate, profile: _Profile) -> bool:
    try:
        extension = cert.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return False
    if profile.ca:
        return extension.critical and extension.value.key_cert_sign
    return extension.value.digital_signature and not extension.value.key_cert_sign


def _common_name(name: x509.Name) -> str:
    """The one CN, or "" when there is not exactly one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""
