"""AWS KMS for an enclave: GenerateDataKey and Decrypt with `Recipient`, over TLS that ends here.

KMS authenticates itself by TLS alone (its answer, a CMS envelope, could be forged by whoever saw our public key), so
the roots and the host name come from the measured manifest, and the host only pipes bytes. Every answer is checked:
no plaintext in it, the key that was asked for, bounded sizes, strict JSON. Opening it is `core/recipient.py`.

How it is asked, and when again, is `aws.py`'s. Left out: every other operation.

Sources: AWS KMS API Reference (GenerateDataKey, Decrypt, Common Errors); JSON 1.1 protocol.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from adytum_enclave.core.cms import MAX_CIPHERTEXT_FOR_RECIPIENT
from adytum_enclave.shell.aws import AwsClient, Service
from adytum_enclave.shell.kms_http import MAX_RESPONSE
from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code

SERVICE: Final = Service(
    signing_name="kms",
    target="TrentService",
    content_type="application/x-amz-json-1.1",
    unavailable=Code.KMS_UNAVAILABLE,
    invalid=Code.KMS_ANSWER_INVALID,
    roots_field="$.kms.roots",
)
_TAMPERED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
# refusals that an operator wants told apart; a name outside this list is never repeated
_REFUSALS = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "IncompleteSignature",
        "InvalidGrantTokenException",
        "InvalidKeyUsageException",
        "InvalidSignatureException",
        "KMSInvalidStateException",
        "LimitExceededException",
        "NotFoundException",
        "ValidationException",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsAnswer:
    """`ciphertext_for_recipient`: CMS, 1 to 6144 bytes. `ciphertext_blob`: the data key under the KMS key, 1 to 6144
    bytes (for Decrypt: the one that was sent). `key_id`: the ARN that was asked for."""

    ciphertext_for_recipient: bytes = field(repr=False)
    ciphertext_blob: bytes = field(repr=False)
    key_id: str


class _Answer(Struct, frozen=True, rename="pascal"):
    """What we read of an answer. Other members are left alone: AWS adds them (KeyMaterialId came in 2025)."""

    key_id: str
    ciphertext_for_recipient: str
    ciphertext_blob: str | None = None
    plaintext: str | None = None
    encryption_algorithm: str | None = None


class KmsClient(AwsClient):
    """`options`: as for `AwsClient`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(SERVICE, **options)

    async def generate_data_key(
        self, *, key_arn: str, context: dict[str, str], attestation_document: bytes, timeout_s: float
    ) -> KmsAnswer:
        """A new AES-256 data key under `key_arn`, for the RSA key in `attestation_document`.

        context: the EncryptionContext. timeout_s: for everything, waiting and retries included.
        Errors: KMS_DENIED; KMS_UNAVAILABLE (field "credentials" when there are none in force, "circuit" while KMS is
        given a rest); KMS_ANSWER_INVALID when the peer or its answer fails a check; DEADLINE_EXCEEDED. KMS keeps no
        state of the call: asking again is safe.
        """
        request = {"KeyId": key_arn, "KeySpec": "AES_256", "EncryptionContext": context}
        answer = await self._call("GenerateDataKey", request, attestation_document, timeout_s)
        blob = _unbase64(answer.ciphertext_blob or "", limits.MAX_DATA_KEY_CIPHERTEXT, "CiphertextBlob")
        return _checked(answer, key_arn, blob)

    async def decrypt(
        self,
        *,
        key_arn: str,
        ciphertext_blob: bytes,
        context: dict[str, str],
        attestation_document: bytes,
        timeout_s: float,
    ) -> KmsAnswer:
        """Open `ciphertext_blob` (1 to 6144 bytes) for the RSA key in `attestation_document`.

        Errors: as `generate_data_key`, and RECORD_TAMPERED when KMS says that the blob, its key or its context is not
        what was sealed.
        """
        if not 0 < len(ciphertext_blob) <= limits.MAX_DATA_KEY_CIPHERTEXT:
            raise AdytumError(Code.RECORD_TAMPERED, "data_key_ciphertext")
        request = {
            "KeyId": key_arn,
            "CiphertextBlob": base64.b64encode(ciphertext_blob).decode(),
            "EncryptionContext": context,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }
        answer = await self._call("Decrypt", request, attestation_document, timeout_s)
        if answer.encryption_algorithm not in (None, "SYMMETRIC_DEFAULT"):
            raise AdytumError(Code.KMS_ANSWER_INVALID, "EncryptionAlgorithm")
        return _checked(answer, key_arn, ciphertext_blob)

    async def _call(
        self, operation: str, request: dict[str, Any], attestation_document: bytes, timeout_s: float
    ) -> _Answer:
        recipient = {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": base64.b64encode(attestation_document).decode(),
        }
        body = strict_json.encode({**request, "Recipient": recipient})
        response = await self._ask(operation, body, timeout_s)
        return strict_json.decode(response.body, _Answer, limit=MAX_RESPONSE, code=Code.KMS_ANSWER_INVALID)

    def _refusal(self, name: str, operation: str) -> AdytumError:
        if name in _TAMPERED and operation == "Decrypt":
            return AdytumError(Code.RECORD_TAMPERED, "data_key_ciphertext")
        return AdytumError(Code.KMS_DENIED, name if name in _REFUSALS else "")


def _checked(answer: _Answer, key_arn: str, ciphertext_blob: bytes) -> KmsAnswer:
    if answer.plaintext:  # with Recipient, KMS sends none: who sends one is not KMS, or did not read the request
        raise AdytumError(Code.KMS_ANSWER_INVALID, "Plaintext")
    if answer.key_id != key_arn:
        raise AdytumError(Code.KMS_ANSWER_INVALID, "KeyId")
    cms = _unbase64(answer.ciphertext_for_recipient, MAX_CIPHERTEXT_FOR_RECIPIENT, "CiphertextForRecipient")
    return KmsAnswer(ciphertext_for_recipient=cms, ciphertext_blob=ciphertext_blob, key_id=key_arn)


def _unbase64(text: str, most: int, name: str) -> bytes:
    if 0 < len(text) <= 4 * -(-most // 3):
        with contextlib.suppress(binascii.Error, ValueError):
            data = base64.b64decode(text, validate=True)
            if 0 < len(data) <= most:
                return data
    raise AdytumError(Code.KMS_ANSWER_INVALID, name)
