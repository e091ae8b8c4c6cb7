"""The second envelope of a record, for the day on which KMS or the enclave is gone (spec/envelope.md, E-9 on).

The secret is sealed under a random key, and that key is sealed to each set of `threshold` holders, one HPKE inside
another: who holds fewer keys meets a layer that does not open. Nothing here is new cryptography, and nothing is secret.

    share of {a, b, c} = HPKE(a, HPKE(b, HPKE(c, key)))         a < b < c, places in `keys`

The number of sets bounds how many holders there can be: `is_small_enough`.

>>> subsets(3, 2)
[(0, 1), (0, 2), (1, 2)]
>>> is_small_enough(5, 3), is_small_enough(16, 8)
(True, False)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

KEY_SIZE = 32  # bytes, of the recovery key and of a holder's X25519 key
LAYER = 48  # bytes that each HPKE adds: the encapsulated key and the tag
_BINDING = b"adytum/recovery/v1\0"


class RecoveryEnvelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`header`: the record's, as it stands in the record. `keys`: the holders', in the policy's order. `sealed`: as
    `ciphertext_blob`, with the recovery key for a data key and `bound_header` for a header. `shares`: the recovery key
    for each of `subsets`, in that order."""

    v: Literal[1] = 1
    header: Annotated[bytes, Meta(min_length=2, max_length=limits.MAX_RECORD_HEADER)]
    threshold: Annotated[int, Meta(ge=2, le=16)]
    keys: Annotated[tuple[Annotated[bytes, Meta(min_length=KEY_SIZE, max_length=KEY_SIZE)], ...], Meta(max_length=16)]
    sealed: Annotated[bytes, Meta(max_length=limits.MAX_SECRET + 64)]
    shares: Annotated[tuple[bytes, ...], Meta(max_length=limits.MAX_RECOVERY_SHARES)]


def bound_header(header: bytes) -> bytes:
    """What stands for the header where the secret is sealed: a recovery blob is no record's blob, nor the other way."""
    return _BINDING + header


def layer_info(header: bytes, holders: Sequence[int], layer: int) -> bytes:
    """HPKE info of layer `layer` (0 is the outermost) of the share of `holders`."""
    return _BINDING + sha256(header) + bytes(holders) + b"\0" + bytes([layer])


def subsets(holders: int, threshold: int) -> list[tuple[int, ...]]:
    """Every set of `threshold` places below `holders`, in order."""
    return list(itertools.combinations(range(holders), threshold))


def share_size(threshold: int) -> int:
    return KEY_SIZE + threshold * LAYER


def is_small_enough(holders: int, threshold: int) -> bool:
    """True when all shares fit: `limits.MAX_RECOVERY_SHARES` of them, `limits.MAX_RECOVERY_BYTES` in all."""
    count = math.comb(holders, threshold)
    return count <= limits.MAX_RECOVERY_SHARES and count * share_size(threshold) <= limits.MAX_RECOVERY_BYTES


_decoder = msgspec.msgpack.Decoder(RecoveryEnvelope)
_encoder = msgspec.msgpack.Encoder()


def encode_recovery(envelope: RecoveryEnvelope) -> bytes:
    return _encoder.encode(envelope)


def parse_recovery(data: bytes) -> RecoveryEnvelope:
    """Errors: RECORD_INVALID, also for sizes that do not fit together and for what re-encodes to other bytes."""
    try:
        envelope = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AdytumError(Code.RECORD_INVALID) from None
    holders, threshold = len(envelope.keys), envelope.threshold
    if (
        threshold > holders
        or len(set(envelope.keys)) != holders
        or not is_small_enough(holders, threshold)
        or len(envelope.shares) != math.comb(holders, threshold)
        or any(len(share) != share_size(threshold) for share in envelope.shares)
        or encode_recovery(envelope) != data
    ):
        raise AdytumError(Code.RECORD_INVALID, "$.shares")
    return envelope
