"""Long native work runs beside the loop, one at a time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adytum_enclave.core.counters import Counters
from adytum_enclave.core.effects import Stretch
from adytum_enclave.shell.perform import Performer
from adytum_wire.errors import AdytumError, Code


def unused() -> Any:
    raise AssertionError("not asked for")


@pytest.fixture
def performer() -> Any:
    with ThreadPoolExecutor(1) as executor:
        options: dict[str, Any] = {"nsm": None, "kms": unused, "recipient_spki": b"", "counters": Counters()}
        names = Performer.__init__.__annotations__
        options |= {name: unused for name in names if name not in (*options, "executor", "return")}
        yield Performer(executor=executor, **options)


async def test_the_loop_goes_on_while_a_password_is_stretched(performer: Any) -> None:
    """The work ends only because the loop runs meanwhile: held up, this would never finish."""
    loop = asyncio.get_running_loop()
    begun, go = asyncio.Event(), threading.Event()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(60)

    task = asyncio.create_task(performer(Stretch(work=work), loop.time() + 60))
    await begun.wait()
    go.set()
    assert await task == b""


async def test_two_never_run_together_and_a_refusal_frees_the_place(performer: Any) -> None:
    running = [0, 0]

    def work() -> None:
        running[0] += 1
        running[1] = max(running)
        running[0] -= 1

    def fails() -> None:
        raise AdytumError(Code.RESOURCE_EXHAUSTED)

    deadline = asyncio.get_running_loop().time() + 60
    works = [work, fails, work, work]
    results = await asyncio.gather(*(performer(Stretch(work=one), deadline) for one in works), return_exceptions=True)
    assert running == [0, 1]
    assert [type(result) for result in results] == [bytes, AdytumError, bytes, bytes]


async def test_nothing_begins_after_the_deadline(performer: Any) -> None:
    with pytest.raises(AdytumError) as caught:
        await performer(Stretch(work=unused), asyncio.get_running_loop().time() - 1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
