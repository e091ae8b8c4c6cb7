"""The Recipient member: check the attestation document, say what policies may compare, envelop the answer.

As the real KMS: the document must verify under the pinned roots and its certificates must be valid now; its nonce,
user_data and timestamp are not looked at, so a document may be used again until its leaf expires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from adytum_sim.kms.errors import KmsFault, invalid
from adytum_sim.kms.params import Params
from adytum_verify import Anchor, AttestationDocument, AttestationError, authenticate_document, parse_unverified

KEY_BITS: Final = 2048
MAX_DOCUMENT: Final = 262_144  # bytes, the service model's bound
_ALGORITHM: Final = "RSAES_OAEP_SHA_256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """An attested caller: whom the answer is for (`public_key`) and what it measured (`pcrs`, 48 bytes each)."""

    document: AttestationDocument
    public_key: rsa.RSAPublicKey

    def context(self) -> dict[str, list[str]]:
        """The condition keys kms:RecipientAttestation:*; a PCR that the document does not show has no key."""
        pcrs = {f"kms:recipientattestation:pcr{i}": [value.hex()] for i, value in self.document.pcrs.items()}
        return {**pcrs, "kms:recipientattestation:imagesha384": pcrs["kms:recipientattestation:pcr0"]}

    def trail(self) -> dict[str, str]:
        """What CloudTrail's additionalEventData.recipient says."""
        shown = {f"attestationDocumentEnclavePCR{i}": self.document.pcrs[i] for i in (1, 2, 3, 4, 8)}
        return {
            "attestationDocumentModuleId": self.document.module_id,
            "attestationDocumentEnclaveImageDigest": self.document.pcrs[0].hex(),
            **{name: value.hex() for name, value in shown.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReader:
    """How documents are checked. `accept_unsigned` is for the QEMU rig alone: its documents carry no signature."""

    anchors: Sequence[Anchor]
    now_ms: Callable[[], int]
    accept_unsigned: bool = False
    # The last document that verified: (its bytes, itself, when). An enclave sends the same one for some seconds.
    _last: list[tuple[bytes, AttestationDocument, int]] = field(default_factory=list)

    def read(self, document: bytes) -> AttestationDocument:
        """Errors: ValidationException for whatever is wrong with the document; AWS does not say what."""
        now_ms = self.now_ms()
        for known, verified, at_ms in self._last:
            if known == document and at_ms <= now_ms < verified.valid_until_ms:
                return verified
        verified = self._verify(document)
        self._last[:] = [(document, verified, now_ms)]
        return verified

    def _verify(self, document: bytes) -> AttestationDocument:
        try:
            if self.accept_unsigned and _is_unsigned(document):
                return parse_unverified(document, allow_unsigned_shape=True)
            return authenticate_document(document, anchors=tuple(self.anchors), now_ms=self.now_ms())
        except AttestationError as error:
            raise invalid("The attestation document is invalid.") from error

    def recipient(self, params: Params) -> Recipient | None:
        """The request's Recipient, verified; None when it has none. Errors: ValidationException."""
        value = params.structure("Recipient")
        if value is None:
            return None
        inner = Params(value, frozenset({"KeyEncryptionAlgorithm", "AttestationDocument"}))
        inner.choice("KeyEncryptionAlgorithm", (_ALGORITHM,))
        document = self.read(inner.blob("AttestationDocument", maximum=MAX_DOCUMENT))
        if not {0, 1, 2, 3, 4, 8} <= set(document.pcrs):
            raise invalid("The attestation document is invalid.")
        return Recipient(document=document, public_key=_public_key(document.public_key))


def _is_unsigned(document: bytes) -> bool:
    """True for what parses as QEMU's unsigned document and not as a signed one. Errors: AttestationError."""
    parse_unverified(document, allow_unsigned_shape=True)
    try:
        parse_unverified(document)
    except AttestationError:
        return True
    return False


def _public_key(der: bytes | None) -> rsa.RSAPublicKey:
    try:
        key = load_der_public_key(der or b"")
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != KEY_BITS:
        raise invalid("The attestation document's public key is not an RSA-2048 key.")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise invalid("The attestation document's public key is not a DER SubjectPublicKeyInfo.")
    return key


def refuse_recipient(params: Params, operation: str) -> None:
    """For operations that take no Recipient. Errors: KmsFault, by name."""
    if "Recipient" in params:
        raise KmsFault("ValidationException", f"{operation} does not take a Recipient.")
