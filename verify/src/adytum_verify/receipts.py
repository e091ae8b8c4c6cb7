"""Verify one receipt, by itself, offline (format: `adytum_wire.receipts`).

A receipt proves what an enclave decided, and in which order, to whoever holds the enclave's receipt key; that key comes
from a verified attestation document (`verify_enclave(...).binding.receipt_key`).

    verified = verify_receipt(envelope, receipt_key=bytes.fromhex(enclave.binding.receipt_key))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from adytum_wire import signatures, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import (
    GENESIS,
    MAX_RECEIPT,
    Receipt,
    ReceiptEnvelope,
    head_bytes,
    head_of,
    parse_envelope,
    parse_receipt,
)
from adytum_wire.types import Scheme

T = TypeVar("T")
_ENVELOPE: Final = msgspec.json.Decoder(ReceiptEnvelope, strict=True)
_RECEIPT: Final = msgspec.json.Decoder(Receipt, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReceipt:
    """`key`: the Ed25519 key (32 bytes) that signed. The signature covers the head (`head_sequence`, `head_link`)."""

    receipt: Receipt
    key: bytes
    head_sequence: int
    head_link: bytes


def verify_receipt(envelope: bytes, *, receipt_key: bytes | None = None) -> VerifiedReceipt:
    """Verify one receipt envelope (JSON bytes as the service gave them).

    `receipt_key`: the key (32 bytes) that must have signed. WITHOUT IT the receipt is only consistent with the key that
    it names itself, which anybody can make: compare `key` of the result with an attested one before you believe it.
    Errors: AdytumError RECEIPT_INVALID; `field` says what failed.
    """
    parts = read_envelope(envelope)
    key = bytes.fromhex(parts.key)
    if receipt_key is not None and key != receipt_key:
        raise AdytumError(Code.RECEIPT_INVALID, "$.key")
    if not signatures.is_public_key(Scheme.ED25519, key):  # under a key of small order anybody signs anything
        raise AdytumError(Code.RECEIPT_INVALID, "$.key")
    receipt = read_receipt(parts.body.encode())
    if receipt.sequence == 1 and bytes.fromhex(receipt.previous) != GENESIS:
        raise AdytumError(Code.RECEIPT_INVALID, "$.body.previous")
    sequence, link = head_of(parts, receipt)
    if not is_head_signed(key, receipt.chain, sequence, link, bytes.fromhex(parts.signature)):
        raise AdytumError(Code.RECEIPT_INVALID, "$.signature")
    return VerifiedReceipt(receipt=receipt, key=key, head_sequence=sequence, head_link=link)


def is_head_signed(key: bytes, chain: str, sequence: int, link: bytes, signature: bytes) -> bool:
    """True when `signature` (64 bytes) by the Ed25519 `key` (32 bytes) covers this head."""
    return signatures.is_valid(Scheme.ED25519, key, head_bytes(chain, sequence, link), signature)


def read_envelope(data: bytes) -> ReceiptEnvelope:
    """As `parse_envelope`, four times as fast for what our enclave writes. Errors: RECEIPT_INVALID."""
    return _canonical(_ENVELOPE, data) or parse_envelope(data)


def read_receipt(body: bytes) -> Receipt:
    """As `parse_receipt`, four times as fast for what our enclave writes. Errors: RECEIPT_INVALID."""
    return _canonical(_RECEIPT, body) or parse_receipt(body)


def _canonical(decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """The value of bytes that it encodes to again, exactly: such bytes have one reading, so nothing that strict JSON
    refuses (a key twice, a float, an escape that stands for nothing) can be in them. None: have a closer look."""
    if len(data) > MAX_RECEIPT:
        return None
    try:
        value: Any = decoder.decode(data)
        return value if strict_json.encode(value) == data else None
    except (ValueError, RecursionError):  # msgspec.DecodeError, UnicodeError
        return None
