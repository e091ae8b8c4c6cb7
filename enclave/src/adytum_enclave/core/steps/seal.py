"""Step 4 the other way, seal: a secret becomes a record under a fresh data key."""

from __future__ import annotations

from collections.abc import Generator

from adytum_enclave.core import envelope
from adytum_enclave.core.effects import DataKeyAnswer, NewDataKey
from adytum_enclave.core.entropy import Fill, public_bytes
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, encode_header, encryption_context

NONCE_BYTES = 12


def seal(
    header: Header, secret: Slot, *, arena: Arena, recipient: RecipientKey, fill: Fill
) -> Generator[NewDataKey, DataKeyAnswer, Record]:
    """Seal `secret` (stays the caller's) under `header`. Errors: what KMS answers, KMS_ANSWER_INVALID."""
    header_bytes = encode_header(header)
    answer = yield NewDataKey(key_arn=header.kms_key_arn, context=encryption_context(header))
    if not 0 < len(answer.ciphertext_blob) <= limits.MAX_DATA_KEY_CIPHERTEXT:
        raise AdytumError(Code.KMS_ANSWER_INVALID)
    with recipient.open(answer.ciphertext_for_recipient, arena) as data_key:
        blob = envelope.seal(header_bytes, secret, data_key, nonce=public_bytes(fill, NONCE_BYTES), arena=arena)
    return Record(header_bytes, blob, answer.ciphertext_blob)
