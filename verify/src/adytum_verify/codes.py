"""Why an attestation document was refused: one stable code a step, each with one fixed sentence.

The codes stand in the order of the steps that `adytum_verify.attestation` numbers. A sentence is never built from bytes
of the document; `field` names a place in our own schema ("cabundle[2]", "pcrs[0]").
"""

from __future__ import annotations

from enum import StrEnum


class AttestationCode(StrEnum):
    """Stable codes. Adding one is a minor change; renaming one never happens."""

    # step 0: what the caller asks for must be able to refuse
    POLICY_EMPTY = "POLICY_EMPTY"
    POLICY_INCOMPLETE = "POLICY_INCOMPLETE"
    POLICY_DEBUG = "POLICY_DEBUG"
    POLICY_HASHED = "POLICY_HASHED"
    POLICY_INVALID = "POLICY_INVALID"
    ANCHOR_INVALID = "ANCHOR_INVALID"
    NONCE_TOO_SHORT = "NONCE_TOO_SHORT"
    # step 1
    DOCUMENT_SIZE = "DOCUMENT_SIZE"
    # step 2: COSE
    COSE_MALFORMED = "COSE_MALFORMED"
    COSE_UNSIGNED = "COSE_UNSIGNED"
    COSE_ALGORITHM = "COSE_ALGORITHM"
    COSE_UNPROTECTED = "COSE_UNPROTECTED"
    COSE_SIGNATURE_SIZE = "COSE_SIGNATURE_SIZE"
    # step 3: payload
    PAYLOAD_MALFORMED = "PAYLOAD_MALFORMED"
    NITROTPM = "NITROTPM"
    PAYLOAD_UNKNOWN_FIELD = "PAYLOAD_UNKNOWN_FIELD"
    PAYLOAD_FIELD = "PAYLOAD_FIELD"
    # step 4: chain
    CHAIN_LENGTH = "CHAIN_LENGTH"
    CHAIN_ANCHOR = "CHAIN_ANCHOR"
    CHAIN_CERTIFICATE = "CHAIN_CERTIFICATE"
    CHAIN_ALGORITHM = "CHAIN_ALGORITHM"
    CHAIN_NAMES = "CHAIN_NAMES"
    CHAIN_SIGNATURE = "CHAIN_SIGNATURE"
    NOT_YET_VALID = "NOT_YET_VALID"
    EXPIRED = "EXPIRED"
    CHAIN_CONSTRAINTS = "CHAIN_CONSTRAINTS"
    CHAIN_KEY_USAGE = "CHAIN_KEY_USAGE"
    CHAIN_EXTENSION = "CHAIN_EXTENSION"
    # steps 5 to 10
    MODULE_MISMATCH = "MODULE_MISMATCH"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    TIMESTAMP_OLD = "TIMESTAMP_OLD"
    TIMESTAMP_FUTURE = "TIMESTAMP_FUTURE"
    TIMESTAMP_OUTSIDE_CERTIFICATE = "TIMESTAMP_OUTSIDE_CERTIFICATE"
    NONCE_MISMATCH = "NONCE_MISMATCH"
    DEBUG_MODE = "DEBUG_MODE"
    PCR_MISMATCH = "PCR_MISMATCH"
    # step 11: bindings
    USER_DATA_MISMATCH = "USER_DATA_MISMATCH"
    PUBLIC_KEY_MISMATCH = "PUBLIC_KEY_MISMATCH"
    BINDING_INVALID = "BINDING_INVALID"
    MANIFEST_MISMATCH = "MANIFEST_MISMATCH"

    @property
    def text(self) -> str:
        """The sentence for a person."""
        return _TEXT[self]


