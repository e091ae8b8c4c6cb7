"""The sealed usage snapshot: what was charged to a tenant's limits, as it leaves the enclave (spec/usage.md).

The host stores it and hands it back; it reads the header and nothing else. The header is the AAD of the ciphertext and
goes into the derivation of its key; the data key is bound to the tenant by KMS's EncryptionContext. No record has the
kind `usage`, so that neither can be taken for the other.

>>> context("acme")["adytum:kind"]
'usage'
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import ChainId
from adytum_wire.types import KeyArn, Label, Milliseconds, TenantId, Version


class SnapshotHeader(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`version`: rises with each snapshot of the tenant, over all boots. `boot_id`: of the enclave that sealed it."""

    v: Literal[1] = 1
    deployment: Label
    tenant: TenantId
    version: Version
    boot_id: ChainId
    kms_key_arn: KeyArn
    created_at: Milliseconds


class Snapshot(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """`header`: JSON bytes. `ciphertext_blob`: commitment (32) || nonce (12) || AES-256-GCM ciphertext and tag.
    `data_key_ciphertext`: KMS's CiphertextBlob of the data key."""

    header: bytes
    ciphertext_blob: bytes
    data_key_ciphertext: Annotated[bytes, Meta(min_length=1, max_length=limits.MAX_DATA_KEY_CIPHERTEXT)]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode_header(header: SnapshotHeader) -> bytes:
    return strict_json.encode(header)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def parse_snapshot(data: bytes) -> tuple[Snapshot, SnapshotHeader]:
    """Nothing is proven yet. Errors: USAGE_INVALID."""
    if len(data) > limits.MAX_USAGE_SNAPSHOT:
        raise AdytumError(Code.USAGE_INVALID, "$ (too large)")
    try:
        snapshot = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AdytumError(Code.USAGE_INVALID) from None
    header = strict_json.decode(
        snapshot.header, SnapshotHeader, limit=limits.MAX_RECORD_HEADER, code=Code.USAGE_INVALID
    )
    return snapshot, header


def context(tenant: str) -> dict[str, str]:
    """The EncryptionContext of a snapshot's data key: the four keys that the key policy demands of every call."""
    return {"adytum:tenant": tenant, "adytum:key": "usage", "adytum:kind": "usage", "adytum:version": "1"}
