"""Verify a checkpoint: what an enclave signed about where its chain stood (format: `adytum_wire.checkpoints`).

A checkpoint that you hold from elsewhere than the chain (the second copy, an earlier audit) is what shows that a chain
was cut off at its end, or begun anew.

    found = verify_checkpoint(envelope, receipt_key=key)
    print(found.chain, found.sequence)
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_wire import signatures
from adytum_wire.checkpoints import parse_checkpoint, parse_checkpoint_envelope
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import CHECKPOINT, pae
from adytum_wire.receipts import GENESIS
from adytum_wire.types import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`link` (32 bytes) was link[sequence] of `chain` at `time_ms` (ms, the enclave's clock)."""

    chain: str
    sequence: int
    link: bytes
    time_ms: int


def verify_checkpoint(envelope: bytes, *, receipt_key: bytes) -> Checkpoint:
    """Verify one checkpoint envelope (JSON bytes) by the attested `receipt_key` (Ed25519, 32 bytes).

    Errors: RECEIPT_INVALID; `field` says what failed: `$.key` another key, `$.signature`, or the place in the JSON.
    """
    parts = parse_checkpoint_envelope(envelope)
    if parts.key != receipt_key.hex() or not signatures.is_public_key(Scheme.ED25519, receipt_key):
        raise AdytumError(Code.RECEIPT_INVALID, "$.key")
    body = parts.body.encode()
    if not signatures.is_valid(Scheme.ED25519, receipt_key, pae(CHECKPOINT, body), bytes.fromhex(parts.signature)):
        raise AdytumError(Code.RECEIPT_INVALID, "$.signature")
    found = parse_checkpoint(body)
    link = bytes.fromhex(found.head)
    if (found.sequence == 0) != (link == GENESIS):
        raise AdytumError(Code.RECEIPT_INVALID, "$.body.head")
    return Checkpoint(chain=found.chain, sequence=found.sequence, link=link, time_ms=found.time)


def claimed_chain(envelope: bytes) -> str:
    """The chain that a checkpoint names; nothing is verified. Errors: RECEIPT_INVALID when it is none."""
    return parse_checkpoint(parse_checkpoint_envelope(envelope).body.encode()).chain
