"""Replay memory: (tenant, request id) -> digest of the body, for the length of the time window, bounded.

A request is admitted only after its stamp has verified, so nobody can burn another's request ids. While a request is
under way a repeat is told to wait. A finished one repeats its answer while that is remembered; after that, operations
with a deterministic result are carried out again (same key, same bytes), what was denied is decided again, and the
others are refused as replayed.

Whoever has a key and no right can make denials without end, so these are kept for the ordinary window and no longer,
never push out an answer that nothing can make again, and fill no more than their tenant's share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from adytum_enclave.core.shares import Shares
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

A = TypeVar("A")
_Id = tuple[str, str]
_SPARE_AGES = 1024


class Entry(Generic[A]):
    """One admitted request. `answer` is None until `Replay.finish`, and again once it was pushed out of memory.
    `lives_until`: 0, or when it may be forgotten if it is carried out and that is later than the window."""

    __slots__ = ("answer", "decided", "denied", "digest", "identity", "lives_until", "size", "under_way")

    def __init__(self, identity: _Id, digest: bytes) -> None:
        self.identity = identity
        self.digest = digest
        self.answer: A | None = None
        self.under_way = True
        self.decided = False
        self.denied = False
        self.lives_until = 0
        self.size = 0  # bytes of the answer, as they are counted


class _Answers(Generic[A]):
    """The last answers, bounded by number and by bytes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._entries: OrderedDict[_Id, Entry[A]] = OrderedDict()
        self._bytes = 0

    def add(self, entry: Entry[A], answer: A, size: int) -> None:
        self.remove(entry)
        entry.answer, entry.size = answer, size
        self._entries[entry.identity] = entry
        self._bytes += size
        while len(self._entries) > self._most or (self._bytes > self._most_bytes and len(self._entries) > 1):
            self.remove(next(iter(self._entries.values())))

    def remove(self, entry: Entry[A]) -> None:
        if self._entries.get(entry.identity) is entry:
            del self._entries[entry.identity]
            self._bytes -= entry.size
            entry.answer = None


class Replay(Generic[A]):
    """An entry lives as long as its request could still pass the time check. `window_ms`: that time, for most.
    `tenants`: how many share the memory. `size_of`: an answer's bytes."""

    def __init__(
        self,
        window_ms: int,
        *,
        tenants: int = 1,
        size_of: Callable[[A], int] = lambda _answer: 0,
        max_requests: int = limits.MAX_REMEMBERED_REQUESTS,
        max_answers: int = limits.MAX_REMEMBERED_ANSWERS,
        max_bytes: int = limits.MAX_REMEMBERED_ANSWER_BYTES,
    ) -> None:
        self._window_ms = window_ms
        self._size_of = size_of
        self._shares = Shares(max_requests, tenants)
        self._entries: dict[_Id, Entry[A]] = {}
        self._ages: list[tuple[int, int, Entry[A]]] = []  # a heap: (lives until, a number that breaks ties, entry)
        self._count = 0
        # Two memories: a stream of signatures or denials must not push out the answers that nothing can make again.
        self._answers: tuple[_Answers[A], _Answers[A]] = (
            _Answers(max_answers, max_bytes),
            _Answers(max_answers, max_bytes),
        )

    def __len__(self) -> int:
        return len(self._entries)

    def admit(
        self,
        tenant: str,
        request_id: str,
        digest: bytes,
        *,
        repeatable: bool,
        now_ms: int,
        lives_until_ms: int = 0,
    ) -> Entry[A]:
        """Return the request's entry: a fresh one, or, with `answer` set, the finished one. `lives_until_ms`: when it
        may be forgotten once it was carried out, if that is later than a window from now.

        Errors: REQUEST_CONFLICT (other body), RESOURCE_EXHAUSTED (under way, or the tenant's share is full: retry),
        REQUEST_REPLAYED. After an error nothing has changed.
        """
        self._forget_old(now_ms)
        identity = (tenant, request_id)
        known = self._entries.get(identity)
        if known is None:
            if not self._shares.take(tenant):
                raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=self._window_ms)
            entry: Entry[A] = Entry(identity, digest)
            entry.lives_until = lives_until_ms
            self._entries[identity] = entry
            self._remember_until(now_ms + self._window_ms, entry)
            return entry
        if known.digest != digest:
            raise AdytumError(Code.REQUEST_CONFLICT, "$.request_id")
        if known.under_way:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.request_id", retry_after_ms=limits.RETRY_AFTER_MS)
        if known.answer is None:
            if not (repeatable or known.denied):
                raise AdytumError(Code.REQUEST_REPLAYED, "$.request_id")
            known.under_way = True
            known.lives_until = max(known.lives_until, lives_until_ms)
        return known

    def finish(self, entry: Entry[A], answer: A, *, repeatable: bool, denied: bool = False) -> None:
        """Remember the final answer of a request that was carried out, or denied by the policy."""
        entry.under_way = False
        entry.decided = True
        entry.denied = denied
        if denied:
            entry.lives_until = 0
        for memory in self._answers:
            memory.remove(entry)
        self._answers[repeatable or denied].add(entry, answer, self._size_of(answer))

    def forget(self, entry: Entry[A]) -> None:
        """The request ended in an error that decided nothing: the same id may be tried again."""
        entry.under_way = False
        if not entry.decided and self._entries.get(entry.identity) is entry:
            self._drop(entry)

    def _drop(self, entry: Entry[A]) -> None:
        del self._entries[entry.identity]
        self._shares.give(entry.identity[0])
        for memory in self._answers:
            memory.remove(entry)

    def _remember_until(self, until_ms: int, entry: Entry[A]) -> None:
        # A request that came to nothing leaves its age behind.
        if len(self._ages) > 2 * len(self._entries) + _SPARE_AGES:
            self._ages = [age for age in self._ages if self._entries.get(age[2].identity) is age[2]]
            heapify(self._ages)
        self._count += 1
        heappush(self._ages, (until_ms, self._count, entry))

    def _forget_old(self, now_ms: int) -> None:
        while self._ages and self._ages[0][0] < now_ms:
            _, _, entry = heappop(self._ages)
            if self._entries.get(entry.identity) is not entry:
                continue
            if entry.under_way:
                self._remember_until(now_ms + self._window_ms, entry)
                continue
            if entry.lives_until >= now_ms:
                self._remember_until(entry.lives_until, entry)
                continue
            self._drop(entry)
