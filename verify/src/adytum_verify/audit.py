"""Verify a chain of receipts: complete, in order, unedited, with one history. Offline, streaming, in one pass.

Each receipt stands under a signed head and names the link before it, so the first record that does not fit can be
named, with what is wrong with it (`Defect`). A chain that was cut off behind a head still fits: only a head or a
checkpoint that you hold from elsewhere (an earlier report, the second copy, a later receipt) shows that. Pass it as
`head` or `checkpoints`.

    report = verify_chain(lines, receipt_key=key, head=Head(sequence=5021, link=...))
    report.require_intact()
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

import msgspec

from adytum_verify.checkpoints import Checkpoint, claimed_chain, verify_checkpoint
from adytum_verify.container import checkpoint_of
from adytum_verify.receipts import is_head_signed, read_envelope, read_receipt
from adytum_wire import signatures
from adytum_wire.checkpoints import parse_checkpoint_envelope
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import (
    GENESIS,
    MAX_RECEIPT,
    Receipt,
    ReceiptEnvelope,
    head_of,
    next_link,
)
from adytum_wire.types import Scheme

_LINK_SIZE: Final = 32  # bytes


class Defect(StrEnum):
    """What is wrong with the first record that does not fit."""

    MISSING = "missing"  # the sequence number is nowhere
    TRUNCATED = "truncated"  # the input ends, and a signed head, a checkpoint or your head says that there is more
    EDITED = "edited"  # its bytes are not those that were signed
    FORGED = "forged"  # nobody signed it, and the record whose place it takes comes further on: it was put in
    UNSIGNED = "unsigned"  # its signature was taken away
    REORDERED = "reordered"  # it is there, but later
    DUPLICATED = "duplicated"  # the same record again
    FORKED = "forked"  # the key signed two different records for one place
    CONTRADICTED = "contradicted"  # a signed checkpoint names another history
    FOREIGN = "foreign"  # another chain's
    UNATTESTED = "unattested"  # signed, by a key that is not the attested one
    MALFORMED = "malformed"  # not a receipt, or not a checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`position`: of the offending line in the input, from 1; where a record is missing, of the one in its place (or
    one past the end); 0 for what came in `checkpoints`. `sequence`: of the record, or checkpoint, that is at fault."""

    defect: Defect
    position: int
    sequence: int
    subject: Literal["record", "checkpoint"] = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a chain stands: `link` (32 bytes) is link[sequence]. Keep it, and pass it to the next verification."""

    sequence: int
    link: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What was found. `head` is the last record that fits, None when there is none; times in ms, enclave time.

    `problem` is None when every record fits. Nothing after the problem was checked. `checkpoints`: how many agreed;
    the newest of them says up to where, and when, nothing can have been cut off.
    """

    chain: str
    first_sequence: int
    records: int
    head: Head | None
    first_time_ms: int
    last_time_ms: int
    signatures: int
    checkpoints: int
    newest_checkpoint: Checkpoint | None
    problem: Problem | None

    @property
    def is_intact(self) -> bool:
        return self.problem is None

    def require_intact(self) -> None:
        """Errors: RECEIPT_INVALID; `field` names the defect and the sequence number."""
        if self.problem is not None:
            raise AdytumError(Code.RECEIPT_INVALID, f"{self.problem.defect.value} #{self.problem.sequence}")


class _Unsigned(msgspec.Struct, forbid_unknown_fields=True):
    """A receipt envelope whose signature may be gone."""

    body: str
    following: list[str]
    key: str
    signature: str | None = None


def verify_chain(
    lines: Iterable[bytes],
    *,
    receipt_key: bytes,
    chain: str | None = None,
    from_sequence: int = 1,
    head: Head | None = None,
    previous: Head | None = None,
    checkpoints: Iterable[bytes] = (),
    first_position: int = 1,
) -> ChainReport:
    """Verify `lines` (receipt envelopes, checkpoint lines among them) as the records `from_sequence`, `from_sequence` +
    1, ... of one chain. Empty lines count as positions only.

    `receipt_key`: Ed25519, 32 bytes, attested. `chain`: its id, else the first record's. `head`: a head that you hold;
    the records must reach it and equal it. `previous`: where your last verification ended; replaces `from_sequence`.
    `checkpoints`: envelopes that you hold from elsewhere; those of other chains do not matter.
    `first_position`: that of the first line.
    Result: a report; call `require_intact()`, or look at `problem`. No records at all are a MISSING one, no success.
    Errors: ValueError for a `receipt_key` that is none, or a `head` before the first record; none for hostile bytes.
    Cost: 32 bytes of memory a record, and one signature for each signed head and each checkpoint.
    """
    verifier = ChainVerifier(
        receipt_key=receipt_key, chain=chain, from_sequence=from_sequence, head=head, previous=previous
    )
    for envelope in checkpoints:
        if verifier.hold(envelope) is not None:
            return verifier.report()
    rest = iter(lines)
    for position, line in enumerate(rest, first_position):
        if verifier.take(line, position) is not None:
            verifier.look_ahead(rest)
            return verifier.report()
    return verifier.finish()


