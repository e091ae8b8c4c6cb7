"""The messages in the frames: MessagePack, tagged, frozen; unknown fields and trailing bytes refuse (spec/wire.md).

Two ports. Control: `Hello`, `Configure`, `SetCredentials`, `PutPolicy`, `PutUsage`,
`PutAnchorCredentials`, `ResetUsage`, `GetUsage`, `Attest`, `Health`, `GetReceipts`, `Checkpoint`. Data: `Execute`, one
message for every operation that a client stamps: the operation stands in the signed body and nowhere else, so the host
has no field in which to name another one.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from adytum_wire import limits
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Record
from adytum_wire.requests import AnyStamp
from adytum_wire.types import TenantId

PROTOCOL_VERSION = 1

Nonce = Annotated[bytes, Meta(min_length=limits.MIN_NONCE, max_length=limits.MAX_NONCE)]


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """AWS credentials, pushed by the host. They authorise; attestation binds. The host knows them anyway."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: int  # ms since the epoch, 0 when they do not expire

    def __repr__(self) -> str:
        return "Credentials(...)"


# --- control requests


class Hello(Struct, frozen=True, forbid_unknown_fields=True, tag="hello"):
    protocol: int


class Configure(Struct, frozen=True, forbid_unknown_fields=True, tag="configure"):
    """`manifest`: JSON bytes (adytum_wire.manifest). Measured into PCR16, which is then locked. Once per boot."""

    manifest: bytes
    credentials: Credentials | None = None


class SetCredentials(Struct, frozen=True, forbid_unknown_fields=True, tag="set_credentials"):
    credentials: Credentials


class PutPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="put_policy"):
    """`envelope`: DSSE envelope (JSON bytes) of a policy, signed by the tenant's admin quorum."""

    tenant: TenantId
    envelope: bytes


class Attest(Struct, frozen=True, forbid_unknown_fields=True, tag="attest"):
    nonce: Nonce


class Health(Struct, frozen=True, forbid_unknown_fields=True, tag="health"):
    pass


class GetReceipts(Struct, frozen=True, forbid_unknown_fields=True, tag="get_receipts"):
    """Receipts of this boot from `first` on: an answer that was lost on its way must not leave a hole in the trail."""

    first: Annotated[int, Meta(ge=1, le=2**53)]


class PutUsage(Struct, frozen=True, forbid_unknown_fields=True, tag="put_usage"):
    """`snapshot`: the newest sealed usage of the tenant that the host kept (manifest.anchor `host`)."""

    tenant: TenantId
    snapshot: Annotated[bytes, Meta(max_length=limits.MAX_USAGE_SNAPSHOT)]


class PutAnchorCredentials(Struct, frozen=True, forbid_unknown_fields=True, tag="put_anchor_credentials"):
    """`record`: the tenant's newest of kind `anchor-credentials` (manifest.anchor.credentials `sealed`). The first of a
    boot takes the tenant's policy out of force: it was put without asking the anchor, and is put again."""

    tenant: TenantId
    record: Record


class ResetUsage(Struct, frozen=True, forbid_unknown_fields=True, tag="reset_usage"):
    """`envelope`: DSSE envelope of a `UsageReset` (adytum_wire.approvals), signed by the tenant's admin quorum."""

    tenant: TenantId
    envelope: bytes


class GetUsage(Struct, frozen=True, forbid_unknown_fields=True, tag="get_usage"):
    """What of the tenant's limits is used and held now."""

    tenant: TenantId


class Checkpoint(Struct, frozen=True, forbid_unknown_fields=True, tag="checkpoint"):
    """Sign the chain's head as it is now."""


# --- data requests


class Execute(Struct, frozen=True, forbid_unknown_fields=True, tag="execute"):
    """`body`: exactly what the client signed. `record`: the sealed record that the body names, if it names one.
    `approvals`: what approvers signed, if the request waited for them."""

    body: bytes
    stamp: AnyStamp
    record: Record | None = None
    approvals: Annotated[tuple[Approval, ...], Meta(max_length=limits.MAX_APPROVALS)] = ()


# --- replies


class HelloReply(Struct, frozen=True, forbid_unknown_fields=True, tag="hello_reply"):
    protocol: int
    phase: str
    boot_id: str
    build: str


class ConfigureReply(Struct, frozen=True, forbid_unknown_fields=True, tag="configure_reply"):
    manifest_hash: bytes  # SHA-256, 32 bytes
    pcr16: bytes  # 48 bytes


class Done(Struct, frozen=True, forbid_unknown_fields=True, tag="done"):
    pass


class PutPolicyReply(Struct, frozen=True, forbid_unknown_fields=True, tag="put_policy_reply"):
    version: int
    digest: bytes  # SHA-256 of the policy payload


