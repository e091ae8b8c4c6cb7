"""The phase table and the warm keys, each alone."""

from __future__ import annotations

import itertools

import pytest

from adytum_enclave.core import keys
from adytum_enclave.core.phases import STEPS, TAKES, Phase, PhaseTable
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.warm import WarmKeys
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Bounds
from adytum_wire.messages import Configure, Execute, Health, Hello
from adytum_wire.types import Algorithm


def at(phase: Phase) -> PhaseTable:
    table = PhaseTable()
    table._phase = phase
    return table


@pytest.mark.parametrize(("here", "there"), list(itertools.product(Phase, Phase)))
def test_only_the_listed_steps_are_taken_and_an_illegal_one_changes_nothing(here: Phase, there: Phase) -> None:
    table = at(here)
    if (here, there) in STEPS:
        table.step(there)
        assert table.now is there
    else:
        with pytest.raises(AdytumError) as caught:
            table.step(there)
        assert caught.value.code is Code.PHASE_INVALID
        assert table.now is here


@pytest.mark.parametrize("phase", list(Phase))
def test_health_is_always_answered_and_work_only_when_ready(phase: Phase) -> None:
    table = at(phase)
    table.require(Hello)
    table.require(Health)
    assert (Execute in TAKES[phase]) == (phase is Phase.READY)
    assert (Configure in TAKES[phase]) == (phase is Phase.AWAITING_MANIFEST)


def bounds(**changes: int) -> Bounds:
    values = {
        "request_past_ms": 1000,
        "request_future_ms": 0,
        "approval_past_ms": 86400000,
        "key_ttl_seconds": 10,
        "key_max_uses": 3,
        "max_warm_keys": 2,
    }
    return Bounds(**values | changes)


@pytest.fixture
def arena() -> Arena:
    return Arena(64 * 1024)


def key(arena: Arena, byte: int = 7) -> keys.WalletKey:
    def fill(view: memoryview) -> None:
        view[:] = bytes([byte]) * len(view)

    return keys.generate(Algorithm.SECP256K1, arena, fill)


def test_a_key_is_used_only_under_its_own_header_and_only_so_often(arena: Arena) -> None:
    warm = WarmKeys(bounds())
    warm.keep("k", b"header", key(arena), 0)
    assert warm.use("k", b"another header", 0) is None
    assert warm.use("k", b"header", 0) is not None
    assert warm.use("k", b"header", 0) is not None
    assert warm.use("k", b"header", 0) is None  # keep counted as the first of three uses
    assert arena.in_use == 0


def test_a_key_is_wiped_when_its_time_is_over(arena: Arena) -> None:
    warm = WarmKeys(bounds())
    warm.keep("k", b"header", key(arena), 0)
    warm.expire(9_999)
    assert len(warm) == 1
    warm.expire(10_000)
    assert len(warm) == 0
    assert arena.in_use == 0


def test_an_expired_key_is_not_used_even_before_the_timer_runs(arena: Arena) -> None:
    warm = WarmKeys(bounds())
    warm.keep("k", b"header", key(arena), 0)
    assert warm.use("k", b"header", 10_000) is None
    assert arena.in_use == 0


def test_the_least_recently_used_key_leaves_first(arena: Arena) -> None:
    warm = WarmKeys(bounds())
    warm.keep("a", b"a", key(arena), 0)
    warm.keep("b", b"b", key(arena), 0)
    warm.use("a", b"a", 1)
    warm.keep("c", b"c", key(arena), 2)
    assert warm.use("b", b"b", 2) is None
    assert warm.use("a", b"a", 2) is not None
    warm.drop_all()
    assert arena.in_use == 0


def test_strict_mode_keeps_nothing(arena: Arena) -> None:
    warm = WarmKeys(bounds(key_ttl_seconds=0))
    warm.keep("k", b"header", key(arena), 0)
    assert len(warm) == 0
    assert arena.in_use == 0


def test_a_newer_key_replaces_and_wipes_the_older(arena: Arena) -> None:
    warm = WarmKeys(bounds())
    warm.keep("k", b"v1", key(arena, 7), 0)
    warm.keep("k", b"v2", key(arena, 8), 0)
    assert warm.use("k", b"v1", 0) is None
    assert warm.use("k", b"v2", 0) is not None
    warm.drop("k")
    assert arena.in_use == 0
