"""The memory of passkeys' counters: its rule, its bounds, and that order of presentation does not matter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.passkeys import PasskeyMemory
from adytum_policy.approvals import Sighting
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256


class Known:
    """As much of a policy as the memory looks at."""

    def __init__(self, *credentials: bytes) -> None:
        self.by_passkey = dict.fromkeys(credentials)


POLICY: Any = Known(b"one", b"two")


def sighting(issued_at: int, counter: int, *, credential: bytes = b"one", assertion: str = "") -> Sighting:
    name = assertion or f"{issued_at}/{counter}"
    return Sighting(credential_id=credential, counter=counter, issued_at=issued_at, assertion=sha256(name.encode()))


def fits(memory: PasskeyMemory, *found: Sighting, policy: Any = POLICY, tenant: str = "acme") -> list[bool]:
    said = []
    for one in found:
        try:
            memory.require(tenant, one, policy)
        except AdytumError as error:
            assert error.code is Code.APPROVAL_COUNTER
            said.append(False)
        else:
            said.append(True)
    return said


@pytest.mark.parametrize(
    ("first", "second", "is_fine"),
    [
        ((1, 5), (2, 6), True),
        ((2, 6), (1, 5), True),  # presented in the other order
        ((1, 5), (2, 4), False),
        ((2, 4), (1, 5), False),
        ((1, 5), (2, 5), False),  # one counter, two assertions
        ((1, 5), (1, 6), True),  # written in the same millisecond: either may have been signed first
        ((1, 6), (1, 5), True),
        ((1, 0), (2, 0), True),  # synced passkeys do not count
        ((1, 0), (2, 7), True),  # began to count
        ((2, 7), (1, 0), True),
        ((1, 7), (2, 0), False),  # ceased to count
        ((2, 0), (1, 7), False),
    ],
)
def test_two_assertions_fit_together_or_not(first: tuple[int, int], second: tuple[int, int], is_fine: bool) -> None:
    assert fits(PasskeyMemory(), sighting(*first), sighting(*second)) == [True, is_fine]


def test_the_same_assertion_may_come_again_and_again() -> None:
    memory = PasskeyMemory()
    assert fits(memory, sighting(1, 5), sighting(2, 6), sighting(1, 5), sighting(2, 6)) == [True] * 4


def test_what_contradicts_is_not_remembered() -> None:
    memory = PasskeyMemory()
    assert fits(memory, sighting(5, 5), sighting(6, 4), sighting(7, 6), sighting(6, 6, assertion="x")) == [
        True,
        False,
        True,
        False,
    ]
    assert fits(memory, sighting(6, 5, assertion="y")) == [False]


def test_passkeys_and_tenants_have_counters_of_their_own() -> None:
    memory = PasskeyMemory()
    assert fits(memory, sighting(1, 9), sighting(2, 3, credential=b"two")) == [True, True]
    assert fits(memory, sighting(2, 3), tenant="umbrella") == [True]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_an_honest_passkey_is_accepted_in_any_order(counters: list[int], random: Any) -> None:
    seen = [sighting(10 * at, counter) for at, counter in enumerate(sorted(counters))]
    shown = seen + seen
    random.shuffle(shown)
    assert all(fits(PasskeyMemory(), *shown))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_whether_a_set_fits_does_not_depend_on_the_order(pairs: list[tuple[int, int]]) -> None:
    seen = [sighting(issued, counter) for issued, counter in pairs]
    found = {all(fits(PasskeyMemory(), *order)) for order in itertools.islice(itertools.permutations(seen), 24)}
    assert len(found) == 1


def test_the_newest_are_kept_and_the_oldest_forgotten() -> None:
    memory = PasskeyMemory()
    many = limits.MAX_REMEMBERED_COUNTERS + 10
    assert all(fits(memory, *(sighting(at, at) for at in range(1, many + 1))))
    (kept,) = memory._seen["acme"].values()
    assert len(kept) == limits.MAX_REMEMBERED_COUNTERS
    assert kept[0].issued_at == 11
    assert fits(memory, sighting(many + 1, many)) == [False]
    assert fits(memory, sighting(many + 1, 11)) == [False]


def test_what_left_the_policy_makes_room() -> None:
    memory = PasskeyMemory()
    for number in range(50):
        credential = bytes([number])
        assert fits(memory, sighting(1, 1, credential=credential), policy=Known(credential)) == [True]
    assert len(memory._seen["acme"]) <= 2
