"""Verify a chain of receipts: complete, in order, unedited, with one history. Offline, streaming, in one pass.

Each receipt stands under a signed head and names the link before it, so the first record that does not fit can be
named: *missing, edited, reordered, duplicated, forked, foreign or malformed*. A chain that was cut off behind a head
still fits: only a head that you hold from elsewhere (an earlier report, a checkpoint, a later receipt) shows that.
Pass it as `head`.

    report = verify_chain(lines, receipt_key=key, head=Head(sequence=5021, link=...))
    report.require_intact()
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from adytum_verify.receipts import is_head_signed
from adytum_wire import signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import (
    GENESIS,
    Receipt,
    ReceiptEnvelope,
    head_of,
    next_link,
    parse_envelope,
    parse_receipt,
)
from adytum_wire.types import Scheme

_LINK_SIZE: Final = 32  # bytes


class Defect(StrEnum):
    """What is wrong with the first record that does not fit."""

    MISSING = "missing"  # the sequence number is nowhere
    EDITED = "edited"  # its bytes are not those that were signed
    REORDERED = "reordered"  # it is there, but later
    DUPLICATED = "duplicated"  # the same record again
    FORKED = "forked"  # the key signed two different records for one place
    FOREIGN = "foreign"  # another chain's, or another key's
    MALFORMED = "malformed"  # not a receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`position`: of the offending record in the input, from 1; where a record is missing, of the one in its place (or
    one past the end). `sequence`: of the record that is at fault."""

    defect: Defect
    position: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a chain stands: `link` (32 bytes) is link[sequence]. Keep it, and pass it to the next verification."""

    sequence: int
    link: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What was found. `head` is the last record that fits, None when there is none; times in ms, enclave time.

    `problem` is None when every record fits. Nothing after the problem was checked.
    """

    chain: str
    first_sequence: int
    records: int
    head: Head | None
    first_time_ms: int
    last_time_ms: int
    signatures: int
    problem: Problem | None

    @property
    def is_intact(self) -> bool:
        return self.problem is None

    def require_intact(self) -> None:
        """Errors: RECEIPT_INVALID; `field` names the defect and the sequence number."""
        if self.problem is not None:
            raise AdytumError(Code.RECEIPT_INVALID, f"{self.problem.defect.value} #{self.problem.sequence}")


def verify_chain(
    envelopes: Iterable[bytes],
    *,
    receipt_key: bytes,
    chain: str | None = None,
    from_sequence: int = 1,
    head: Head | None = None,
    previous: Head | None = None,
) -> ChainReport:
    """Verify `envelopes` (JSON bytes each) as the records `from_sequence`, `from_sequence` + 1, ... of one chain.

    `receipt_key`: Ed25519, 32 bytes, attested. `chain`: its id, else the first record's. `head`: a head that you hold;
    the records must reach it and equal it. `previous`: where your last verification ended; replaces `from_sequence`.
    Result: a report; call `require_intact()`, or look at `problem`. No records at all are a MISSING one, no success.
    Errors: ValueError for a `receipt_key` that is none, or a `head` before the first record; none for hostile bytes.
    Cost: 32 bytes of memory a record, and one signature for each signed head.
    """
    if not signatures.is_public_key(Scheme.ED25519, receipt_key):
        raise ValueError("the receipt key is not an Ed25519 public key")
    first = previous.sequence + 1 if previous else from_sequence
    if first < 1 or (head is not None and head.sequence < first):
        raise ValueError("the head lies before the first record")
    link = previous.link if previous else GENESIS if first == 1 else None
    return _Walk(receipt_key.hex(), chain, first, link, head).run(iter(envelopes))


