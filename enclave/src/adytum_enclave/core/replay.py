"""Replay memory: (tenant, request id) -> digest of the body, for the length of the time window, bounded.

A request is admitted only after its stamp has verified, so nobody can burn another's request ids. While a request is
under way a repeat is told to wait. A finished one repeats its answer while that is remembered; after that, operations
with a deterministic result are carried out again (same key, same bytes) and the others are refused as replayed.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

A = TypeVar("A")
_Id = tuple[str, str]
_SPARE_AGES = 1024


class Entry(Generic[A]):
    """One admitted request. `answer` is None until `Replay.finish`, and again once it was pushed out of memory."""

    __slots__ = ("answer", "decided", "digest", "identity", "under_way")

    def __init__(self, identity: _Id, digest: bytes) -> None:
        self.identity = identity
        self.digest = digest
        self.answer: A | None = None
        self.under_way = True
        self.decided = False


class Replay(Generic[A]):
    """An entry lives as long as its request could still pass the time check. `window_ms`: that time, for most."""

    def __init__(
        self,
        window_ms: int,
        *,
        max_requests: int = limits.MAX_REMEMBERED_REQUESTS,
        max_answers: int = limits.MAX_REMEMBERED_ANSWERS,
    ) -> None:
        self._window_ms = window_ms
        self._max_requests = max_requests
        self._max_answers = max_answers
        self._entries: dict[_Id, Entry[A]] = {}
        self._ages: list[tuple[int, int, Entry[A]]] = []  # a heap: (lives until, a number that breaks ties, entry)
        self._count = 0
        # Two memories, so that a stream of signatures cannot push out the answers that nothing can make again.
        self._answers: tuple[OrderedDict[_Id, Entry[A]], OrderedDict[_Id, Entry[A]]] = (OrderedDict(), OrderedDict())

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
        may be forgotten, if that is later than a window from now.

        Errors: REQUEST_CONFLICT (other body), RESOURCE_EXHAUSTED (under way, or the memory is full: retry),
        REQUEST_REPLAYED. After an error nothing has changed.
        """
        self._forget_old(now_ms)
        identity = (tenant, request_id)
        known = self._entries.get(identity)
        if known is None:
            if len(self._entries) >= self._max_requests:
                raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=self._window_ms)
            entry: Entry[A] = Entry(identity, digest)
            self._entries[identity] = entry
            self._remember_until(max(now_ms + self._window_ms, lives_until_ms), entry)
            return entry
        if known.digest != digest:
            raise AdytumError(Code.REQUEST_CONFLICT, "$.request_id")
        if known.under_way:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.request_id", retry_after_ms=limits.RETRY_AFTER_MS)
        if known.answer is None:
            if not repeatable:
                raise AdytumError(Code.REQUEST_REPLAYED, "$.request_id")
            known.under_way = True
        return known

    def finish(self, entry: Entry[A], answer: A, *, repeatable: bool) -> None:
        """Remember the final answer of a request that was carried out or denied."""
        entry.under_way = False
        entry.decided = True
        entry.answer = answer
        memory = self._answers[repeatable]
        memory[entry.identity] = entry
        if len(memory) > self._max_answers:
            _, oldest = memory.popitem(last=False)
            oldest.answer = None

    def forget(self, entry: Entry[A]) -> None:
        """The request ended in an error that decided nothing: the same id may be tried again."""
        entry.under_way = False
        if not entry.decided and self._entries.get(entry.identity) is entry:
            del self._entries[entry.identity]

    def _remember_until(self, until_ms: int, entry: Entry[A]) -> None:
        # A request that came to nothing leaves its age behind, for as long as approvals may be waited for: for days.
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
            del self._entries[entry.identity]
            for memory in self._answers:
                memory.pop(entry.identity, None)
