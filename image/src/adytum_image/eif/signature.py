"""Sign an EIF as nitro-cli does, and check such a signature.

The section is CBOR: [{"signing_certificate": [PEM bytes as integers], "signature": [COSE_Sign1 bytes as integers]}].
The COSE_Sign1 is untagged, ECDSA, and its payload is CBOR {"register_index": 0, "register_value": [48 integers]}: PCR0.
PCR8 is the extension of the certificate, so a KMS policy can ask for "an image that this key signed".

Source: aws/aws-nitro-enclaves-image-format, src/utils/eif_signer.rs and src/defs/mod.rs (PcrSignature, PcrInfo).
Left out: keys in KMS or PKCS#11, and the certificate's chain; nobody checks one at launch either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from adytum_image.eif import cbor
from adytum_image.errors import EifCode, EifError

# COSE algorithm by the curve of the key (RFC 9053, 2.1), its hash, and the bytes of one coordinate
_ALGORITHMS: Final[dict[str, tuple[int, hashes.HashAlgorithm, int]]] = {
    "secp256r1": (-7, hashes.SHA256(), 32),
    "secp384r1": (-35, hashes.SHA384(), 48),
    "secp521r1": (-36, hashes.SHA512(), 66),
}
_ALGORITHM_LABEL: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EifSignature:
    """What a signature section holds. `cose`: the COSE_Sign1 bytes as they stand."""

    certificate: x509.Certificate
    cose: bytes


def sign_pcr0(pcr0: bytes, *, key_pem: bytes, certificate_pem: bytes, now: datetime) -> bytes:
    """The signature section for `pcr0` (48 bytes). `now` must lie in the certificate's validity, as nitro-cli demands.

    ECDSA signatures are random, so a signed image is not reproducible byte for byte; its PCRs are.
    Errors: EifError(KEY) for a key that is not P-256, P-384 or P-521 or not the certificate's;
    EifError(SIGNATURE_CERTIFICATE) for a certificate that does not parse or is not valid now.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        raise EifError(EifCode.KEY) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _ALGORITHMS:
        raise EifError(EifCode.KEY)
    certificate = _load_certificate(certificate_pem)
    if certificate.public_key() != key.public_key():
        raise EifError(EifCode.KEY)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise EifError(EifCode.SIGNATURE_CERTIFICATE)
    algorithm, digest, size = _ALGORITHMS[key.curve.name]
    protected = cbor.dumps({_ALGORITHM_LABEL: algorithm})
    payload = _payload(pcr0)
    r, s = decode_dss_signature(key.sign(_to_be_signed(protected, payload), ec.ECDSA(digest)))
    cose = cbor.dumps([protected, {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")])
    return cbor.dumps([{"signing_certificate": list(certificate_pem), "signature": list(cose)}])


def parse(section: bytes) -> EifSignature:
    """Parse a signature section of exactly one signature. Errors: EifError(SIGNATURE_FORMAT, SIGNATURE_CERTIFICATE)."""
    value = _loads(section)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise EifError(EifCode.SIGNATURE_FORMAT)
    entry = value[0]
    if set(entry) != {"signing_certificate", "signature"}:
        raise EifError(EifCode.SIGNATURE_FORMAT)
    return EifSignature(
        certificate=_load_certificate(_octets(entry["signing_certificate"])), cose=_octets(entry["signature"])
    )


def certificate_der(section: bytes) -> bytes:
    """The DER bytes that PCR8 measures. Errors: as `parse`."""
    return parse(section).certificate.public_bytes(serialization.Encoding.DER)


def verify(section: bytes, pcr0: bytes) -> EifSignature:
    """Check that the section's certificate signed `pcr0` (48 bytes), computed by the caller from the file.

    Errors: as `parse`; SIGNATURE_PCR where another value was signed; SIGNATURE_INVALID.
    """
    signature = parse(section)
    value = _loads(signature.cose)
    if not isinstance(value, list) or len(value) != 4:
        raise EifError(EifCode.SIGNATURE_FORMAT)
    protected, unprotected, payload, raw = value
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(raw, bytes) or unprotected:
        raise EifError(EifCode.SIGNATURE_FORMAT)
    key = signature.certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _ALGORITHMS:
        raise EifError(EifCode.KEY)
    algorithm, digest, size = _ALGORITHMS[key.curve.name]
    if protected != cbor.dumps({_ALGORITHM_LABEL: algorithm}) or len(raw) != 2 * size:
        raise EifError(EifCode.SIGNATURE_FORMAT)
    if payload != _payload(pcr0):
        raise EifError(EifCode.SIGNATURE_PCR)
    der = encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))
    try:
        key.verify(der, _to_be_signed(protected, payload), ec.ECDSA(digest))
    except InvalidSignature:
        raise EifError(EifCode.SIGNATURE_INVALID) from None
    return signature


def _payload(pcr0: bytes) -> bytes:
    return cbor.dumps({"register_index": 0, "register_value": list(pcr0)})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052, 4.4, with an empty external_aad."""
    return cbor.dumps(["Signature1", protected, b"", payload])


def _loads(data: bytes) -> cbor.Value:
    try:
        return cbor.loads(data)
    except ValueError:
        raise EifError(EifCode.SIGNATURE_FORMAT) from None


def _octets(value: cbor.Value) -> bytes:
    """An array of integers, as serde writes a Vec<u8>."""
    if not isinstance(value, list):
        raise EifError(EifCode.SIGNATURE_FORMAT)
    octets = [item for item in value if isinstance(item, int) and 0 <= item < 256]
    if len(octets) != len(value):
        raise EifError(EifCode.SIGNATURE_FORMAT)
    return bytes(octets)


def _load_certificate(pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _used = (  # parsed when they are first asked for; so ask for all that is used, here
            certificate.public_key(),
            certificate.subject.rfc4514_string(),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
        raise EifError(EifCode.SIGNATURE_CERTIFICATE) from None
    return certificate