class _Walk:
    """The state of one pass.

    `_next`: the sequence number expected. `_link`: link[_next - 1], None when not known yet. `_links`: link[_first],
    link[_first + 1] and so on, which tell a duplicate from a fork. `_promised`: the body hashes from `_next` on, as far
    as a verified head covers them, and `_promise` that head's signature.
    """

    def __init__(self, key: str, chain: str | None, first: int, link: bytes | None, head: Head | None) -> None:
        self._key = key
        self._chain = chain
        self._first = first
        self._next = first
        self._link = link
        self._head = head
        self._links = bytearray()
        self._promised: list[str] = []
        self._promise = ""
        self._times = (0, 0)
        self._signatures = 0

    def run(self, envelopes: Iterator[bytes]) -> ChainReport:
        for position, data in enumerate(envelopes, 1):
            found = self._step(data)
            if found is None:
                continue
            defect, sequence = found
            if defect is Defect.MISSING and self._appears_later(envelopes):
                defect = Defect.REORDERED
            return self._report(Problem(defect=defect, position=position, sequence=sequence))
        return self._report(self._check_end())

    def _step(self, data: bytes) -> tuple[Defect, int] | None:
        """Take one record, or say what is wrong with which sequence number."""
        try:
            envelope = parse_envelope(data)
            receipt = parse_receipt(envelope.body.encode())
        except AdytumError:
            return Defect.MALFORMED, self._next
        if self._chain is None:
            self._chain = receipt.chain
        if envelope.key != self._key or receipt.chain != self._chain:
            return Defect.FOREIGN, self._next
        body_hash = hashlib.sha256(envelope.body.encode())
        link = next_link(bytes.fromhex(receipt.previous), body_hash.digest())
        if receipt.sequence != self._next:
            return self._out_of_place(envelope, receipt, link)
        fits = self._link is None or bytes.fromhex(receipt.previous) == self._link
        as_promised = not self._promised or self._promised[0] == body_hash.hexdigest()
        rest = self._promised[1:]
        # An earlier record of the same group has proven this one already: same signature, same hashes up to it.
        proven = bool(self._promised) and envelope.signature == self._promise and envelope.following == rest
        if not (fits and as_promised and proven):
            if not self._is_signed(envelope, receipt):
                return Defect.EDITED, self._next
            if not (fits and as_promised):
                return Defect.FORKED, self._next
            for offset, (ours, promised) in enumerate(zip(envelope.following, rest, strict=False), 1):
                if ours != promised:
                    return Defect.FORKED, self._next + offset
        if self._head is not None and self._head.sequence == self._next and self._head.link != link:
            return Defect.FORKED, self._next
        if len(envelope.following) >= len(rest):
            rest, self._promise = envelope.following, envelope.signature
        self._promised = rest
        self._take(receipt, link)
        return None

    def _take(self, receipt: Receipt, link: bytes) -> None:
        self._times = (self._times[0] if self._links else receipt.time, receipt.time)
        self._links += link
        self._link = link
        self._next += 1

    def _out_of_place(self, envelope: ReceiptEnvelope, receipt: Receipt, link: bytes) -> tuple[Defect, int]:
        """A record with another number than the next: believe its number only if it was signed."""
        at = (receipt.sequence - self._first) * _LINK_SIZE
        if 0 <= at < len(self._links) and self._links[at : at + _LINK_SIZE] == link:
            return Defect.DUPLICATED, receipt.sequence
        if not self._is_signed(envelope, receipt):
            return Defect.EDITED, self._next
        if receipt.sequence > self._next:
            return Defect.MISSING, self._next
        return (Defect.FORKED if at >= 0 else Defect.REORDERED), receipt.sequence

    def _is_signed(self, envelope: ReceiptEnvelope, receipt: Receipt) -> bool:
        self._signatures += 1
        sequence, link = head_of(envelope, receipt)
        return is_head_signed(
            bytes.fromhex(self._key), receipt.chain, sequence, link, bytes.fromhex(envelope.signature)
        )

    def _appears_later(self, envelopes: Iterator[bytes]) -> bool:
        """Only after a gap: does the missing record of this chain come further on?"""
        for data in envelopes:
            try:
                envelope = parse_envelope(data)
                receipt = parse_receipt(envelope.body.encode())
            except AdytumError:
                continue
            if receipt.sequence == self._next and receipt.chain == self._chain and self._is_signed(envelope, receipt):
                return True
        return False

    def _check_end(self) -> Problem | None:
        """Records of which a signed head, or the caller's, says that they exist."""
        short = self._head is not None and self._head.sequence >= self._next
        if self._promised or short or not self._links:
            return Problem(defect=Defect.MISSING, position=self._records() + 1, sequence=self._next)
        return None

    def _records(self) -> int:
        return len(self._links) // _LINK_SIZE

    def _here(self) -> Head | None:
        if not self._links:
            return None
        return Head(sequence=self._next - 1, link=bytes(self._links[-_LINK_SIZE:]))

    def _report(self, problem: Problem | None) -> ChainReport:
        return ChainReport(
            chain=self._chain or "",
            first_sequence=self._first,
            records=self._records(),
            head=self._here(),
            first_time_ms=self._times[0],
            last_time_ms=self._times[1],
            signatures=self._signatures,
            problem=problem,
        )