_TEXT: dict[AttestationCode, str] = {
    AttestationCode.POLICY_EMPTY: "No expected measurement was given; an empty list allows nothing.",
    AttestationCode.POLICY_INCOMPLETE: "An expected image must name PCR0, PCR1 and PCR2.",
    AttestationCode.POLICY_DEBUG: "An expected PCR0, PCR1 or PCR2 is all zero, which is what debug mode looks like.",
    AttestationCode.POLICY_HASHED: (
        "The entry is a SHA-256 of a PCR without its index. Any enclave can satisfy it by extending PCR16 with the "
        "same value, so it proves nothing. Replace it by the PCRs themselves, as the image build printed them: "
        "PCR0=<96 hex>,PCR1=<96 hex>,PCR2=<96 hex>. The hash cannot be turned back into a PCR."
    ),
    AttestationCode.POLICY_INVALID: "An expected measurement is not of the form PCR<0..31>=<96 hex> or file:PATH.",
    AttestationCode.ANCHOR_INVALID: "The trust anchor is not one PEM certificate.",
    AttestationCode.NONCE_TOO_SHORT: (
        "A live check needs the nonce that you sent, of at least 16 bytes. Verify a stored document at its own time."
    ),
    AttestationCode.DOCUMENT_SIZE: "The document is empty or larger than 16 KiB.",
    AttestationCode.COSE_MALFORMED: "The document is not one strict COSE_Sign1 structure.",
    AttestationCode.COSE_UNSIGNED: "The document says that it is not signed, as an emulator's does.",
    AttestationCode.COSE_ALGORITHM: "The protected header is not exactly ES384.",
    AttestationCode.COSE_UNPROTECTED: "The unprotected header is not empty.",
    AttestationCode.COSE_SIGNATURE_SIZE: "The signature is not 96 bytes.",
    AttestationCode.PAYLOAD_MALFORMED: "The payload is not one strict CBOR map.",
    AttestationCode.NITROTPM: "The document speaks for an EC2 instance with NitroTPM, not for an enclave.",
    AttestationCode.PAYLOAD_UNKNOWN_FIELD: "The payload has a field that this version does not know.",
    AttestationCode.PAYLOAD_FIELD: "A payload field is missing, or of the wrong type or size.",
    AttestationCode.CHAIN_LENGTH: "The chain is not exactly root, region, zone, instance, leaf.",
    AttestationCode.CHAIN_ANCHOR: "The chain does not start at a trusted root.",
    AttestationCode.CHAIN_CERTIFICATE: "A certificate is malformed.",
    AttestationCode.CHAIN_ALGORITHM: "A certificate does not use P-384 with SHA-384.",
    AttestationCode.CHAIN_NAMES: "A certificate does not name the one above it as its issuer.",
    AttestationCode.CHAIN_SIGNATURE: "A certificate's signature does not verify.",
    AttestationCode.NOT_YET_VALID: "A certificate is not valid yet.",
    AttestationCode.EXPIRED: "A certificate has expired.",
    AttestationCode.CHAIN_CONSTRAINTS: "A certificate's CA flag or path length does not fit its place.",
    AttestationCode.CHAIN_KEY_USAGE: "A certificate's key usage does not fit its place.",
    AttestationCode.CHAIN_EXTENSION: "A certificate has a critical extension that this version does not know.",
    AttestationCode.MODULE_MISMATCH: "The leaf certificate was issued to another enclave than the document names.",
    AttestationCode.SIGNATURE_INVALID: "The document's signature does not verify.",
    AttestationCode.TIMESTAMP_OLD: "The document is too old.",
    AttestationCode.TIMESTAMP_FUTURE: "The document is from the future.",
    AttestationCode.TIMESTAMP_OUTSIDE_CERTIFICATE: "The document's time lies outside its certificates' validity.",
    AttestationCode.NONCE_MISMATCH: "The document does not carry the expected nonce.",
    AttestationCode.DEBUG_MODE: "PCR0, PCR1 or PCR2 is zero or absent: the enclave runs in debug mode.",
    AttestationCode.PCR_MISMATCH: "The measurements are not those of an allowed image.",
    AttestationCode.USER_DATA_MISMATCH: "The document does not carry the expected user data.",
    AttestationCode.PUBLIC_KEY_MISMATCH: "The document does not carry the expected public key.",
    AttestationCode.BINDING_INVALID: "The binding is malformed.",
    AttestationCode.MANIFEST_MISMATCH: "The enclave was not configured with the expected manifest.",
}


class AttestationError(Exception):
    """A refusal. `code` is stable; `field` is a place in our own schema or empty. Nothing was changed or returned."""

    def __init__(self, code: AttestationCode, field: str = "") -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return f"{self.code.value}{where}: {self.code.text}"
