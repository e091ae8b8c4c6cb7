"""Checkpoints: the head of a receipt chain at a moment, signed (spec/receipts.md).

Whoever keeps one elsewhere notices later that a chain was cut or begun anew.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adytum_wire import strict_json
from adytum_wire.errors import Code
from adytum_wire.receipts import ChainId
from adytum_wire.types import Hex32, Milliseconds

_MAX = 4096  # bytes


class CheckpointBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`head`: link[sequence] of the chain; 32 zero bytes for an empty one."""

    v: Literal[1] = 1
    chain: ChainId
    sequence: Annotated[int, Meta(ge=0, le=2**53)]
    head: Hex32
    time: Milliseconds


class CheckpointEnvelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`body`: the JSON text exactly as signed, over pae(CHECKPOINT, body), by the receipt key `key` (Ed25519)."""

    body: str
    key: Hex32
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]


def parse_checkpoint(body: bytes) -> CheckpointBody:
    """Errors: RECEIPT_INVALID."""
    return strict_json.decode(body, CheckpointBody, limit=_MAX, code=Code.RECEIPT_INVALID)


def parse_checkpoint_envelope(data: bytes) -> CheckpointEnvelope:
    """Errors: RECEIPT_INVALID."""
    return strict_json.decode(data, CheckpointEnvelope, limit=_MAX, code=Code.RECEIPT_INVALID)
