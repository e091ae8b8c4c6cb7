"""Steps 3 and 4, carry: hand body, stamp and record to the enclave as they are, and read what came back.

What the enclave says is turned into the rows that must be durable before anybody hears of it (`Carried.outcome`).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from adytum.service.admit import Admitted
from adytum.service.ports import Executor
from adytum.storage.rows import Outcome, PendingRow, RequestRow, receipt_row, record_row, usage_row
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply, Refusal, error_of
from adytum_wire.record import Record
from adytum_wire.requests import DeleteKey

# Refusals that say who is asking, or that the id is taken: to remember them under (tenant, request id) would let a
# stranger, or a mistaken body, block the right one.
_NEVER_REMEMBERED = frozenset(
    {
        Code.TENANT_UNKNOWN,
        Code.PRINCIPAL_UNKNOWN,
        Code.STAMP_INVALID,
        Code.REQUEST_INVALID,
        Code.REQUEST_EXPIRED,
        Code.REQUEST_FROM_FUTURE,
        Code.REQUEST_CONFLICT,
        Code.REQUEST_REPLAYED,
        # not yet: the window moves, the snapshot comes
        Code.LIMIT_EXCEEDED,
        Code.USAGE_UNKNOWN,
    }
)
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Carried:
    """`result`: the answer's bytes, or b"" with `error`. `outcome`: what to store, None for a refusal without
    receipt."""

    result: bytes
    receipt: bytes
    error: AdytumError | None
    outcome: Outcome | None


async def carry(
    enclave: Executor,
    admitted: Admitted,
    record: Record | None,
    *,
    timeout_s: float,
    approvals: tuple[Approval, ...] = (),
    pending_ms: int = DAY_MS,
) -> Carried:
    """`pending_ms`: how old the request may become while it waits for approvals.

    Errors: PEER_UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (of the way there, without receipt);
    RECEIPT_INVALID, RECORD_INVALID, USAGE_INVALID when the enclave's answer cannot be read."""
    reply = await enclave.execute(admitted.raw, admitted.stamp, record, approvals, timeout_s=timeout_s)
    if isinstance(reply, ExecuteReply):
        return _done(admitted, reply)
    return _refused(admitted, reply, pending_ms)


def _done(admitted: Admitted, reply: ExecuteReply) -> Carried:
    receipt = receipt_row(reply.receipt)
    row = None if reply.record is None else record_row(reply.record, reply.recovery)
    request = _request_row(admitted, reply.result, reply.receipt)
    usage = usage_row(reply.usage) if reply.usage else None
    shredded = admitted.key_id if isinstance(admitted.body, DeleteKey) else ""
    outcome = Outcome(receipt=receipt, request=request, record=row, usage=usage, shredded=shredded)
    return Carried(reply.result, reply.receipt, None, outcome)


def _refused(admitted: Admitted, reply: Refusal, pending_ms: int) -> Carried:
    error = error_of(reply)
    if not reply.receipt:
        return Carried(b"", b"", error, None)
    receipt = receipt_row(reply.receipt)
    request = pending = None
    # "deny" is the policy's word and final; "error" (KMS away, a stale record) may end otherwise next time.
    if receipt.decision == "deny" and not error.code.retryable and error.code not in _NEVER_REMEMBERED:
        request = _request_row(admitted, b"", reply.receipt, error)
        if error.code is Code.APPROVALS_MISSING:
            pending = PendingRow(
                body=admitted.raw,
                stamp=msgspec.msgpack.encode(admitted.stamp),
                issued_at=admitted.body.issued_at,
                expires_at=admitted.body.issued_at + pending_ms,
            )
    return Carried(b"", reply.receipt, error, Outcome(receipt=receipt, request=request, pending=pending))


def _request_row(admitted: Admitted, result: bytes, receipt: bytes, error: AdytumError | None = None) -> RequestRow:
    return RequestRow(
        tenant=admitted.body.tenant,
        request_id=admitted.body.request_id,
        body_hash=admitted.body_hash,
        stamp_key=admitted.stamp_key,
        operation=admitted.operation,
        result=result,
        receipt=receipt,
        code=error.code.value if error else "",
        field=error.field if error else "",
    )