class ChainVerifier:
    """`verify_chain` step by step, for a chain that is still growing. Arguments and errors as there.

    After a problem nothing is taken any more: every call gives the same problem.
    """

    # `_next`: the sequence number expected. `_link`: link[_next - 1], None when not known yet. `_links`: link[_first],
    # link[_first + 1] and so on, which tell a duplicate from a fork. `_promised`: the body hashes from `_next` on, as
    # far as a verified head covers them, and `_promise` that head's signature. `_awaited`: link by sequence number, of
    # checkpoints that are further on.

    def __init__(
        self,
        *,
        receipt_key: bytes,
        chain: str | None = None,
        from_sequence: int = 1,
        head: Head | None = None,
        previous: Head | None = None,
    ) -> None:
        if not signatures.is_public_key(Scheme.ED25519, receipt_key):
            raise ValueError("the receipt key is not an Ed25519 public key")
        first = previous.sequence + 1 if previous else from_sequence
        if first < 1 or (head is not None and head.sequence < first):
            raise ValueError("the head lies before the first record")
        self._key = receipt_key
        self._key_hex = receipt_key.hex()
        self._chain = chain
        self._first = self._next = first
        self._before = self._link = previous.link if previous else GENESIS if first == 1 else None
        self._head = head
        self._position = 0
        self._links = bytearray()
        self._promised: list[str] = []
        self._promise = ""
        self._awaited: dict[int, bytes] = {}
        self._checkpoints = 0
        self._newest: Checkpoint | None = None
        self._times = (0, 0)
        self._signatures = 0
        self._problem: Problem | None = None

    def take(self, line: bytes, position: int) -> Problem | None:
        """The next line: a receipt or a checkpoint. None when it fits."""
        if self._problem is not None or line.isspace():
            return self._problem
        self._position = position
        checkpoint = checkpoint_of(line)
        if checkpoint is not None:
            return self._take_checkpoint(checkpoint, position)
        found = self._step(line.rstrip(b"\r\n"))
        if found is not None:
            self._problem = Problem(defect=found[0], position=position, sequence=found[1])
        return self._problem

    def hold(self, envelope: bytes) -> Problem | None:
        """A checkpoint from elsewhere than the chain. One of another chain does not matter."""
        try:
            other = claimed_chain(envelope) != self._chain if self._chain is not None else False
        except AdytumError:
            other = False
        return None if other else self._take_checkpoint(envelope, 0)

    def look_ahead(self, rest: Iterator[bytes]) -> None:
        """After a problem: what comes later tells a record that was moved, or one that was put in, from one that is
        gone. Reads `rest` up to the record in question."""
        if self._problem is None:
            return
        later = {Defect.MISSING: Defect.REORDERED, Defect.EDITED: Defect.FORGED}.get(self._problem.defect)
        if later is not None and self._appears_later(rest):
            self._problem = replace(self._problem, defect=later)

    def finish(self) -> ChainReport:
        """The input has ended: is that where the chain ends?"""
        if self._problem is None:
            self._problem = self._check_end()
        return self.report()

    @property
    def next_sequence(self) -> int:
        """The number of the record that comes next."""
        return self._next

    def _take_checkpoint(self, envelope: bytes, position: int) -> Problem | None:
        defect, sequence = Defect.MALFORMED, self._next
        try:
            parse_checkpoint_envelope(envelope)  # so that a field that is named below is a judgement, not a shape
            defect = Defect.FORGED
            self._signatures += 1
            found = verify_checkpoint(envelope, receipt_key=self._key)
        except AdytumError as error:
            if defect is Defect.FORGED and error.field != "$.signature":
                defect = Defect.UNATTESTED if error.field == "$.key" else Defect.MALFORMED
        else:
            sequence = found.sequence
            if self._chain is None:
                self._chain = found.chain
            if found.chain != self._chain:
                defect = Defect.FOREIGN
            elif self._agrees(found):
                self._checkpoints += 1
                if self._newest is None or found.sequence >= self._newest.sequence:
                    self._newest = found
                return None
            else:
                defect = Defect.CONTRADICTED
        self._problem = Problem(defect=defect, position=position, sequence=sequence, subject="checkpoint")
        return self._problem

    def _agrees(self, found: Checkpoint) -> bool:
        """With what is known by now; what lies ahead is remembered. One from before the first record says nothing."""
        if found.sequence >= self._next:
            return self._awaited.setdefault(found.sequence, found.link) == found.link
        if found.sequence == self._first - 1:
            return self._before is None or self._before == found.link
        at = (found.sequence - self._first) * _LINK_SIZE
        return at < 0 or self._links[at : at + _LINK_SIZE] == found.link

    def _step(self, data: bytes) -> tuple[Defect, int] | None:
        """Take one record, or say what is wrong with which sequence number."""
        try:
            envelope = read_envelope(data)
            body = envelope.body.encode()
            receipt = read_receipt(body)
        except AdytumError:
            return (Defect.UNSIGNED if _is_unsigned(data) else Defect.MALFORMED), self._next
        if self._chain is None:
            self._chain = receipt.chain
        if envelope.key != self._key_hex or receipt.chain != self._chain:
            return self._not_ours(envelope, receipt), self._next
        body_hash = hashlib.sha256(body)
        previous = bytes.fromhex(receipt.previous)
        link = next_link(previous, body_hash.digest())
        if receipt.sequence != self._next:
            return self._out_of_place(envelope, receipt, link)
        fits = self._link is None or previous == self._link
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
        if self._awaited and self._awaited.pop(self._next, link) != link:
            return Defect.CONTRADICTED, self._next
        if len(envelope.following) >= len(rest):
            rest, self._promise = envelope.following, envelope.signature
        self._promised = rest
        self._times = (self._times[0] if self._links else receipt.time, receipt.time)
        self._links += link
        self._link = link
        self._next += 1
        return None

    def _not_ours(self, envelope: ReceiptEnvelope, receipt: Receipt) -> Defect:
        """Signed by whoever it names? Then it is somebody's. If not, somebody wrote that into one of ours."""
        sequence, link = head_of(envelope, receipt)
        self._signatures += 1
        key, signature = bytes.fromhex(envelope.key), bytes.fromhex(envelope.signature)
        if not is_head_signed(key, receipt.chain, sequence, link, signature):
            return Defect.EDITED
        return Defect.FOREIGN if receipt.chain != self._chain else Defect.UNATTESTED

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
        return is_head_signed(self._key, receipt.chain, sequence, link, bytes.fromhex(envelope.signature))

    def _appears_later(self, lines: Iterator[bytes]) -> bool:
        """Does the record of this chain that is expected here come further on?"""
        for line in lines:
            try:
                envelope = read_envelope(line.rstrip(b"\r\n"))
                receipt = read_receipt(envelope.body.encode())
            except AdytumError:
                continue
            if receipt.sequence == self._next and receipt.chain == self._chain and self._is_signed(envelope, receipt):
                return True
        return False

    def _check_end(self) -> Problem | None:
        """Records of which a signed head, a checkpoint, or the caller's head says that they exist."""
        short = self._head is not None and self._head.sequence >= self._next
        if self._promised or short or self._awaited or not self._links:
            defect = Defect.TRUNCATED if self._links else Defect.MISSING
            return Problem(defect=defect, position=self._position + 1, sequence=self._next)
        return None

    def _records(self) -> int:
        return len(self._links) // _LINK_SIZE

    def _here(self) -> Head | None:
        if not self._links:
            return None
        return Head(sequence=self._next - 1, link=bytes(self._links[-_LINK_SIZE:]))

    def report(self) -> ChainReport:
        """What was found so far; `problem` is None while everything fits."""
        return ChainReport(
            chain=self._chain or "",
            first_sequence=self._first,
            records=self._records(),
            head=self._here(),
            first_time_ms=self._times[0],
            last_time_ms=self._times[1],
            signatures=self._signatures,
            checkpoints=self._checkpoints,
            newest_checkpoint=self._newest,
            problem=self._problem,
        )


def _is_unsigned(data: bytes) -> bool:
    """Is it an envelope but for its signature, which is absent or empty?"""
    if len(data) > MAX_RECEIPT:
        return False
    try:
        return not msgspec.json.decode(data, type=_Unsigned).signature
    except (ValueError, RecursionError):
        return False
