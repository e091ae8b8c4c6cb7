"""The receipt chain of one boot: receipts are linked one by one and signed by group (spec/receipts.md).

No receipt is linked that could not be delivered: it would be a hole for ever, and the chain is all tenants'. What goes
into one is bounded where it comes from; should that not do, the receipt goes without its longest parts and says so.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from msgspec.structs import replace

from adytum_wire import checkpoints, limits, receipts, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import CHECKPOINT, pae
from adytum_wire.receipts import (
    GENESIS,
    MAX_APPROVAL_OUTCOMES,
    MAX_RECEIPT,
    ApprovalOutcome,
    LimitOutcome,
    Receipt,
    ReceiptEnvelope,
    RuleOutcome,
    Wanted,
)
from adytum_wire.types import sha256

MAX_GROUP = 16  # every receipt carries the hashes up to its head: larger groups save a signature and cost bytes
_AROUND: Final = 2 * limits.KIB  # bytes of an envelope besides its body: the hashes of a whole group, key, signature
_COUNT_FROM: Final = 4 * limits.KIB  # bytes of a body
_PACK_FROM: Final = 8 * limits.KIB  # bytes of an envelope that is remembered packed
# What a receipt that is too large goes without, in this order. Who asked for what, when, and the result always stay.
_OPTIONAL: Final = ("wanted", "rules", "approvals", "limits", "summary")


class Draft:
    """What is known so far of a decision that is under way; becomes a `Receipt` when it ends."""

    __slots__ = (
        "approvals",
        "key_id",
        "limits",
        "operation",
        "policy_digest",
        "policy_version",
        "principal",
        "public_key",
        "record_version",
        "request_digest",
        "request_id",
        "rules",
        "summary",
        "tenant",
        "wanted",
    )

    def __init__(self, *, tenant: str, principal: str, request_id: str, operation: str, request_digest: bytes) -> None:
        self.tenant = tenant
        self.principal = principal
        self.request_id = request_id
        self.operation = operation
        self.request_digest = request_digest
        self.rules: list[RuleOutcome] = []
        self.approvals: list[ApprovalOutcome] = []
        self.limits: list[LimitOutcome] = []
        self.wanted: list[Wanted] = []
        self.policy_version = 0
        self.policy_digest = b""
        self.key_id = ""
        self.record_version = 0
        self.public_key = ""
        self.summary: dict[str, str] = {}


class Ticket:
    """A receipt in the chain; `envelope` is empty until `ReceiptChain.seal`, and of at most `size` bytes."""

    __slots__ = ("body", "digest", "envelope", "link", "sequence", "size")

    def __init__(self, body: bytes, digest: bytes, sequence: int, link: bytes, size: int) -> None:
        self.body = body
        self.digest = digest
        self.sequence = sequence
        self.link = link
        self.size = size
        self.envelope = b""


class ReceiptChain:
    """`sign`: signs head bytes with the receipt key. `chain`: the boot id, 32 hex digits."""

    def __init__(self, chain: str, public_key: bytes, sign: Callable[[bytes], bytes]) -> None:
        self._chain = chain
        self._key = public_key.hex()
        self._sign = sign
        self._link = GENESIS
        self._sequence = 0
        self._head = (0, GENESIS)  # of what is sealed
        self._open: list[Ticket] = []
        self._sealed: deque[bytes] = deque()  # the last envelopes, without gaps, the long ones packed
        self._sealed_bytes = 0

    def __len__(self) -> int:
        return self._sequence

    def append(self, draft: Draft, *, time_ms: int, decision: str, code: str, result_digest: str) -> Ticket:
        """Link the decision into the chain. Its envelope is complete after the next `seal`."""
        approvals = _approvals(draft.approvals)
        receipt = Receipt(
            chain=self._chain,
            sequence=self._sequence + 1,
            previous=self._link.hex(),
            time=time_ms,
            tenant=draft.tenant,
            principal=draft.principal,
            request_id=draft.request_id,
            operation=draft.operation,
            request_digest=draft.request_digest.hex(),
            decision=decision,  # type: ignore[arg-type]
            code=code,
            rules=draft.rules,
            approvals=approvals,
            wanted=draft.wanted,
            limits=draft.limits,
            policy_version=draft.policy_version,
            policy_digest=draft.policy_digest.hex(),
            key_id=draft.key_id,
            record_version=draft.record_version,
            public_key=draft.public_key,
            summary=draft.summary,
            result_digest=result_digest,
            omitted=["approvals"] if len(approvals) < len(draft.approvals) else [],
        )
        body = receipts.encode(receipt)
        size = _envelope_size(body)
        if size > MAX_RECEIPT:
            body = _cut(receipt)
            size = _envelope_size(body)
        digest = sha256(body)
        self._sequence += 1
        self._link = receipts.next_link(self._link, digest)
        ticket = Ticket(body, digest, self._sequence, self._link, size)
        self._open.append(ticket)
        return ticket

    def seal(self) -> None:
        """Complete the envelope of every open receipt, with one signature for each group."""
        ready, self._open = self._open, []
        for start in range(0, len(ready), MAX_GROUP):
            self._seal(ready[start : start + MAX_GROUP])

    def _seal(self, group: list[Ticket]) -> None:
        head = group[-1]
        signature = self._sign(receipts.head_bytes(self._chain, head.sequence, head.link)).hex()
        hashes = [ticket.digest.hex() for ticket in group]
        for index, ticket in enumerate(group):
            ticket.envelope = receipts.encode(
                ReceiptEnvelope(
                    body=ticket.body.decode(), following=hashes[index + 1 :], key=self._key, signature=signature
                )
            )
            self._remember(ticket.envelope)
        self._head = (head.sequence, head.link)

    def _remember(self, envelope: bytes) -> None:
        # Rule by rule a receipt of a long policy says much the same: packed, a fifth of it or less. Otherwise such a
        # policy's own rotation could push out an answer that was lost before the host has asked for it.
        kept = zlib.compress(envelope, 1) if len(envelope) >= _PACK_FROM else envelope
        self._sealed.append(kept)
        self._sealed_bytes += len(kept)
        while (
            len(self._sealed) > limits.MAX_REMEMBERED_RECEIPTS
            or self._sealed_bytes > limits.MAX_REMEMBERED_RECEIPT_BYTES
        ):
            self._sealed_bytes -= len(self._sealed.popleft())

    @property
    def head(self) -> tuple[str, int, bytes]:
        """(chain, sequence, link) of the last receipt that is signed."""
        return self._chain, *self._head

    def checkpoint(self, time_ms: int) -> bytes:
        """A signed statement of where the chain stands (spec/receipts.md, R-10), as envelope bytes. It covers sealed
        receipts only: one that is still open has no signature yet, and nobody has seen it."""
        sequence, link = self._head
        body = strict_json.encode(
            checkpoints.CheckpointBody(chain=self._chain, sequence=sequence, head=link.hex(), time=time_ms)
        )
        signature = self._sign(pae(CHECKPOINT, body)).hex()
        return strict_json.encode(
            checkpoints.CheckpointEnvelope(body=body.decode(), key=self._key, signature=signature)
        )

    def remembered(self, first: int) -> list[bytes]:
        """Envelopes from number `first` on, as many as `limits.MAX_RECEIPTS_REPLY` allows; empty when there are none
        or the first is no longer remembered."""
        oldest = self._sequence - len(self._open) - len(self._sealed) + 1
        if first < oldest:
            return []
        found: list[bytes] = []
        size = 0
        for kept in islice(self._sealed, first - oldest, None):
            envelope = kept if kept[:1] == b"{" else zlib.decompress(kept)
            size += len(envelope)
            if size > limits.MAX_RECEIPTS_REPLY:
                break
            found.append(envelope)
        return found


def _envelope_size(body: bytes) -> int:
    """An upper bound of the envelope's bytes. In it the body is a JSON string; whoever wrote the body left nothing to
    escape in it but these two. They are counted where it matters: that takes longer than a hash."""
    if len(body) < _COUNT_FROM:
        return 2 * len(body) + _AROUND
    return len(body) + body.count(b'"') + body.count(b"\\") + _AROUND


def _approvals(outcomes: list[ApprovalOutcome]) -> list[ApprovalOutcome]:
    """At most `MAX_APPROVAL_OUTCOMES`: 32 come with a request, and any number of rejections may be remembered. What
    counted stays before what did not."""
    if len(outcomes) <= MAX_APPROVAL_OUTCOMES:
        return outcomes
    return sorted(outcomes, key=lambda one: one.outcome not in ("approve", "reject"))[:MAX_APPROVAL_OUTCOMES]


def _cut(receipt: Receipt) -> bytes:
    """The body without as many of its longest parts as it takes."""
    for part in _OPTIONAL:
        if getattr(receipt, part):
            empty: object = {} if part == "summary" else []
            omitted = sorted({*receipt.omitted, part})
            receipt = replace(receipt, **{part: empty, "omitted": omitted})
            body = receipts.encode(receipt)
            if _envelope_size(body) <= MAX_RECEIPT:
                return body
    raise AdytumError(Code.INTERNAL)  # what is left has a bound in its type
