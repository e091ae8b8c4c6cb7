"""What a usage snapshot says, inside its seal: MessagePack, strict, bounded (spec/usage.md, U-7).

Besides the counters it carries the highest policy version and the head of the receipt chain that its enclave had seen,
so that who keeps the newest snapshot keeps those too.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from adytum_enclave.core.usage.book import Book, Key, Piece
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import ChainId
from adytum_wire.types import Milliseconds

CHARGED_BYTES: Final = 24 * limits.KIB  # of requests remembered, newest first
_PIECE_BYTES: Final = 48  # at most
_DIGEST_BYTES: Final = 40  # with what stands around it

_Amount = Annotated[bytes, Meta(min_length=1, max_length=40)]  # big-endian; amounts of tokens exceed 64 bits
_Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]


class CounterState(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    limit: str
    scope: str
    window_ms: Annotated[int, Meta(ge=1, le=2**40)]
    buckets: list[tuple[Milliseconds, _Amount]]  # (end, amount)


class ChargedState(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    digest: _Digest
    pieces: list[tuple[Annotated[int, Meta(ge=0, le=2**20)], Milliseconds, _Amount]]  # (counter's place, end, amount)


class UsageState(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """`policy_version` 0 and an empty digest: no policy was seen. `head`: link[sequence] of the chain."""

    v: Literal[1]
    policy_version: Annotated[int, Meta(ge=0, le=2**53)]
    policy_digest: Annotated[bytes, Meta(max_length=32)]
    chain: ChainId
    sequence: Annotated[int, Meta(ge=0, le=2**53)]
    head: _Digest
    counters: list[CounterState]
    charged: list[ChargedState]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UsageState)


def export_state(book: Book, now_ms: int, *, policy: tuple[int, bytes], head: tuple[str, int, bytes]) -> bytes:
    """The snapshot's plaintext. Of the requests charged, as many of the newest as fit."""
    counters, charged = book.rest(now_ms)
    place: dict[Key, int] = {key: number for number, (key, _) in enumerate(counters)}
    return _encoder.encode(
        UsageState(
            1,
            policy[0],
            policy[1],
            *head,
            [
                CounterState(*key, counter.window_ms, [(end, _to_bytes(n)) for end, n in counter.buckets.items()])
                for key, counter in counters
            ],
            _newest(charged, place),
        )
    )


def parse_state(data: bytes) -> UsageState:
    """Errors: USAGE_INVALID."""
    try:
        state = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AdytumError(Code.USAGE_INVALID) from None
    if any(at >= len(state.counters) for charged in state.charged for at, _, _ in charged.pieces):
        raise AdytumError(Code.USAGE_INVALID)
    return state


def add_state(book: Book, state: UsageState) -> None:
    """Put the charges of `state` into `book`, beside what is there."""
    keys: list[Key] = [(counter.limit, counter.scope) for counter in state.counters]
    book.add(
        (key, counter.window_ms, [(end, _to_int(amount)) for end, amount in counter.buckets])
        for key, counter in zip(keys, state.counters, strict=True)
    )
    book.remember(
        (charged.digest, [Piece(keys[at], end, _to_int(amount)) for at, end, amount in charged.pieces])
        for charged in state.charged
    )


def _newest(charged: list[tuple[bytes, tuple[Piece, ...]]], place: dict[Key, int]) -> list[ChargedState]:
    found: list[ChargedState] = []
    room = CHARGED_BYTES
    for digest, pieces in reversed(charged):
        kept = [(place[p.key], p.end, _to_bytes(p.amount)) for p in pieces if p.key in place]
        room -= _DIGEST_BYTES + _PIECE_BYTES * len(kept)
        if room < 0:
            break
        found.append(ChargedState(digest, kept))
    return found[::-1]


def _to_bytes(amount: int) -> bytes:
    return amount.to_bytes(max(1, (amount.bit_length() + 7) // 8), "big")


def _to_int(amount: bytes) -> int:
    return int.from_bytes(amount, "big")
