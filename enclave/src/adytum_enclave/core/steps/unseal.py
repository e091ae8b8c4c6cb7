"""Step 4, unseal: from a sealed record to a key in wipeable memory, through KMS.

Two halves, because requests for one key may wait for one KMS answer together: `ask` yields to the shell, `open_record`
does not.
"""

from __future__ import annotations

from collections.abc import Generator

from adytum_enclave.core import envelope, keys
from adytum_enclave.core.effects import DataKeyAnswer, OpenDataKey
from adytum_enclave.core.hd import Seed
from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.versions import VersionMemory
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, encryption_context
from adytum_wire.types import RecordKind


def ask(
    record: Record, header: Header, *, versions: VersionMemory, shared: bool
) -> Generator[OpenDataKey, DataKeyAnswer, DataKeyAnswer]:
    """KMS's answer for the record's data key. Errors: RECORD_ROLLBACK (before KMS is asked), what KMS answers."""
    versions.require(header)
    return (
        yield OpenDataKey(
            key_arn=header.kms_key_arn,
            context=encryption_context(header),
            ciphertext_blob=record.data_key_ciphertext,
            shared=shared,
        )
    )


def open_record(
    record: Record,
    header: Header,
    answer: DataKeyAnswer,
    *,
    arena: Arena,
    recipient: RecipientKey,
    versions: VersionMemory,
    is_stop: bool = False,
) -> Slot:
    """The record's secret; the caller owns the slot. The header is proven when this returns.

    `is_stop`: as `VersionMemory.require_proven` says. Errors: RECORD_ROLLBACK (a newer one opened while KMS worked, or
    another of its version), KMS_ANSWER_INVALID, RECORD_TAMPERED. No secret is left after one.
    """
    with recipient.open(answer.ciphertext_for_recipient, arena) as data_key:
        secret = envelope.open_blob(record.header, record.ciphertext_blob, data_key, arena)
    try:
        versions.require_proven(header, record.header, is_stop=is_stop)
    except AdytumError:
        secret.wipe()
        raise
    versions.note(header, record.header)
    return secret


def as_key(header: Header, secret: Slot) -> WalletKey | Seed:
    """Take ownership of `secret` as the key or seed that the header names. Errors: RECORD_TAMPERED; the secret is
    wiped."""
    if header.kind is RecordKind.HD_SEED:
        return Seed(secret)
    key = keys.load(header.algorithm, secret, code=Code.RECORD_TAMPERED)
    if key.public_key.hex() != header.public_key:
        key.wipe()
        raise AdytumError(Code.RECORD_TAMPERED, "$.public_key")
    return key
