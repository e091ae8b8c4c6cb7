"""What the spine writes and reads, as frozen types. Bytes are as they came from the enclave or the client."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import msgspec

from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import Receipt, ReceiptEnvelope
from adytum_wire.record import Header, Record
from adytum_wire.types import sha256
from adytum_wire.usage import parse_snapshot

# The host reads what the enclave made with the fast, typed decoder: it looks things up by it and judges nothing by it.
# Whoever must believe a receipt (client, auditor) parses the same bytes strictly.
_envelope = msgspec.json.Decoder(ReceiptEnvelope)
_receipt = msgspec.json.Decoder(Receipt)
_header = msgspec.json.Decoder(Header)

PENDING = "pending"
# How a request stands follows from the code that answers it; every other code is a refusal for good.
_STATES = {
    "": "done",
    Code.APPROVALS_MISSING.value: PENDING,
    Code.APPROVALS_REJECTED.value: "rejected",
    Code.REQUEST_CANCELLED.value: "cancelled",
    Code.REQUEST_EXPIRED.value: "expired",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRow:
    chain: str
    sequence: int
    envelope: bytes
    body_hash: bytes  # 32 bytes
    tenant: str
    request_id: str
    time: int  # ms, enclave clock
    decision: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """An authenticated request and its answer, which is final unless the request waits for approvals. `code` is "" when
    it was carried out. `receipt` is stored once, in `receipts`; the row refers to it."""

    tenant: str
    request_id: str
    body_hash: bytes  # 32 bytes
    stamp_key: bytes
    operation: str
    result: bytes
    receipt: bytes
    code: str = ""
    field: str = ""

    @property
    def state(self) -> str:
        return _STATES.get(self.code, "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRow:
    """What must be kept of a request that waits for approvals, to send it again as it came. `stamp`: MessagePack.
    Times in ms."""

    body: bytes
    stamp: bytes
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """A sealed record to store, with the columns that its header gives."""

    header: Header
    record: Record
    recovery: bytes = b""  # its second envelope, where the policy asks for one


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """A sealed usage snapshot, with the columns that its header gives."""

    tenant: str
    version: int
    chain: str  # of the enclave that sealed it
    snapshot: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything one answer leaves behind, written in one transaction: all of it or nothing. `pending`: set when the
    request begins to wait for approvals. `shredded`: the key that was deleted for good."""

    receipt: ReceiptRow
    request: RequestRow | None = None
    record: RecordRow | None = None
    pending: PendingRow | None = None
    usage: UsageRow | None = None
    shredded: str = ""


def receipt_row(envelope_bytes: bytes) -> ReceiptRow:
    """Read the columns out of a receipt envelope. Errors: RECEIPT_INVALID."""
    try:
        envelope = _envelope.decode(envelope_bytes)
        body = envelope.body.encode()
        receipt = _receipt.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        raise AdytumError(Code.RECEIPT_INVALID) from None
    return ReceiptRow(
        chain=receipt.chain,
        sequence=receipt.sequence,
        envelope=envelope_bytes,
        body_hash=sha256(body),
        tenant=receipt.tenant,
        request_id=receipt.request_id,
        time=receipt.time,
        decision=receipt.decision,
        code=receipt.code,
    )


def record_row(record: Record, recovery: bytes = b"") -> RecordRow:
    """Read the columns out of a record's header. Errors: RECORD_INVALID."""
    try:
        return RecordRow(header=_header.decode(record.header), record=record, recovery=recovery)
    except (msgspec.DecodeError, UnicodeError):
        raise AdytumError(Code.RECORD_INVALID) from None


def usage_row(snapshot: bytes) -> UsageRow:
    """Read the columns out of a snapshot's header. Errors: USAGE_INVALID."""
    _, header = parse_snapshot(snapshot)
    return UsageRow(tenant=header.tenant, version=header.version, chain=header.boot_id, snapshot=snapshot)


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def record_of(header: bytes, ciphertext_blob: str, data_key_ciphertext: str) -> Record:
    """The record as the enclave takes it, out of its columns. Errors: RECORD_INVALID when a column is not base64."""
    try:
        blob = base64.b64decode(ciphertext_blob, validate=True)
        return Record(header, blob, base64.b64decode(data_key_ciphertext, validate=True))
    except ValueError:
        raise AdytumError(Code.RECORD_INVALID) from None
