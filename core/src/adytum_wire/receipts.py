"""Receipts: what was decided, signed and chained (spec/receipts.md).

    link[0] = 32 zero bytes;  link[n] = SHA-256("adytum/receipt-link/v1" || link[n-1] || SHA-256(body[n]))

The enclave signs *heads*, `pae(RECEIPT_HEAD, chain || u64 sequence || link)`, once for each group of receipts that are
ready together. A receipt travels with the body hashes between it and its group's head, so that each verifies alone.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from adytum_wire import strict_json
from adytum_wire.errors import Code
from adytum_wire.pae import RECEIPT_HEAD, pae
from adytum_wire.types import Hex, Hex32, Milliseconds, sha256

GENESIS = bytes(32)
MAX_RECEIPT = 128 * 1024
MAX_MISSING = 32  # names in one `Wanted`
MAX_WANTED = 16  # rules that a receipt says are waiting
MAX_WANTED_NAMES = 128  # of people, in all of them
MAX_APPROVAL_OUTCOMES = 64
_LINK = b"adytum/receipt-link/v1"

ChainId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class RuleOutcome(Struct, frozen=True, forbid_unknown_fields=True):
    """`outcome`: "allow", "deny", or the name of the first condition that did not match."""

    rule: str
    outcome: str


class ApprovalOutcome(Struct, frozen=True, forbid_unknown_fields=True):
    """`digest`: SHA-256 of the statement that `principal` signed. `outcome`: "approve", "reject", or why it did not
    count: "expired", "policy-version", "initiator", "role", "again" (its principal had counted already)."""

    principal: str
    digest: Hex32
    outcome: str


class Wanted(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an allow rule that matches still lacks: `count` people with `role`; `counted` have approved, all of them;
    `missing` are those who could, at most `MAX_MISSING`; `others`: how many more could, whom there was no room to name.

    A receipt lists the first rules that wait, `MAX_WANTED` and `MAX_WANTED_NAMES` of people at most. Any other has the
    outcome "approvals" in `Receipt.rules` and is not listed."""

    rule: str
    role: str
    count: int
    counted: tuple[str, ...]
    missing: tuple[str, ...]
    others: Annotated[int, Meta(ge=0)]


class LimitOutcome(Struct, frozen=True, forbid_unknown_fields=True):
    """What was charged. Amounts in decimal, in the smallest unit of the limit's asset; `used` includes `amount`."""

    limit: str
    scope: str
    amount: str
    used: str
    max: str


class Receipt(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a receipt. Empty strings and 0 where a field does not apply. `omitted`: parts that were cut or left
    out because no receipt may be larger than `MAX_RECEIPT`; empty in all but the most extreme cases."""

    v: Literal[1] = 1
    chain: ChainId  # boot id of the enclave shard
    sequence: Annotated[int, Meta(ge=1, le=2**53)]
    previous: Hex32  # link[sequence - 1]
    time: Milliseconds
    tenant: str
    principal: str
    request_id: str
    operation: str
    request_digest: Hex32
    decision: Literal["allow", "deny", "error"]
    code: str  # "" when carried out, else the error code that was answered
    rules: list[RuleOutcome]
    approvals: list[ApprovalOutcome]
    wanted: list[Wanted]  # with APPROVALS_MISSING
    limits: list[LimitOutcome]
    policy_version: int
    policy_digest: Hex
    key_id: str
    record_version: int
    public_key: Hex
    summary: dict[str, str]
    result_digest: Hex
    omitted: list[Literal["rules", "approvals", "wanted", "limits", "summary"]] = []


class ReceiptEnvelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`body`: the receipt's JSON text, exactly as hashed. `following`: body hashes up to the head, oldest first.
    `signature`: Ed25519 by `key`, over the head that results."""

    body: str
    following: list[Hex32]
    key: Hex32
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]


def next_link(link: bytes, body_hash: bytes) -> bytes:
    return hashlib.sha256(_LINK + link + body_hash).digest()


def head_bytes(chain: str, sequence: int, link: bytes) -> bytes:
    """The bytes that the receipt key signs for the head (chain, sequence, link)."""
    return pae(RECEIPT_HEAD, bytes.fromhex(chain) + sequence.to_bytes(8, "big") + link)


def parse_receipt(body: bytes) -> Receipt:
    """Errors: RECEIPT_INVALID."""
    return strict_json.decode(body, Receipt, limit=MAX_RECEIPT, code=Code.RECEIPT_INVALID)


def parse_envelope(data: bytes) -> ReceiptEnvelope:
    """Errors: RECEIPT_INVALID."""
    return strict_json.decode(data, ReceiptEnvelope, limit=MAX_RECEIPT, code=Code.RECEIPT_INVALID)


def head_of(envelope: ReceiptEnvelope, receipt: Receipt) -> tuple[int, bytes]:
    """(sequence, link) of the head that the envelope's signature covers."""
    link = next_link(bytes.fromhex(receipt.previous), sha256(envelope.body.encode()))
    for body_hash in envelope.following:
        link = next_link(link, bytes.fromhex(body_hash))
    return receipt.sequence + len(envelope.following), link


def encode(value: Receipt | ReceiptEnvelope | Any) -> bytes:
    return strict_json.encode(value)
