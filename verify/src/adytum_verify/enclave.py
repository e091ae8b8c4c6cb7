"""Verify that a document speaks for an Adytum enclave, and take the keys that it vouches for.

An Adytum enclave puts into `user_data` the SHA-256 of its binding (`adytum_wire.binding`: receipt key, HPKE key,
manifest hash, build), and into `public_key` its HPKE key. PCR16 = extend(manifest hash), locked before the first
network byte.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from adytum_verify.attestation import verify_archived_attestation, verify_attestation
from adytum_verify.chain import AWS_ANCHOR, Anchor
from adytum_verify.codes import AttestationCode, AttestationError
from adytum_verify.document import PCR_SIZE, AttestationDocument
from adytum_verify.policy import AllowList, PcrPolicy
from adytum_wire.binding import Binding, parse_binding
from adytum_wire.errors import AdytumError

MANIFEST_PCR = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEnclave:
    """`binding.receipt_key` and `binding.hpke_key` (hex, 32 bytes each) belong to the enclave of `document`."""

    document: AttestationDocument
    binding: Binding


def manifest_pcr(manifest_hash: bytes) -> bytes:
    """PCR16 (48 bytes) of an enclave that was configured with the manifest of this SHA-256 (32 bytes)."""
    return hashlib.sha384(bytes(PCR_SIZE) + manifest_hash).digest()


def verify_enclave(
    document: bytes,
    binding_json: bytes,
    *,
    expected: PcrPolicy | AllowList,
    now_ms: int,
    nonce: bytes,
    anchors: Iterable[Anchor] = (AWS_ANCHOR,),
    manifest_hash: bytes | None = None,
) -> VerifiedEnclave:
    """`verify_attestation`, then `bind`: the binding's hash is `user_data`, its HPKE key is `public_key`.

    `binding_json`: the bytes as the service gave them. `manifest_hash`: where given, the enclave must have been
    configured with exactly that manifest: without it, only the program is proven, not whose administrators it obeys.
    Errors: `AttestationError`, those of `verify_attestation` and of `bind`.
    """
    verified = verify_attestation(
        document,
        expected=expected,
        now_ms=now_ms,
        nonce=nonce,
        anchors=anchors,
    )
    return bind(verified, binding_json, manifest_hash=manifest_hash)


def verify_archived_enclave(
    document: bytes,
    binding_json: bytes,
    *,
    expected: PcrPolicy | AllowList,
    nonce: bytes | None = None,
    anchors: Iterable[Anchor] = (AWS_ANCHOR,),
    manifest_hash: bytes | None = None,
) -> VerifiedEnclave:
    """As `verify_enclave`, AT THE DOCUMENT'S OWN TIMESTAMP: see `verify_archived_attestation` for what that means."""
    verified = verify_archived_attestation(
        document,
        expected=expected,
        nonce=nonce,
        anchors=anchors,
    )
    return bind(verified, binding_json, manifest_hash=manifest_hash)


def bind(document: AttestationDocument, binding_json: bytes, *, manifest_hash: bytes | None) -> VerifiedEnclave:
    """Step 11 for an Adytum enclave. `document` MUST come from one of the verifying functions.

    Errors: USER_DATA_MISMATCH, BINDING_INVALID, PUBLIC_KEY_MISMATCH, MANIFEST_MISMATCH.
    """
    if document.user_data is None or not hmac.compare_digest(document.user_data, hashlib.sha256(binding_json).digest()):
        raise AttestationError(AttestationCode.USER_DATA_MISMATCH)
    try:
        binding = parse_binding(binding_json)
    except AdytumError:
        raise AttestationError(AttestationCode.BINDING_INVALID) from None
    if document.public_key != bytes.fromhex(binding.hpke_key):
        raise AttestationError(AttestationCode.PUBLIC_KEY_MISMATCH)
    if manifest_hash is not None:
        if bytes.fromhex(binding.manifest_hash) != manifest_hash:
            raise AttestationError(AttestationCode.MANIFEST_MISMATCH, "binding.manifest_hash")
        if document.pcrs.get(MANIFEST_PCR) != manifest_pcr(manifest_hash):
            raise AttestationError(AttestationCode.MANIFEST_MISMATCH, f"pcrs[{MANIFEST_PCR}]")
    return VerifiedEnclave(document=document, binding=binding)
