"""Replay memory, as a state machine against a model that keeps everything for ever."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from adytum_enclave.core.replay import Entry, Replay
from adytum_wire.errors import AdytumError, Code

WINDOW = 1000


def code_of(replay: Replay[str], request: str, digest: bytes, *, repeatable: bool = True, now: int = 0) -> Code | str:
    try:
        entry = replay.admit("acme", request, digest, repeatable=repeatable, now_ms=now)
    except AdytumError as error:
        return error.code
    return entry.answer or "fresh"


def finished(replay: Replay[str], request: str, *, repeatable: bool, now: int = 0) -> Entry[str]:
    entry = replay.admit("acme", request, b"d", repeatable=repeatable, now_ms=now)
    replay.finish(entry, f"answer to {request}", repeatable=repeatable)
    return entry


def test_a_repeat_gets_the_answer_and_another_body_a_conflict() -> None:
    replay: Replay[str] = Replay(WINDOW)
    finished(replay, "one", repeatable=False)
    assert code_of(replay, "one", b"d", repeatable=False) == "answer to one"
    assert code_of(replay, "one", b"other") is Code.REQUEST_CONFLICT


def test_a_repeat_while_under_way_waits() -> None:
    replay: Replay[str] = Replay(WINDOW)
    replay.admit("acme", "one", b"d", repeatable=True, now_ms=0)
    assert code_of(replay, "one", b"d") is Code.RESOURCE_EXHAUSTED
    assert code_of(replay, "one", b"other") is Code.REQUEST_CONFLICT


def test_an_error_frees_the_id_but_a_rerun_that_fails_does_not() -> None:
    replay: Replay[str] = Replay(WINDOW, max_answers=1)
    entry = replay.admit("acme", "one", b"d", repeatable=True, now_ms=0)
    replay.forget(entry)
    assert code_of(replay, "one", b"other") == "fresh"
    replay = Replay(WINDOW, max_answers=1)
    finished(replay, "one", repeatable=True)
    finished(replay, "two", repeatable=True)  # pushes the answer of "one" out
    again = replay.admit("acme", "one", b"d", repeatable=True, now_ms=0)
    assert again.answer is None
    replay.forget(again)
    assert code_of(replay, "one", b"other") is Code.REQUEST_CONFLICT


def test_requests_that_came_to_nothing_leave_no_memory_behind() -> None:
    """Somebody with a key could send a request with a bad approval again and again, each remembered for a day."""
    replay: Replay[str] = Replay(WINDOW)
    kept = finished(replay, "kept", repeatable=False)
    for _ in range(5000):
        entry = replay.admit("acme", "one", b"d", repeatable=False, now_ms=0, lives_until_ms=86_400_000)
        replay.forget(entry)
    assert len(replay._ages) <= 1100
    assert code_of(replay, "kept", b"d", repeatable=False) == kept.answer
    assert code_of(replay, "kept", b"d", repeatable=False, now=WINDOW + 1) == "fresh"


def test_what_cannot_be_made_again_is_refused_once_forgotten_and_signatures_cannot_push_it_out() -> None:
    replay: Replay[str] = Replay(WINDOW, max_answers=2)
    finished(replay, "key", repeatable=False)
    for n in range(10):
        finished(replay, f"signature-{n}", repeatable=True)
    assert code_of(replay, "key", b"d", repeatable=False) == "answer to key"
    finished(replay, "key-2", repeatable=False)
    finished(replay, "key-3", repeatable=False)
    assert code_of(replay, "key", b"d", repeatable=False) is Code.REQUEST_REPLAYED


def test_entries_live_for_the_window_and_no_longer() -> None:
    replay: Replay[str] = Replay(WINDOW)
    finished(replay, "one", repeatable=False)
    assert code_of(replay, "one", b"other", now=WINDOW) is Code.REQUEST_CONFLICT
    assert code_of(replay, "one", b"other", now=WINDOW + 1) == "fresh"
    assert len(replay) == 1


def test_the_memory_is_bounded_and_says_so() -> None:
    replay: Replay[str] = Replay(WINDOW, max_requests=3)
    for n in range(3):
        finished(replay, str(n), repeatable=True)
    assert code_of(replay, "more", b"d") is Code.RESOURCE_EXHAUSTED
    assert code_of(replay, "more", b"d", now=WINDOW + 1) == "fresh"


def fill(replay: Replay[str], tenant: str, most: int, *, denied: bool = False, lives_until_ms: int = 0) -> int:
    """Requests of `tenant` until one is refused; how many were taken."""
    for n in range(most):
        try:
            entry = replay.admit(tenant, f"{n}", b"d", repeatable=False, now_ms=0, lives_until_ms=lives_until_ms)
        except AdytumError as error:
            assert error.code is Code.RESOURCE_EXHAUSTED
            return n
        replay.finish(entry, "x", repeatable=False, denied=denied)
    return most


@pytest.mark.parametrize("tenants", [2, 7, 500])
def test_one_tenant_cannot_fill_the_memory_that_all_share(tenants: int) -> None:
    replay: Replay[str] = Replay(WINDOW, tenants=tenants, max_requests=1000)
    assert fill(replay, "mallory", 2000, lives_until_ms=86_400_000) < 1000
    own = 1000 // (2 * tenants)
    for n in range(1, tenants):
        assert fill(replay, f"tenant-{n}", own) == own
    assert len(replay) <= 1000


def test_room_that_was_given_back_can_be_taken_again() -> None:
    replay: Replay[str] = Replay(WINDOW, tenants=3, max_requests=100)
    for at in range(5):
        now = at * (WINDOW + 1)
        for n in range(67):  # 16 of its own and 52 that are common
            entry = replay.admit("acme", f"{n}", b"d", repeatable=True, now_ms=now)
            replay.finish(entry, "x", repeatable=True)
        assert len(replay) == 67
    for n in range(40):  # and what comes to nothing takes none
        replay.forget(replay.admit("acme", f"not-{n}", b"d", repeatable=True, now_ms=now))
    assert code_of(replay, "more", b"d", now=now) == "fresh"


def test_denials_are_kept_for_the_window_and_no_longer_whatever_approvals_could_come() -> None:
    """A principal without rights, and a rule that asks approvals: what it was denied stood here for days."""
    replay: Replay[str] = Replay(WINDOW, max_requests=50)
    assert fill(replay, "acme", 50, denied=True, lives_until_ms=86_400_000) == 50
    assert code_of(replay, "more", b"d") is Code.RESOURCE_EXHAUSTED
    assert code_of(replay, "0", b"d", repeatable=False) == "x"
    assert code_of(replay, "0", b"other") is Code.REQUEST_CONFLICT
    assert code_of(replay, "more", b"d", now=WINDOW + 1) == "fresh"
    assert len(replay) == 1


def test_what_was_carried_out_lives_as_long_as_it_could_come_again_even_after_a_denial() -> None:
    """Denied first, pushed out, decided again and carried out: from then on it must not happen twice."""
    replay: Replay[str] = Replay(WINDOW, max_answers=1)
    entry = replay.admit("acme", "one", b"d", repeatable=False, now_ms=0, lives_until_ms=86_400_000)
    replay.finish(entry, "no", repeatable=False, denied=True)
    finished(replay, "two", repeatable=True)  # pushes the denial's answer out
    again = replay.admit("acme", "one", b"d", repeatable=False, now_ms=WINDOW, lives_until_ms=86_400_000)
    assert again.answer is None
    replay.finish(again, "made", repeatable=False)
    assert code_of(replay, "one", b"d", repeatable=False, now=80_000_000) == "made"
    for n in range(2):
        finished(replay, f"key-{n}", repeatable=False)
    assert code_of(replay, "one", b"d", repeatable=False, now=80_000_001) is Code.REQUEST_REPLAYED
    assert code_of(replay, "one", b"d", repeatable=False, now=86_400_001) == "fresh"


def test_denials_push_out_no_answer_that_nothing_can_make_again() -> None:
    replay: Replay[str] = Replay(WINDOW, max_answers=2)
    finished(replay, "key", repeatable=False)
    fill(replay, "mallory", 10, denied=True)
    assert code_of(replay, "key", b"d", repeatable=False) == "answer to key"


@pytest.mark.parametrize("repeatable", [True, False])
def test_answers_are_bounded_by_bytes(repeatable: bool) -> None:
    replay: Replay[str] = Replay(WINDOW, size_of=len, max_bytes=1000)
    entries = []
    for n in range(50):
        entry = replay.admit("acme", f"{n}", b"d", repeatable=repeatable, now_ms=0)
        replay.finish(entry, "x" * 300, repeatable=repeatable)
        entries.append(entry)
    assert [entry.answer is not None for entry in entries] == [False] * 47 + [True] * 3
    huge = replay.admit("acme", "huge", b"d", repeatable=repeatable, now_ms=0)
    replay.finish(huge, "x" * 5000, repeatable=repeatable)
    assert huge.answer  # the last is kept in any case: it is about to be asked for
    assert sum(entry.answer is not None for entry in entries) == 0


class Model(RuleBasedStateMachine):
    """For a window from its admission an id belongs to its first body, whatever happens in between. (After that the
    first body would not pass the time check any more.)"""

    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.replay: Replay[str] = Replay(WINDOW, max_requests=20, max_answers=2)
        self.now = 0
        self.decided: dict[str, tuple[bytes, int]] = {}

    @rule(target=entries, request=st.sampled_from("abcdef"), digest=st.sampled_from([b"x", b"y"]), again=st.booleans())
    def admit(self, request: str, digest: bytes, again: bool) -> tuple[Entry[str], bool, int] | None:
        try:
            entry = self.replay.admit("acme", request, digest, repeatable=again, now_ms=self.now)
        except AdytumError as error:
            assert error.code in (Code.REQUEST_CONFLICT, Code.RESOURCE_EXHAUSTED, Code.REQUEST_REPLAYED)
            return None
        known = self.decided.get(request)
        if known is not None and self.now <= known[1]:
            assert known[0] == digest
        if entry.answer is not None:
            assert entry.answer == f"{request}/{digest!r}"
            return None
        return entry, again, self.now

    @rule(handle=entries, ok=st.booleans())
    def end(self, handle: tuple[Entry[str], bool, int] | None, ok: bool) -> None:
        if handle is None or not handle[0].under_way:
            return
        entry, again, admitted = handle
        request = entry.identity[1]
        if ok:
            self.replay.finish(entry, f"{request}/{entry.digest!r}", repeatable=again)
            self.decided.setdefault(request, (entry.digest, admitted))
        else:
            self.replay.forget(entry)

    @rule(by=st.integers(0, WINDOW))
    def wait(self, by: int) -> None:
        self.now += by
        self.decided = {r: (d, t) for r, (d, t) in self.decided.items() if self.now <= t}

    @invariant()
    def bounded(self) -> None:
        assert len(self.replay) <= 20


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestReplayModel = Model.TestCase


@pytest.mark.parametrize("again", [True, False])
def test_a_finished_entry_is_found_in_its_own_memory(again: bool) -> None:
    replay: Replay[str] = Replay(WINDOW)
    entry = finished(replay, "one", repeatable=again)
    assert entry.decided
    assert not entry.under_way
