"""What must hold before a caller gets an answer, in this order:

    1 the receipt is signed by the key that a verified attestation document binds
    2 it speaks of this request: tenant, request id, operation, SHA-256 of the body, decision "allow"
    3 its result digest is that of the result's bytes, as they came
    4 the result says what was asked: same request, same key
    5 every signature verifies over the content, decoded here, under the key's public key (of a PSBT for a seed: under
      the keys that it names, which the enclave has proven); an address belongs to the public key

So a host that swaps, edits, replays or invents an answer is found out, without asking it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from adytum.client.errors import UntrustedError
from adytum.client.secp256k1_check import is_bip340, recover
from adytum_policy.content import addresses_of, decode_content
from adytum_verify import VerifiedReceipt, verify_receipt
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Body, DeriveKey, GenerateKey, ImportKey, Making, OnRecord, Sign, operation_of
from adytum_wire.results import DeriveKeyResult, Result, SignResult, parse_result
from adytum_wire.types import SigningScheme, derive_key_id, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A proven answer. `result_bytes` and `receipt_bytes` are as they came: keep them, they are the evidence."""

    result: Result
    receipt: VerifiedReceipt
    result_bytes: bytes
    receipt_bytes: bytes


def check_answer(
    raw_body: bytes, body: Body, result_bytes: bytes, receipt_bytes: bytes, *, receipt_key: bytes
) -> Answer:
    """`receipt_key`: 32 bytes, attested. Errors: UntrustedError; `field` names what does not hold."""
    try:
        receipt = verify_receipt(receipt_bytes, receipt_key=receipt_key)  # 1
        _check_receipt(receipt, raw_body, body)  # 2
        if receipt.receipt.decision != "allow" or receipt.receipt.code:
            raise _wrong("decision")
        if receipt.receipt.result_digest != sha256(result_bytes).hex():  # 3
            raise _wrong("result_digest")
        result = parse_result(result_bytes)  # 4
        _check_result(body, result, receipt)
        if isinstance(body, Sign) and isinstance(result, SignResult):  # 5
            check_signature(body, result)
        if isinstance(body, DeriveKey) and isinstance(result, DeriveKeyResult):
            _check_derived(body, result)
    except UntrustedError:
        raise
    except AdytumError as error:
        raise UntrustedError(Code.RECEIPT_INVALID, error.field or error.code.value) from error
    return Answer(result=result, receipt=receipt, result_bytes=result_bytes, receipt_bytes=receipt_bytes)


def check_refusal(
    raw_body: bytes, body: Body, receipt_bytes: bytes, *, code: Code, receipt_key: bytes
) -> VerifiedReceipt:
    """The receipt of a refusal: signed, of this request, with this code. Errors: UntrustedError."""
    try:
        receipt = verify_receipt(receipt_bytes, receipt_key=receipt_key)
    except AdytumError as error:
        raise UntrustedError(Code.RECEIPT_INVALID, error.field) from error
    _check_receipt(receipt, raw_body, body)
    if receipt.receipt.decision == "allow" or receipt.receipt.code != code.value:
        raise _wrong("code")
    return receipt


def _check_receipt(verified: VerifiedReceipt, raw_body: bytes, body: Body) -> None:
    receipt = verified.receipt
    if receipt.request_digest != sha256(raw_body).hex():
        raise _wrong("request_digest")
    if (receipt.tenant, receipt.request_id, receipt.operation) != (body.tenant, body.request_id, operation_of(body)):
        raise _wrong("request")


def _check_result(body: Body, result: Result, verified: VerifiedReceipt) -> None:
    # The tags of the two unions are the same words, so one comparison says that the answer is of the asked kind.
    if type(result).__struct_config__.tag != type(body).__struct_config__.tag:
        raise _wrong("operation", where="result")
    if isinstance(body, Making):
        key_id = derive_key_id(body.tenant, body.request_id)
    else:
        key_id = body.key_id if isinstance(body, OnRecord) else ""
    if (result.tenant, result.request_id, result.key_id) != (body.tenant, body.request_id, key_id):
        raise _wrong("request", where="result")
    if verified.receipt.key_id != key_id:
        raise _wrong("key_id")
    if isinstance(body, GenerateKey | ImportKey) and getattr(result, "algorithm", None) is not body.algorithm:
        raise _wrong("algorithm", where="result")
    if isinstance(body, ImportKey) and getattr(result, "public_key", None) != body.public_key:
        raise _wrong("public_key", where="result")
    if getattr(result, "public_key", verified.receipt.public_key) != verified.receipt.public_key:
        raise _wrong("public_key")


def check_signature(body: Sign, result: SignResult) -> None:
    """Decode the content and verify every signature over it, and what was made of them. Errors: UntrustedError."""
    if (result.path, result.scheme) != (body.path, body.scheme):
        raise _wrong("path" if result.path != body.path else "signature", where="result")
    public_key, signature = bytes.fromhex(result.public_key), bytes.fromhex(result.signature)
    content = decode_content(body.content, body.scheme, public_key, body.path)
    size = 65 if body.scheme is SigningScheme.ECDSA_SECP256K1 else 64
    signatures = tuple(signature[at : at + size] for at in range(0, len(signature), size))
    if len(signatures) != len(content.to_sign):
        raise _wrong("signature", where="result")
    for one, made in zip(content.to_sign, signatures, strict=True):
        if not is_signature(body.scheme, one.verifies_under or public_key, one.payload, made):
            raise _wrong("signature", where="result")
    if content.finish_all(signatures) != result.encoded:
        raise _wrong("encoded", where="result")


def _check_derived(body: DeriveKey, result: DeriveKeyResult) -> None:
    """That the key is at the path, only the enclave can say; what follows from the key is checked here."""
    if (result.path, result.algorithm) != (body.path, body.algorithm):
        raise _wrong("path", where="result")
    if addresses_of(result.algorithm, bytes.fromhex(result.public_key)) != result.addresses:
        raise _wrong("addresses", where="result")


def is_signature(scheme: SigningScheme, public_key: bytes, payload: bytes, signature: bytes) -> bool:
    """True when the wallet key `public_key` made `signature` over `payload` (a 32-byte digest; Ed25519: the
    message)."""
    if scheme is SigningScheme.ECDSA_SECP256K1:
        return recover(payload, signature) == public_key  # covers r, s, low s and the recovery id
    if scheme is SigningScheme.BIP340:
        return is_bip340(public_key, payload, signature)
    if len(signature) != 64:
        return False
    try:
        if scheme is SigningScheme.ED25519:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, payload)
        else:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
            key.verify(encode_dss_signature(r, s), payload, ec.ECDSA(Prehashed(hashes.SHA256())))
    except (ValueError, InvalidSignature):
        return False
    return True


def _wrong(name: str, *, where: str = "receipt") -> UntrustedError:
    return UntrustedError(Code.RECEIPT_INVALID, f"{where}.{name}")
