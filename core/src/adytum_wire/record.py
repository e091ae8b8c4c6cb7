"""The sealed record: one strict, canonical header and ciphertext (spec/envelope.md).

The header is the AAD of the ciphertext, and the fields that KMS can see are its EncryptionContext. It is stored and
carried as the bytes that the enclave made; what parses re-encodes to the same bytes, or is refused.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import (
    Algorithm,
    Generation,
    Hex,
    KeyArn,
    KeyId,
    KeyState,
    Labels,
    Milliseconds,
    NodeId,
    RecordKind,
    TenantId,
    Version,
)


class Header(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about a record that must not be confused. `public_key` is hex, empty for all kinds but `signing-key`.
    `generation`: of the policy under which it was sealed. `delete_after`: 0 unless its deletion is pending."""

    v: Literal[1] = 1
    tenant: TenantId
    key_id: KeyId
    node_id: NodeId
    kind: RecordKind
    algorithm: Algorithm
    public_key: Hex
    version: Version
    generation: Generation
    labels: Labels
    state: KeyState
    delete_after: Milliseconds
    kms_key_arn: KeyArn
    created_at: Milliseconds


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """`header`: canonical JSON. `ciphertext_blob`: commitment (32) || nonce (12) || AES-256-GCM ciphertext and tag.
    `data_key_ciphertext`: KMS's CiphertextBlob of the data key."""

    header: bytes
    ciphertext_blob: bytes
    data_key_ciphertext: bytes


def encode_header(header: Header) -> bytes:
    return strict_json.encode(header)


def parse_header(data: bytes) -> Header:
    """Errors: RECORD_INVALID, also for a header that is valid JSON but not the canonical encoding."""
    header = strict_json.decode(data, Header, limit=limits.MAX_RECORD_HEADER, code=Code.RECORD_INVALID)
    if encode_header(header) != data:
        raise AdytumError(Code.RECORD_INVALID, "$ (not canonical)")
    return header


def encryption_context(header: Header) -> dict[str, str]:
    """The EncryptionContext that KMS binds the data key to."""
    return {
        "adytum:tenant": header.tenant,
        "adytum:key": header.key_id,
        "adytum:kind": str(header.kind),
        "adytum:version": str(header.version),
    }
