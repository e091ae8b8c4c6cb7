"""Turns at the KDF: one at a time, tenant by tenant, and no more of one tenant in the queue than a few."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from adytum_enclave.core.effects import InTurn, Stretch
from adytum_enclave.shell.turns import Turns
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code


class Desk:
    """Each turn waits until the test lets it go on. `order`: whose turn began."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.running = 0
        self.gate = asyncio.Event()
        self.turns = Turns(self.perform)
        self.far = asyncio.get_running_loop().time() + 60

    async def perform(self, _effect: Any, _deadline: float) -> bytes:
        self.running += 1
        assert self.running == 1
        await self.gate.wait()
        self.running -= 1
        return b""

    def steps(self, name: str) -> Generator[Any, Any, None]:
        self.order.append(name)
        yield Stretch(work=lambda: None)
        if name == "fails":
            raise AdytumError(Code.IMPORT_INVALID)

    def ask(self, tenant: str, name: str = "", deadline: float = 0.0) -> asyncio.Task[None]:
        effect = InTurn(tenant=tenant, steps=lambda: self.steps(name or tenant))
        return asyncio.create_task(self.turns.run(effect, deadline or self.far))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_tenant_with_many_files_delays_another_by_one_and_beyond_a_few_is_told_to_come_again() -> None:
    desk = Desk()
    many = [desk.ask("mallory") for _ in range(limits.MAX_WAITING_IMPORTS + 3)]
    await settle()
    few = [desk.ask("victim") for _ in range(2)]
    await settle()
    desk.gate.set()
    results = await asyncio.gather(*many, *few, return_exceptions=True)
    refused = [error for error in results if error is not None]
    assert [error.code for error in refused] == [Code.RESOURCE_EXHAUSTED] * 2
    assert [error.retry_after_ms for error in refused] == [limits.RETRY_IMPORT_MS] * 2
    assert desk.order[:5] == ["mallory", "mallory", "victim", "mallory", "victim"]
    assert len(desk.order) == limits.MAX_WAITING_IMPORTS + 1 + 2


async def test_a_turn_that_ends_in_a_refusal_is_passed_on() -> None:
    desk = Desk()
    desk.gate.set()
    tasks = [desk.ask("acme", name) for name in ("fails", "one", "fails", "two")]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == [Code.IMPORT_INVALID, None] * 2
    assert desk.order == ["fails", "one", "fails", "two"]


@pytest.mark.parametrize("way", ["deadline", "cancel"])
async def test_who_gives_up_leaves_the_place_to_the_next_and_never_begins(way: str) -> None:
    desk = Desk()
    first = desk.ask("acme", "first")
    await settle()
    gone = desk.ask("acme", "gone", asyncio.get_running_loop().time() + (0.01 if way == "deadline" else 60))
    other = desk.ask("other", "gone too", asyncio.get_running_loop().time() + (0.01 if way == "deadline" else 60))
    last = desk.ask("acme", "last")
    await settle()
    if way == "cancel":
        gone.cancel()
        other.cancel()
    results = await asyncio.gather(gone, other, return_exceptions=True)
    if way == "deadline":
        assert [getattr(result, "code", None) for result in results] == [Code.DEADLINE_EXCEEDED] * 2
    desk.gate.set()
    await asyncio.gather(first, last)
    assert desk.order == ["first", "last"]
    await desk.ask("acme", "again")
    assert desk.order[-1] == "again"


async def test_a_turn_that_comes_in_the_moment_of_giving_up_is_not_lost() -> None:
    desk = Desk()
    desk.gate.set()
    gone = desk.ask("acme", "gone")
    waiting = desk.ask("acme", "next")
    await asyncio.sleep(0)  # the turn is given, and not yet taken
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await waiting
    assert desk.order[-1] == "next"
