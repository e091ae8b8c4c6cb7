"""The one package that an auditor of Adytum must read: attestation documents, receipts, audit chains.

Depends on adytum-core, cryptography and msgspec; needs no service, no network and no secret. Read `attestation.py`
first: it numbers the steps that the other modules carry out.

    verify_attestation            a fresh document, now, with your nonce
    verify_enclave                that, and the keys that an Adytum enclave binds
    verify_archived_attestation   a stored document, at its own time
    authenticate_document         who signed it, and no more
    parse_unverified              decode, believe nothing
    verify_receipt                one receipt, by an attested key
    verify_chain                  all receipts of a chain; names the first that does not fit
    verify_checkpoint             where a chain stood, signed
"""

from adytum_verify.attestation import authenticate_document, verify_archived_attestation, verify_attestation
from adytum_verify.audit import ChainReport, ChainVerifier, Defect, Head, Problem, verify_chain
from adytum_verify.chain import AWS_ANCHOR, Anchor, anchor_from_pem
from adytum_verify.checkpoints import Checkpoint, verify_checkpoint
from adytum_verify.codes import AttestationCode, AttestationError
from adytum_verify.container import AuditHeader, checkpoint_line, checkpoint_of, header_line, read_header
from adytum_verify.document import AttestationDocument, parse_unverified
from adytum_verify.enclave import VerifiedEnclave, manifest_pcr, verify_archived_enclave, verify_enclave
from adytum_verify.policy import AllowList, PcrPolicy, parse_release
from adytum_verify.receipts import VerifiedReceipt, verify_receipt

__all__ = [
    "AWS_ANCHOR",
    "AllowList",
    "Anchor",
    "AttestationCode",
    "AttestationDocument",
    "AttestationError",
    "AuditHeader",
    "ChainReport",
    "ChainVerifier",
    "Checkpoint",
    "Defect",
    "Head",
    "PcrPolicy",
    "Problem",
    "VerifiedEnclave",
    "VerifiedReceipt",
    "anchor_from_pem",
    "authenticate_document",
    "checkpoint_line",
    "checkpoint_of",
    "header_line",
    "manifest_pcr",
    "parse_release",
    "parse_unverified",
    "read_header",
    "verify_archived_attestation",
    "verify_archived_enclave",
    "verify_attestation",
    "verify_chain",
    "verify_checkpoint",
    "verify_enclave",
    "verify_receipt",
]
