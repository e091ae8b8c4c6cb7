"""Verify an AWS Nitro Enclaves attestation document. The steps are numbered, in the order in which they are done:

     0 what the caller asks for can refuse     6 the document's signature
     1 size                                    7 the document's time
     2 COSE_Sign1, strict                      8 nonce
     3 payload, strict                         9 not in debug mode
     4 certificate chain, five by place       10 PCRs, by index
     5 the leaf belongs to this enclave       11 what the document binds

Each step has its own error codes (`adytum_verify.codes`). Nothing is returned unless all steps hold.

Left out, on purpose: revocation lists (AWS asks that they not be used), and a clock: `now_ms` is the caller's. The
parent instance must not judge its own enclave; verify where you need to know: in the client, in a peer, in an audit.

    document = verify_attestation(blob, expected=PcrPolicy.parse([...]), now_ms=now, nonce=challenge)
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from adytum_verify import cose
from adytum_verify.chain import AWS_ANCHOR, Anchor, Leaf, verify_certificates
from adytum_verify.codes import AttestationCode, AttestationError
from adytum_verify.document import AttestationDocument, read
from adytum_verify.policy import MANDATORY, ZERO_PCR, AllowList, PcrPolicy
from adytum_wire import limits

MAX_AGE_MS: Final = 300_000
SKEW_MS: Final = 60_000
_ECDSA: Final = ec.ECDSA(hashes.SHA384())


def verify_attestation(
    document: bytes,
    *,
    expected: PcrPolicy | AllowList,
    now_ms: int,
    nonce: bytes,
    anchors: Iterable[Anchor] = (AWS_ANCHOR,),
    max_age_ms: int = MAX_AGE_MS,
    skew_ms: int = SKEW_MS,
    user_data: bytes | None = None,
    public_key: bytes | None = None,
) -> AttestationDocument:
    """Verify a fresh document, asked for with `nonce`, now.

    `expected`: the images that are allowed. `now_ms`: the verifier's own time, ms since the epoch. `nonce`: the
    verifier's random challenge, used once, 16 bytes or more. `user_data`, `public_key`: where given, must be equal.
    Errors: `AttestationError`, for hostile bytes nothing else. Sources: AWS, "Attestation process"; facts, section 10.

    The same document can be made twice (r, s) and (r, n - s) both verify: remember nonces, never document bytes.
    """
    # 0. what the caller asks for can refuse
    images = _images(expected)
    if len(nonce) < limits.MIN_NONCE:
        raise AttestationError(AttestationCode.NONCE_TOO_SHORT)
    # 1 to 6
    found = authenticate_document(document, anchors=anchors, now_ms=now_ms)
    # 7. the document's time
    if found.timestamp_ms > now_ms + skew_ms:
        raise AttestationError(AttestationCode.TIMESTAMP_FUTURE)
    if found.timestamp_ms < now_ms - max_age_ms:
        raise AttestationError(AttestationCode.TIMESTAMP_OLD)
    if not found.valid_from_ms <= found.timestamp_ms <= found.valid_until_ms:
        raise AttestationError(AttestationCode.TIMESTAMP_OUTSIDE_CERTIFICATE)
    _check_statement(found, images, nonce, user_data, public_key)
    return found


def verify_archived_attestation(
    document: bytes,
    *,
    expected: PcrPolicy | AllowList,
    nonce: bytes | None = None,
    anchors: Iterable[Anchor] = (AWS_ANCHOR,),
    user_data: bytes | None = None,
    public_key: bytes | None = None,
) -> AttestationDocument:
    """Verify a stored document AT ITS OWN TIMESTAMP. It says what was true then, and nothing about now.

    Only for records whose age is known otherwise (an audit chain, an archive): whoever gets hold of an old leaf key can
    write a document for the time in which that leaf was valid. A live enclave needs `verify_attestation`.
    Arguments and errors: as there; `nonce` may be left out.
    """
    # 0. what the caller asks for can refuse
    images = _images(expected)
    # 1 to 7: valid at its own time
    found, _ = read(document)
    found = authenticate_document(document, anchors=anchors, now_ms=found.timestamp_ms)
    _check_statement(found, images, nonce, user_data, public_key)
    return found


def authenticate_document(document: bytes, *, anchors: Iterable[Anchor], now_ms: int) -> AttestationDocument:
    """Steps 1 to 6 ONLY: some enclave, of anybody, in whatever mode, at some time in the last hours, said this.

    NO measurement, NO nonce, NO debug mode and NO freshness is checked, as AWS KMS does before it looks at its policy.
    Not a proof about your enclave: use `verify_attestation` for that.
    Errors: `AttestationError` of steps 1 to 6.
    """
    # 1. size  2. COSE  3. payload
    found, parts = read(document)
    # 4. certificate chain
    leaf = verify_certificates(found.cabundle, found.certificate, tuple(anchors), now_ms)
    # 5. the leaf belongs to this enclave: CN = <module id>.<region>..., issued by its instance
    _check_module(found.module_id, leaf)
    # 6. the document's signature
    _check_signature(parts, leaf.public_key)
    return dataclasses.replace(found, valid_from_ms=leaf.valid_from_ms, valid_until_ms=leaf.valid_until_ms)


def _images(expected: PcrPolicy | AllowList) -> tuple[PcrPolicy, ...]:
    images = expected.images if isinstance(expected, AllowList) else (expected,)
    if not images or not all(isinstance(image, PcrPolicy) for image in images):
        raise AttestationError(AttestationCode.POLICY_EMPTY)
    return images


def _check_module(module_id: str, leaf: Leaf) -> None:
    instance = module_id.partition("-enc")[0]
    if not leaf.common_name.startswith(module_id + ".") or not leaf.issuer_common_name.startswith(instance + "."):
        raise AttestationError(AttestationCode.MODULE_MISMATCH)


def _check_signature(parts: cose.Sign1, key: ec.EllipticCurvePublicKey) -> None:
    half = len(parts.signature) // 2
    r, s = int.from_bytes(parts.signature[:half], "big"), int.from_bytes(parts.signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), cose.signed_bytes(parts.payload), _ECDSA)
    except InvalidSignature:
        raise AttestationError(AttestationCode.SIGNATURE_INVALID) from None


def _check_statement(
    found: AttestationDocument,
    images: tuple[PcrPolicy, ...],
    nonce: bytes | None,
    user_data: bytes | None,
    public_key: bytes | None,
) -> None:
    """Steps 8 to 11, on a document whose signature holds."""
    # 8. nonce
    if nonce is not None and not _same(found.nonce, nonce):
        raise AttestationError(AttestationCode.NONCE_MISMATCH)
    # 9. not in debug mode: its console can be read, and only PCR0, 1 and 2 show it (3, 4 and 16 do not)
    for index in MANDATORY:
        if found.pcrs.get(index, ZERO_PCR) == ZERO_PCR:
            raise AttestationError(AttestationCode.DEBUG_MODE, f"pcrs[{index}]")
    # 10. PCRs, by index; one image must match completely
    mismatches = [image.first_mismatch(found.pcrs) for image in images]
    if None not in mismatches:
        raise AttestationError(AttestationCode.PCR_MISMATCH, f"pcrs[{mismatches[0]}]" if len(images) == 1 else "pcrs")
    # 11. what the document binds
    if user_data is not None and not _same(found.user_data, user_data):
        raise AttestationError(AttestationCode.USER_DATA_MISMATCH)
    if public_key is not None and not _same(found.public_key, public_key):
        raise AttestationError(AttestationCode.PUBLIC_KEY_MISMATCH)


def _same(found: bytes | None, wanted: bytes) -> bool:
    """Constant-time in the contents; an absent field equals nothing, not even b""."""
    return found is not None and hmac.compare_digest(found, wanted)
