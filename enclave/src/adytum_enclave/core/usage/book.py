"""One tenant's usage in memory: counters of rolling windows, reservations, and which requests were charged already.

A window is kept in buckets of a 64th of its length, and a charge counts until its whole bucket has left the window: up
to a 64th longer than it must, never shorter. Time that steps back frees nothing: the book keeps the latest it saw.

The size is bounded by what the snapshot can carry. Beyond it new charges are refused (RESOURCE_EXHAUSTED).

>>> from adytum_policy.usage import Charge
>>> charge = Charge(limit="daily", scope="tenant", amount=3, max=5, window_ms=64_000)
>>> book = Book()
>>> hold = book.reserve([charge], b"a" * 32, now_ms=0)
>>> book.post(hold, now_ms=0)
>>> book.used(charge, b"b" * 32, now_ms=64_999), book.used(charge, b"b" * 32, now_ms=65_000)
(3, 0)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from adytum_policy.usage import Charge
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import LimitOutcome

BUCKETS: Final = 64  # to a window
MAX_BYTES: Final = 80 * limits.KIB  # of all counters in a snapshot
MAX_CHARGED: Final = 8192  # requests remembered in memory; a snapshot carries fewer
_BUCKET_BYTES: Final = 14  # in a snapshot, without the amount
_COUNTER_BYTES: Final = 24  # without its two names

Key = tuple[str, str]  # limit id, scope


class Piece(NamedTuple):
    """A part of a charge: `amount` in the bucket of `key` that ends at `end` (ms)."""

    key: Key
    end: int
    amount: int


class Counter:
    """`buckets`: end of the bucket (ms) -> amount; `total`: their sum. `held`: the sum of reservations."""

    __slots__ = ("buckets", "held", "total", "window_ms")

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.buckets: dict[int, int] = {}
        self.total = 0
        self.held = 0


class Hold:
    """A reservation. `outcomes`: what the receipt says of it, once it is posted. `is_settled`: the anchor is known to
    hold the charge."""

    __slots__ = (
        "before",
        "bytes",
        "digest",
        "is_open",
        "is_settled",
        "outcomes",
        "owner",
        "parts",
        "posted",
        "refusal",
    )

    def __init__(self, digest: bytes, parts: list[tuple[Charge, int]], size: int) -> None:
        self.digest = digest
        self.parts = parts  # (charge, what of its amount was not charged before)
        self.bytes = size
        self.is_open = True
        self.is_settled = False
        self.posted: list[Piece] = []
        self.before: tuple[Piece, ...] = ()
        self.outcomes: list[LimitOutcome] = []
        self.refusal: AdytumError | None = None
        self.owner: Any = None  # the ledger's note of whose it is


class Book:
    def __init__(self) -> None:
        self._counters: dict[Key, Counter] = {}
        self._charged: OrderedDict[bytes, tuple[Piece, ...]] = OrderedDict()  # by request digest, oldest first
        self._bytes = 0
        self._held_bytes = 0
        self._latest_ms = 0

    def now(self, now_ms: int) -> int:
        """`now_ms`, or the latest time seen if that is later."""
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms

    def used(self, charge: Charge, digest: bytes, now_ms: int) -> int:
        """What of the charge's limit is used or held, without what the request of `digest` was charged itself."""
        now_ms = self.now(now_ms)
        counter = self._counters.get((charge.limit, charge.scope))
        if counter is None:
            return 0
        counter.window_ms = charge.window_ms  # the policy's word; it may have changed
        self._drop_old(counter, now_ms)
        return counter.total + counter.held - self._already(charge, digest, now_ms)

    def reserve(self, charges: Sequence[Charge], digest: bytes, now_ms: int) -> Hold:
        """Hold what the request was not charged before. Errors: LIMIT_EXCEEDED, RESOURCE_EXHAUSTED; nothing is held."""
        now_ms = self.now(now_ms)
        parts = [(charge, self._missing(charge, digest, now_ms)) for charge in charges]
        for charge in charges:
            if self.used(charge, digest, now_ms) + charge.amount > charge.max:
                raise AdytumError(Code.LIMIT_EXCEEDED)
        size = sum(self._cost(charge) for charge, add in parts if add)
        if self._bytes + self._held_bytes + size > MAX_BYTES:
            self._sweep(now_ms)
            if self._bytes + self._held_bytes + size > MAX_BYTES:
                raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.limits", retry_after_ms=limits.RETRY_AFTER_MS)
        hold = Hold(digest, parts, size)
        self._hold(hold)
        return hold

    def release(self, hold: Hold) -> None:
        """Give back what is held. A second call, or one after `post`, does nothing."""
        if hold.is_open and not hold.posted and not hold.outcomes:
            self._unhold(hold)
        hold.is_open = False

    def fits(self, hold: Hold, now_ms: int) -> bool:
        """True when an open hold still fits beside what is charged (other reservations not counted: each is asked)."""
        now_ms = self.now(now_ms)
        for charge, _ in hold.parts:
            counter = self._counters.get((charge.limit, charge.scope))
            if counter is None:
                continue
            self._drop_old(counter, now_ms)
            if counter.total + self._missing(charge, hold.digest, now_ms) > charge.max:
                return False
        return True

    def post(self, hold: Hold, now_ms: int) -> None:
        """Turn the reservation into a charge, at `now_ms`."""
        now_ms = self.now(now_ms)
        self._unhold(hold)
        hold.before = self._charged.get(hold.digest, ())
        hold.posted = []
        hold.outcomes = []
        for charge, _ in hold.parts:
            key = (charge.limit, charge.scope)
            add = self._missing(charge, hold.digest, now_ms)
            if add:
                width = max(1, charge.window_ms // BUCKETS)
                piece = Piece(key, (now_ms // width + 1) * width, add)
                self._counter(key, charge.window_ms).window_ms = charge.window_ms
                self._put(piece)
                hold.posted.append(piece)
            counter = self._counters.get(key)
            used = counter.total if counter is not None else 0
            hold.outcomes.append(
                LimitOutcome(charge.limit, charge.scope, str(charge.amount), str(used), str(charge.max))
            )
        if hold.posted:
            self._remember(hold.digest, (*hold.before, *hold.posted))

    def unpost(self, hold: Hold) -> None:
        """Undo `post`: the reservation stands as before, unless it was released in between."""
        for piece in hold.posted:
            self._take(piece)
        if hold.before:
            self._charged[hold.digest] = hold.before
        else:
            self._charged.pop(hold.digest, None)
        hold.posted, hold.outcomes = [], []
        if hold.is_open:
            self._hold(hold)

    def rest(self, now_ms: int) -> tuple[list[tuple[Key, Counter]], list[tuple[bytes, tuple[Piece, ...]]]]:
        """(counters with charges, requests charged, oldest first), of what is still in a window."""
        self._sweep(self.now(now_ms))
        counters = [(key, counter) for key, counter in self._counters.items() if counter.buckets]
        return counters, list(self._charged.items())

    def add(self, counters: Iterable[tuple[Key, int, Sequence[tuple[int, int]]]]) -> None:
        """Add charges that were made elsewhere: (limit and scope, window in ms, [(bucket's end, amount)])."""
        for key, window_ms, buckets in counters:
            self._counter(key, window_ms)
            for end, amount in buckets:
                self._put(Piece(key, end, amount))

    def remember(self, charged: Iterable[tuple[bytes, Sequence[Piece]]]) -> None:
        """These requests were charged elsewhere; what they were charged is in the counters."""
        for digest, pieces in charged:
            self._remember(digest, (*self._charged.get(digest, ()), *pieces))

    def forget_charges(self) -> None:
        """Drop what is charged; what is held stays."""
        for counter in self._counters.values():
            counter.buckets, counter.total = {}, 0
        self._counters = {key: counter for key, counter in self._counters.items() if counter.held}
        self._bytes = sum(_names(key) for key in self._counters)
        self._charged.clear()

    def entries(self, now_ms: int) -> list[tuple[Key, int, int, int]]:
        """(limit and scope, window in ms, charged, held) of each counter."""
        self._sweep(self.now(now_ms))
        return [(key, c.window_ms, c.total, c.held) for key, c in sorted(self._counters.items())]

    # --- inside

    def _already(self, charge: Charge, digest: bytes, now_ms: int) -> int:
        horizon, key = now_ms - charge.window_ms, (charge.limit, charge.scope)
        return sum(p.amount for p in self._charged.get(digest, ()) if p.key == key and p.end > horizon)

    def _missing(self, charge: Charge, digest: bytes, now_ms: int) -> int:
        return max(0, charge.amount - self._already(charge, digest, now_ms))

    def _counter(self, key: Key, window_ms: int) -> Counter:
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = Counter(window_ms)
            self._bytes += _names(key)
        return counter

    def _cost(self, charge: Charge) -> int:
        """An upper bound of what one more charge adds to the snapshot."""
        key = (charge.limit, charge.scope)
        return _BUCKET_BYTES + _size_of(charge.max) + (0 if key in self._counters else _names(key))

    def _hold(self, hold: Hold) -> None:
        for charge, add in hold.parts:
            if add:
                self._counter((charge.limit, charge.scope), charge.window_ms).held += add
        self._held_bytes += hold.bytes

    def _unhold(self, hold: Hold) -> None:
        for charge, add in hold.parts:
            if add:
                self._counters[charge.limit, charge.scope].held -= add
        self._held_bytes -= hold.bytes

    def _put(self, piece: Piece) -> None:
        counter = self._counters[piece.key]
        old = counter.buckets.get(piece.end)
        self._bytes += _size_of((old or 0) + piece.amount) - (_size_of(old) if old else -_BUCKET_BYTES)
        counter.buckets[piece.end] = (old or 0) + piece.amount
        counter.total += piece.amount

    def _take(self, piece: Piece) -> None:
        counter = self._counters.get(piece.key)
        if counter is None or piece.end not in counter.buckets:
            return  # it has left the window by itself
        old = counter.buckets[piece.end]
        counter.total -= piece.amount
        if old == piece.amount:
            del counter.buckets[piece.end]
            self._bytes -= _size_of(old) + _BUCKET_BYTES
        else:
            counter.buckets[piece.end] = old - piece.amount
            self._bytes += _size_of(old - piece.amount) - _size_of(old)

    def _remember(self, digest: bytes, pieces: tuple[Piece, ...]) -> None:
        self._charged[digest] = pieces
        self._charged.move_to_end(digest)
        if len(self._charged) > MAX_CHARGED:
            self._charged.popitem(last=False)  # if it comes again it is charged again: the strict side

    def _drop_old(self, counter: Counter, now_ms: int) -> None:
        horizon = now_ms - counter.window_ms
        for end in [end for end in counter.buckets if end <= horizon]:
            amount = counter.buckets.pop(end)
            counter.total -= amount
            self._bytes -= _size_of(amount) + _BUCKET_BYTES

    def _sweep(self, now_ms: int) -> None:
        """Drop everything that no window holds any more."""
        for key, counter in list(self._counters.items()):
            self._drop_old(counter, now_ms)
            if not counter.buckets and not counter.held:
                del self._counters[key]
                self._bytes -= _names(key)
        for digest, pieces in list(self._charged.items()):
            if not any(p.key in self._counters and p.end in self._counters[p.key].buckets for p in pieces):
                del self._charged[digest]


def _names(key: Key) -> int:
    return len(key[0]) + len(key[1]) + _COUNTER_BYTES


def _size_of(amount: int) -> int:
    """Bytes of an amount in a snapshot."""
    return max(1, (amount.bit_length() + 7) // 8)