class AttestReply(Struct, frozen=True, forbid_unknown_fields=True, tag="attest_reply"):
    """`binding`: the JSON bytes whose SHA-256 is the document's user_data (adytum_wire.binding)."""

    document: bytes
    binding: bytes


class HealthReply(Struct, frozen=True, forbid_unknown_fields=True, tag="health_reply"):
    phase: str
    boot_id: str
    uptime_ms: int
    clock_drift_ms: int
    in_flight: int
    warm_keys: int
    policies: dict[str, int]  # tenant -> version in force
    receipts: int  # length of this boot's chain
    counters: dict[str, int]  # fixed list, see adytum_enclave.core.counters


class GetReceiptsReply(Struct, frozen=True, forbid_unknown_fields=True, tag="get_receipts_reply"):
    """Envelopes in order, without gaps, as many as fit; empty when `first` is past the end or no longer remembered."""

    receipts: list[bytes]


class UsageEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """`used`: charged within the window; `held`: reserved by requests under way. Both in decimal."""

    limit: str
    scope: str
    window_ms: int
    used: str
    held: str


class GetUsageReply(Struct, frozen=True, forbid_unknown_fields=True, tag="get_usage_reply"):
    """`version`: of the newest snapshot, 0 for none. `is_known`: what was used before this boot is among `entries`;
    until then a limit is closed, unless admins reset it or its window has passed since the start."""

    boot_id: str
    version: int
    is_known: bool
    entries: list[UsageEntry]


class CheckpointReply(Struct, frozen=True, forbid_unknown_fields=True, tag="checkpoint_reply"):
    """`envelope`: JSON bytes (adytum_wire.checkpoints)."""

    envelope: bytes


class ExecuteReply(Struct, frozen=True, forbid_unknown_fields=True, tag="execute_reply"):
    """`result`: JSON bytes for the client. `receipt`: JSON bytes (adytum_wire.receipts). `record`: what to store.
    `usage`: a sealed usage snapshot to store with them (manifest.anchor `host`), or empty. `recovery`: the record's
    second envelope to store (adytum_wire.recovery), or empty."""

    result: bytes
    receipt: bytes
    record: Record | None = None
    usage: bytes = b""
    recovery: bytes = b""


class Refusal(Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """`code`: a `Code`. `field`: a path in our schema. `receipt`: present when an authenticated request was refused."""

    code: str
    field: str = ""
    retry_after_ms: int = 0
    receipt: bytes = b""


T = TypeVar("T")

ControlRequest = (
    Hello
    | Configure
    | SetCredentials
    | PutPolicy
    | PutUsage
    | PutAnchorCredentials
    | ResetUsage
    | GetUsage
    | Attest
    | Health
    | GetReceipts
    | Checkpoint
)
DataRequest = Execute
Reply = (
    HelloReply
    | ConfigureReply
    | Done
    | PutPolicyReply
    | AttestReply
    | HealthReply
    | GetReceiptsReply
    | GetUsageReply
    | CheckpointReply
    | ExecuteReply
    | Refusal
)


class _Nothing(Struct, frozen=True, forbid_unknown_fields=True, tag="nothing"):
    """No message. It makes the data port's type a union: msgspec lets the tag of a lone struct be absent (W-23)."""


_encoder = msgspec.msgpack.Encoder()
_control: msgspec.msgpack.Decoder[ControlRequest] = msgspec.msgpack.Decoder(ControlRequest)
_data: msgspec.msgpack.Decoder[DataRequest | _Nothing] = msgspec.msgpack.Decoder(DataRequest | _Nothing)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Struct) -> bytes:
    return _encoder.encode(message)


def decode_control(payload: bytes | memoryview) -> ControlRequest:
    """Errors: MESSAGE_INVALID."""
    return _decode(_control, payload)


def decode_data(payload: bytes | memoryview) -> DataRequest:
    """Errors: MESSAGE_INVALID."""
    message = _decode(_data, payload)
    if isinstance(message, _Nothing):
        raise AdytumError(Code.MESSAGE_INVALID)
    return message


def decode_reply(payload: bytes | memoryview) -> Reply:
    """Errors: MESSAGE_INVALID."""
    return _decode(_reply, payload)


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes | memoryview) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AdytumError(Code.MESSAGE_INVALID) from None


def refusal(error: AdytumError, receipt: bytes = b"") -> Refusal:
    return Refusal(error.code.value, error.field, error.retry_after_ms, receipt)


def error_of(reply: Refusal) -> AdytumError:
    """The error that a refusal stands for; an unknown code (a newer enclave) reads as INTERNAL."""
    try:
        code = Code(reply.code)
    except ValueError:
        code = Code.INTERNAL
    return AdytumError(code, reply.field, retry_after_ms=reply.retry_after_ms)
