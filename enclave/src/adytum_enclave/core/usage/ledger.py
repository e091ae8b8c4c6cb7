"""The ledger of one enclave shard: how much of each limit is used."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from adytum_policy.usage import Charge, UnknownUsage, Usage
from adytum_wire.receipts import LimitOutcome


class Hold:
    """A reservation. `outcomes`: what the receipt says of it."""

    __slots__ = ("outcomes",)

    def __init__(self) -> None:
        self.outcomes: list[LimitOutcome] = []


class Ledger:
    def view(self, tenant: str, now_ms: int) -> Usage:
        """What is used now, reservations included."""
        return UnknownUsage()

    def reserve(self, tenant: str, charges: Sequence[Charge], digest: bytes, now_ms: int) -> Hold | None:
        """Hold `charges` for the request of `digest` (32 bytes) until `commit` or `give_back`. None without charges."""
        return None

    def commit(self, hold: Hold | None) -> Generator[Any, Any, bytes]:
        """Make the charge last, before anything of the request leaves. Returns the snapshot that the host must store
        with the answer, or b"". Errors: ANCHOR_UNAVAILABLE, LIMIT_EXCEEDED; the hold is given back then."""
        yield from ()
        return b""

    def give_back(self, hold: Hold | None) -> None:
        """The request came to nothing."""
