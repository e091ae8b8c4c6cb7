"""The receipt chain of one boot: receipts are linked one by one and signed by group (spec/receipts.md)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from adytum_wire import checkpoints, limits, receipts, strict_json
from adytum_wire.pae import CHECKPOINT, pae
from adytum_wire.receipts import GENESIS, ApprovalOutcome, LimitOutcome, Receipt, ReceiptEnvelope, RuleOutcome, Wanted
from adytum_wire.types import sha256

MAX_GROUP = 16  # every receipt carries the hashes up to its head: larger groups save a signature and cost bytes


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
    """A receipt in the chain; `envelope` is empty until `ReceiptChain.seal`."""

    __slots__ = ("body", "digest", "envelope", "link", "sequence")

    def __init__(self, body: bytes, digest: bytes, sequence: int, link: bytes) -> None:
        self.body = body
        self.digest = digest
        self.sequence = sequence
        self.link = link
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
        self._sealed: deque[bytes] = deque(maxlen=limits.MAX_REMEMBERED_RECEIPTS)  # the last ones, without gaps

    def __len__(self) -> int:
        return self._sequence

    def append(self, draft: Draft, *, time_ms: int, decision: str, code: str, result_digest: str) -> Ticket:
        """Link the decision into the chain. Its envelope is complete after the next `seal`."""
        self._sequence += 1
        body = receipts.encode(
            Receipt(
                chain=self._chain,
                sequence=self._sequence,
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
                approvals=draft.approvals,
                wanted=draft.wanted,
                limits=draft.limits,
                policy_version=draft.policy_version,
                policy_digest=draft.policy_digest.hex(),
                key_id=draft.key_id,
                record_version=draft.record_version,
                public_key=draft.public_key,
                summary=draft.summary,
                result_digest=result_digest,
            )
        )
        digest = sha256(body)
        self._link = receipts.next_link(self._link, digest)
        ticket = Ticket(body, digest, self._sequence, self._link)
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
            self._sealed.append(ticket.envelope)
        self._head = (head.sequence, head.link)

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
        for envelope in islice(self._sealed, first - oldest, None):
            size += len(envelope)
            if size > limits.MAX_RECEIPTS_REPLY:
                break
            found.append(envelope)
        return found
