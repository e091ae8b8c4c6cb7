"""One tenant's book: windows, reservations, charged once, bounded; against an exact model of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adytum_enclave.core.usage.book import BUCKETS, MAX_BYTES, MAX_CHARGED, Book, Hold
from adytum_enclave.core.usage.state import add_state, export_state, parse_state
from adytum_policy.usage import Charge
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

WINDOW = 64_000


def charge(amount: int = 1, *, most: int = 10, limit: str = "daily", scope: str = "tenant") -> Charge:
    return Charge(limit=limit, scope=scope, amount=amount, max=most, window_ms=WINDOW)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def spend(book: Book, number: int, now_ms: int, amount: int = 1, **options: object) -> Hold:
    hold = book.reserve([charge(amount, **options)], digest(number), now_ms)  # type: ignore[arg-type]
    book.post(hold, now_ms)
    return hold


def test_a_charge_counts_until_its_whole_bucket_has_left() -> None:
    book = Book()
    width = WINDOW // BUCKETS
    spend(book, 1, 500)
    assert book.used(charge(), digest(9), 500 + WINDOW) == 1, "it is just inside"
    assert book.used(charge(), digest(9), width + WINDOW - 1) == 1
    assert book.used(charge(), digest(9), width + WINDOW) == 0


def test_reservations_count_and_are_given_back() -> None:
    book = Book()
    hold = book.reserve([charge(7)], digest(1), 0)
    assert book.used(charge(), digest(2), 0) == 7
    with pytest.raises(AdytumError) as caught:
        book.reserve([charge(4)], digest(2), 0)
    assert caught.value.code is Code.LIMIT_EXCEEDED
    book.release(hold)
    book.release(hold)
    assert book.entries(0) == []
    spend(book, 2, 0, 10)
    assert book.entries(0) == [(("daily", "tenant"), WINDOW, 10, 0)]


def test_what_was_posted_is_not_given_back() -> None:
    book = Book()
    hold = spend(book, 1, 0, 4)
    book.release(hold)
    assert book.used(charge(), digest(2), 0) == 4
    assert (hold.outcomes[0].amount, hold.outcomes[0].used, hold.outcomes[0].max) == ("4", "4", "10")


def test_the_same_request_is_charged_once() -> None:
    book = Book()
    for _ in range(10):
        assert spend(book, 1, 1000, 6).outcomes[0].used == "6"
    assert book.used(charge(), digest(1), 1000) == 0, "it does not stand in its own way"
    assert book.used(charge(), digest(2), 1000) == 6


def test_a_request_that_repeats_after_its_charge_has_left_is_charged_again() -> None:
    book = Book()
    spend(book, 1, 0, 6)
    assert spend(book, 1, 10 * WINDOW, 6).outcomes[0].used == "6"
    assert book.used(charge(), digest(2), 10 * WINDOW) == 6


def test_a_request_whose_amount_grew_under_another_policy_is_charged_the_difference() -> None:
    book = Book()
    spend(book, 1, 0, 2)
    spend(book, 1, WINDOW // 2, 5)
    assert book.used(charge(), digest(2), WINDOW // 2) == 5
    assert book.used(charge(), digest(1), WINDOW + 1_000) == 0, "the older part has left; the rest is its own"
    assert book.used(charge(), digest(2), WINDOW + 1_000) == 3


def test_a_clock_that_steps_back_frees_nothing() -> None:
    book = Book()
    spend(book, 1, 10 * WINDOW, 10)
    for now_ms in (10 * WINDOW, 9 * WINDOW, 5 * WINDOW, 0):
        assert book.used(charge(), digest(2), now_ms) == 10
    later = spend(book, 3, 0, 1, most=20)  # charged at the latest time that was seen
    assert later.posted[0].end > 10 * WINDOW


def test_undoing_a_charge_leaves_the_reservation() -> None:
    book = Book()
    spend(book, 1, 0, 3)
    hold = book.reserve([charge(4)], digest(2), 0)
    book.post(hold, 0)
    book.unpost(hold)
    assert book.entries(0) == [(("daily", "tenant"), WINDOW, 3, 4)]
    book.release(hold)
    assert book.entries(0) == [(("daily", "tenant"), WINDOW, 3, 0)]
    assert book.used(charge(), digest(2), 0) == 3, "not remembered as charged"


def test_undoing_a_charge_that_was_given_up_holds_nothing() -> None:
    book = Book()
    hold = book.reserve([charge(4)], digest(2), 0)
    book.post(hold, 0)
    book.release(hold)  # its caller went away while the charge was being written
    book.unpost(hold)
    assert book.entries(0) == []


def test_a_shorter_window_of_a_new_policy_is_looked_through_at_once() -> None:
    book = Book()
    spend(book, 1, 0, 5)
    short = Charge(limit="daily", scope="tenant", amount=1, max=10, window_ms=6_400)
    assert book.used(short, digest(2), 10_000) == 0


def test_the_book_is_bounded_and_says_so() -> None:
    book = Book()
    number = 0
    with pytest.raises(AdytumError) as caught:
        while True:
            number += 1
            spend(book, number, number, 10**30, most=10**77, scope=f"key:key-{number:032x}")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert number > 500
    assert book._bytes <= MAX_BYTES
    plain = export_state(book, number, policy=(1, bytes(32)), head=("0" * 32, 0, bytes(32)))
    assert len(plain) < limits.MAX_USAGE_SNAPSHOT - 8_192
    again = Book()
    add_state(again, parse_state(plain))
    assert again.entries(number) == book.entries(number)
    spend(book, number, number + 2 * WINDOW, 1, scope="key:other")  # room again, once the windows have passed
    assert len(book.entries(number + 2 * WINDOW)) == 1


def test_memory_of_charged_requests_is_bounded() -> None:
    book = Book()
    for number in range(MAX_CHARGED + 10):
        spend(book, number, 0, most=10**9)
    assert len(book._charged) == MAX_CHARGED
    assert book.used(charge(), digest(0), 0) == MAX_CHARGED + 10, "forgotten: it would be charged again"


def test_a_snapshot_carries_counters_and_the_newest_requests() -> None:
    book = Book()
    for number in range(2_000):
        spend(book, number, number, 2**70, most=2**90)
    state = parse_state(export_state(book, 2_000, policy=(3, b"p" * 32), head=("a" * 32, 7, b"h" * 32)))
    assert (state.policy_version, state.policy_digest, state.sequence) == (3, b"p" * 32, 7)
    assert 100 < len(state.charged) < 2_000
    again = Book()
    add_state(again, state)
    whole = Charge(limit="daily", scope="tenant", amount=2**70, max=2**90, window_ms=WINDOW)
    assert again.used(whole, digest(5_000), 2_000) == 2_000 * 2**70
    assert again.used(whole, digest(1_999), 2_000) == 1_999 * 2**70


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x90", b"\xc1", b"\x98" * 200, b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        parse_state(data)
    assert caught.value.code is Code.USAGE_INVALID


class Interleavings(RuleBasedStateMachine):
    """Requests reserve, post, undo and give up in any order while time passes, also backwards; the model keeps every
    charge as an event. Never more than the limit in any window, and nothing is held that nobody holds."""

    MOST = 12

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.now = 0
        self.latest = 0
        self.open: list[Hold] = []
        self.posted: list[Hold] = []  # could still be undone
        self.events: list[tuple[int, bytes, int]] = []  # (when, request, amount), of charges that stand

    def amount_of(self, number: int) -> int:
        return number % 5 + 1

    @rule(by=st.integers(-WINDOW, WINDOW))
    def time_passes(self, by: int) -> None:
        self.now = max(0, self.now + by)
        self.latest = max(self.latest, self.now)

    @rule(number=st.integers(0, 30))
    def reserve(self, number: int) -> None:
        if any(hold.digest == digest(number) for hold in self.open + self.posted):
            return  # the replay memory lets only one through
        wanted = charge(self.amount_of(number), most=self.MOST)
        used = self.book.used(wanted, digest(number), self.now)
        try:
            self.open.append(self.book.reserve([wanted], digest(number), self.now))
        except AdytumError as error:
            assert error.code is Code.LIMIT_EXCEEDED
            assert used + wanted.amount > self.MOST
        else:
            assert used + wanted.amount <= self.MOST

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def post(self, data: st.DataObject) -> None:
        hold = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.book.post(hold, self.now)
        self.posted.append(hold)
        for piece in hold.posted:
            self.events.append((self.latest, hold.digest, piece.amount))

    @precondition(lambda self: self.posted)
    @rule(data=st.data(), is_kept=st.booleans())
    def settle(self, data: st.DataObject, is_kept: bool) -> None:
        hold = self.posted.pop(data.draw(st.integers(0, len(self.posted) - 1)))
        if is_kept:
            return
        for piece in hold.posted:
            mine = [e for e in self.events if (e[1], e[2]) == (hold.digest, piece.amount)]
            self.events.remove(mine[-1])
        self.book.unpost(hold)
        self.open.append(hold)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.book.release(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))))

    @invariant()
    def no_window_holds_too_much(self) -> None:
        for end, _, _ in self.events:
            inside = sum(amount for when, _, amount in self.events if end - WINDOW < when <= end)
            assert inside <= self.MOST

    @invariant()
    def nothing_is_forgotten_or_leaked(self) -> None:
        exact = sum(amount for when, _, amount in self.events if when > self.latest - WINDOW)
        entries = self.book.entries(self.now)
        used = entries[0][2] if entries else 0
        held = entries[0][3] if entries else 0
        assert used >= exact
        late = sum(amount for when, _, amount in self.events if when > self.latest - WINDOW - WINDOW // BUCKETS)
        assert used <= late, "a charge counts at most one bucket too long"
        assert held == sum(add for hold in self.open for _, add in hold.parts)


Interleavings.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase
