"""What somebody who may use KMS without attestation could read: opens records with other people's libraries.

Written from spec/envelope.md alone, so it also checks that the prose suffices. Tests use it to learn the secrets whose
absence they then prove.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adytum_sim.kms.running import RunningKms
from adytum_sim.stack import Stack, key_policy, put_key_policy
from adytum_wire.record import Record, encryption_context, parse_header


def data_key(stack: Stack, record: Record) -> bytes:
    """The record's data key, by a key policy that break-glass could set; it is put back afterwards."""
    header = parse_header(record.header)
    return opened(stack, header.kms_key_arn, encryption_context(header), record.data_key_ciphertext)


def opened(stack: Stack, key_arn: str, context: dict[str, str], blob: bytes) -> bytes:
    """What KMS opens, under such a policy."""
    kms: RunningKms = stack.kms
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    put_key_policy(kms, key_arn, {"Version": "2012-10-17", "Statement": [everyone]})
    try:
        answer = kms.service.handle(
            "TrentService.Decrypt",
            {
                "CiphertextBlob": base64.b64encode(blob).decode(),
                "KeyId": key_arn,
                "EncryptionContext": context,
            },
            kms.operator.caller,
        )
    finally:
        put_key_policy(kms, key_arn, key_policy(kms, stack.pcrs))
    return base64.b64decode(answer["Plaintext"])


def open_record(stack: Stack, record: Record) -> tuple[bytes, bytes]:
    """(data key, secret)."""
    key = data_key(stack, record)
    return key, open_with(key, record)


def open_with(data_key: bytes, record: Record) -> bytes:
    """The secret. Errors: InvalidTag; ValueError when it does not commit to this data key."""
    info = hashlib.sha256(record.header).digest()
    derived = HKDF(hashes.SHA256(), 64, b"adytum/envelope/v1", info).derive(data_key)
    commitment, nonce, ciphertext = (
        record.ciphertext_blob[:32],
        record.ciphertext_blob[32:44],
        record.ciphertext_blob[44:],
    )
    if commitment != derived[32:]:
        raise ValueError("the record does not commit to this data key")
    return AESGCM(derived[:32]).decrypt(nonce, ciphertext, record.header)
