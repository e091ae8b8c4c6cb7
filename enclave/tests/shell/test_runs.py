"""`Runs`: at most one run of a key at any time, whoever joins when, and however the runs end."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.effects import Together
from adytum_enclave.shell.together import Runs
from adytum_wire.errors import AdytumError, Code

FAR = 1e12


class Counted:
    """Runs of one key that take `turns` turns of the loop each; those whose number is in `broken` end in an error."""

    def __init__(self, turns: int, broken: frozenset[int] = frozenset()) -> None:
        self.runs = Runs(self.perform)
        self.turns, self.broken = turns, broken
        self.begun = self.active = self.most = 0

    async def perform(self, _effect: Any, _deadline: float) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)

    def steps(self) -> Generator[Any, Any, None]:
        number, self.begun = self.begun, self.begun + 1
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            yield "an effect"
            if number in self.broken:
                raise AdytumError(Code.ANCHOR_UNAVAILABLE)
        finally:
            self.active -= 1

    async def join(self) -> bool:
        """True when a run that began after this call has ended well."""
        before = self.begun
        try:
            await self.runs.join(Together(key="usage/acme", steps=self.steps), FAR)
        except AdytumError:
            return False
        assert self.begun > before
        return True


@pytest.mark.parametrize("turns", range(5))
async def test_joins_in_every_turn_of_the_loop_never_start_a_second_run(turns: int) -> None:
    counted = Counted(turns)
    tasks = []
    for _ in range(60):
        tasks.append(asyncio.create_task(counted.join()))
        await asyncio.sleep(0)
    assert all(await asyncio.gather(*tasks))
    assert counted.most == 1
    assert counted.begun < 60, "they share"


@settings(max_examples=60, deadline=None)
@given(
    pauses=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    turns=st.integers(0, 4),
    broken=st.frozensets(st.integers(0, 20)),
    cancelled=st.frozensets(st.integers(0, 24)),
)
def test_no_order_of_joins_errors_and_cancelled_runs_makes_two_runs_at_once(
    pauses: list[int], turns: int, broken: frozenset[int], cancelled: frozenset[int]
) -> None:
    async def scenario() -> None:
        counted = Counted(turns, broken)
        tasks = []
        for number, pause in enumerate(pauses):
            tasks.append(asyncio.create_task(counted.join()))
            for _ in range(pause):
                await asyncio.sleep(0)
            if number in cancelled:
                waiting = [*counted.runs._next.values(), *counted.runs._running.values()]
                if waiting:
                    waiting[number % len(waiting)].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert counted.most <= 1
        await asyncio.wait_for(counted.runs.drain(), 5)
        counted.broken = frozenset()
        assert await counted.join(), "what happened before stops nobody"
        await asyncio.sleep(0)
        assert (counted.runs._running, counted.runs._next) == ({}, {})

    asyncio.run(scenario())


async def test_a_waiter_that_gives_up_leaves_the_run_to_the_others() -> None:
    counted = Counted(3)
    first, second = (asyncio.create_task(counted.join()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert counted.most == 1
