"""What really left the enclave: every request, every answer and every receipt, and what they say together.

The relay notes each frame as its sender wrote it. `audit` then holds the enclave to its promises: the receipts are one
chain from the first on under the attested key, each answer is the one that its receipt names, each request that was
carried out is one that the policy allows, with what was signed decoded here from the bytes that the client signed, and
no request got two results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from adytum.client.checks import check_answer
from adytum_policy.content import Decoded, decode_content
from adytum_verify import verify_chain
from adytum_wire import messages, receipts, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import Frame, Kind
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.receipts import Receipt
from adytum_wire.requests import Body, Sign, parse_body
from adytum_wire.types import sha256

Allowed = Callable[[Body, Decoded | None, Receipt], bool]


class BrokenPromiseError(Exception):
    """The enclave did what it must not do. The text says what."""


@dataclass(slots=True, repr=False)
class Ledger:
    """`bodies`: request bodies by digest, as enclave-bound frames had them. `answers`: results by receipt sequence."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    receipts: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note_body(self, body: bytes) -> None:
        """A body that the enclave may have seen, also one that the host wrote."""
        self.bodies[sha256(body).hex()] = body

    def note(self, _port: int, kind: Kind, frame: Frame) -> None:
        """For `Relay.witness`."""
        if kind is Kind.REQUEST:
            try:
                message = messages.decode_data(frame.payload)
            except AdytumError:
                return
            if isinstance(message, Execute):
                self.note_body(message.body)
            return
        reply = messages.decode_reply(frame.payload)
        if isinstance(reply, Refusal):
            self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
            if reply.code == Code.INTERNAL.value:
                self.problems.append("the enclave answered INTERNAL")
        if isinstance(reply, ExecuteReply | Refusal) and reply.receipt:
            sequence = self.note_receipt(reply.receipt)
            if isinstance(reply, ExecuteReply) and self.answers.setdefault(sequence, reply.result) != reply.result:
                self.problems.append(f"receipt {sequence} came with two results")

    def note_receipt(self, envelope: bytes) -> int:
        """Remember a receipt, also one that was fetched later; return its sequence. Errors: RECEIPT_INVALID."""
        receipt = receipts.parse_receipt(receipts.parse_envelope(envelope).body.encode())
        if self.receipts.setdefault(receipt.sequence, envelope) != envelope:
            self.problems.append(f"two receipts have the number {receipt.sequence}")
        return receipt.sequence

    def missing(self) -> int:
        """The first sequence number that nobody has seen."""
        return next(number for number in range(1, len(self.receipts) + 2) if number not in self.receipts)

    def audit(self, receipt_key: bytes, is_allowed: Allowed) -> int:
        """Hold everything seen against the attested key and the policy. Returns the number of signatures judged.

        `is_allowed`: what the caller's policy says about a request, and about what it signs.
        Errors: BrokenPromiseError, RECEIPT_INVALID.
        """
        if self.problems:
            raise BrokenPromiseError("; ".join(self.problems))
        ordered = [self.receipts[number] for number in sorted(self.receipts)]
        verify_chain(ordered, receipt_key=receipt_key).require_intact()
        signatures, seen = 0, dict[tuple[str, str], tuple[str, str]]()
        for number, envelope in self.receipts.items():
            receipt = receipts.parse_receipt(receipts.parse_envelope(envelope).body.encode())
            if receipt.decision != "allow":
                if receipt.result_digest:
                    raise BrokenPromiseError(f"receipt {number} refuses and has a result")
                continue
            name = (receipt.tenant, receipt.request_id)
            what = (receipt.request_digest, receipt.principal)
            if seen.setdefault(name, what) != what:
                raise BrokenPromiseError(f"receipt {number}: a request id had two effects")
            signatures += self._judge(number, receipt, envelope, receipt_key, is_allowed)
        return signatures

    def _judge(self, number: int, receipt: Receipt, envelope: bytes, key: bytes, is_allowed: Allowed) -> int:
        raw = self.bodies.get(receipt.request_digest)
        if raw is None:
            raise BrokenPromiseError(f"receipt {number} is about a request that nobody sent")
        body = parse_body(raw)
        result = self.answers.get(number)
        if result is not None:
            check_answer(raw, body, result, envelope, receipt_key=key)
        content = None
        if isinstance(body, Sign):
            content = decode_content(body.content, body.scheme, bytes.fromhex(receipt.public_key), body.path)
        if not is_allowed(body, content, receipt):
            raise BrokenPromiseError(f"receipt {number}: {receipt.operation} that the policy does not allow")
        return int(result is not None and isinstance(results.parse_result(result), results.SignResult))
