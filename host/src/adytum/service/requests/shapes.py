"""The JSON of requests and approvals (docs/how-to/requests-that-wait.md). Bytes: base64, digests: hex, times: ms."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adytum_wire import limits
from adytum_wire.approvals import Approval, KeyProof, PasskeyProof
from adytum_wire.types import RequestId, TenantId

# What the initiator signs to take a request back. Only the host reads it: it is about availability and nothing else.
CANCEL = "application/vnd.adytum.request-cancel.v1+json"
MAX_BATCH = 256  # requests in one batch statement
MAX_WAIT_S = 30

_NULL = msgspec.Raw(b"null")


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed over `pae(CANCEL, body)` by the key that stamped the request."""

    v: Literal[1]
    tenant: TenantId
    request_id: RequestId


class BatchApproval(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One statement about several requests, in the order in which their digests are the tree's leaves."""

    statement: Annotated[bytes, Meta(max_length=limits.MAX_STATEMENT)]
    proof: KeyProof | PasskeyProof
    tenant: TenantId
    request_ids: Annotated[list[RequestId], Meta(min_length=1, max_length=MAX_BATCH)]


class WantedView(Struct, frozen=True, kw_only=True):
    """What a rule that could allow still lacks: `count` people with `role`. `others`: how many more than `missing`
    could. By the host's preview."""

    rule: str
    role: str
    count: int
    counted: list[str]
    missing: list[str]
    others: int = 0


class ApprovalView(Struct, frozen=True, kw_only=True):
    """`outcome`: as in receipts ("approve", "reject", or why it does not count), or an error code when it does not
    verify under the policy in force; "" when the host cannot tell."""

    principal: str
    digest: str
    kind: Literal["key", "passkey"]
    decision: str
    policy_version: int
    issued_at: int
    expires_at: int
    outcome: str


class RequestView(Struct, frozen=True, kw_only=True):
    """A request as the host sees it. Everything but `receipt` is its word; `body` hashes to the digest that the receipt
    names. `state`: pending, approved (being carried out), done, refused, rejected, cancelled, expired. From `body` on,
    empty for a request that never waited."""

    tenant: str
    request_id: str
    operation: str
    state: str
    code: str
    body_hash: str
    created_at: str
    receipt: msgspec.Raw = _NULL
    body: bytes = b""
    initiator: str = ""
    key_id: str = ""
    labels: list[str] = []
    summary: dict[str, str] = {}
    policy_version: int = 0
    wanted: list[WantedView] = []
    approvals: list[ApprovalView] = []
    issued_at: int = 0
    expires_at: int = 0
    last_code: str = ""


class RequestPage(Struct, frozen=True, kw_only=True):
    requests: list[RequestView]
    next_after: str | None


class PendingAnswer(Struct, frozen=True, kw_only=True):
    """What a stamped route answers with 202: nothing was carried out yet. `receipt`: the enclave's refusal."""

    request_id: str
    state: str
    wanted: list[WantedView]
    expires_at: int
    receipt: msgspec.Raw


_approval = msgspec.json.Decoder(Approval)
_batch = msgspec.json.Decoder(BatchApproval)


def parse_approval(data: bytes) -> Approval:
    """Errors: ValueError (msgspec.DecodeError, UnicodeDecodeError)."""
    return _approval.decode(data)


def parse_batch(data: bytes) -> BatchApproval:
    """Errors: ValueError (msgspec.DecodeError, UnicodeDecodeError)."""
    return _batch.decode(data)
