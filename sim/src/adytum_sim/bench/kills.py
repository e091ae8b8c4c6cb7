"""SIGKILL to one part after the other, at random moments, and how long it takes until the work goes on as before.

killer = Killer({"worker": apart.workers, ...}, every(8, source), done, source)
task = asyncio.create_task(killer.run(stop))
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final

from msgspec import Struct

from adytum_sim.bench.parts import Part

Done = Callable[[], int]
Moment = Callable[[Done], Awaitable[None]]

WINDOW_S: Final = 1.0
BEFORE_S: Final = 60.0
ENOUGH: Final = 0.5


class Sample(Struct, frozen=True):
    """`done`: how much was durable at `at_s`."""

    at_s: float
    done: int


class Kill(Struct, frozen=True, kw_only=True):
    """Seconds on one clock: when the part was killed, and how long until it had started again."""

    part: str
    at_s: float
    down_s: float


class Recovery(Struct, frozen=True, kw_only=True):
    """Of one kind of part. `down_s`, `back_s`: medians and worst of the seconds from the kill until it had started
    again, and until the rate was back (see `back_after`). `never`: how often it was not back before the end."""

    part: str
    kills: int
    down_s: float
    down_worst_s: float
    back_s: float
    back_worst_s: float
    never: int


@dataclass(slots=True)
class Killer:
    """`parts`: by name; they take turns, and of several of one name a random one is hit. `moment`: returns when the
    next kill is due. `done`: how much is durable. Run `run` once; `kills` grows."""

    parts: Mapping[str, Sequence[Part]]
    moment: Moment
    done: Done
    random: random.Random
    clock: Callable[[], float] = time.perf_counter
    kills: list[Kill] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a part that was killed has been started again when this returns. Errors: of a part that does
        not come up."""
        for name in cycle(self.parts):
            waiting = [asyncio.ensure_future(self.moment(self.done)), asyncio.ensure_future(stop.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            if stop.is_set():
                return
            part, at_s = self.random.choice(self.parts[name]), self.clock()
            await part.strike()
            await part.revive()
            self.kills.append(Kill(part=name, at_s=at_s, down_s=self.clock() - at_s))


def every(seconds: float, source: random.Random) -> Moment:
    """Half to one and a half times `seconds` after it was asked."""

    async def wait(_done: Done) -> None:
        await asyncio.sleep(seconds * source.uniform(0.5, 1.5))

    return wait


def after(count: int, *, times: int) -> Moment:
    """When so much more is durable; so often, and then never."""
    left = times

    async def wait(done: Done) -> None:
        nonlocal left
        if not left:
            await asyncio.Event().wait()
        wanted = done() + count
        while done() < wanted:  # noqa: ASYNC110 (it is looked at from time to time)
            await asyncio.sleep(0.05)
        left -= 1

    return wait


def back_after(samples: Sequence[Sample], kill: Kill) -> float | None:
    """Seconds from the kill until the rate was back: until the end of the first window of a second, begun after the
    part had started again, in which at least half of what is usual was made durable. Usual is the upper quartile of
    such windows in the minute before the kill. None when it was not back before the samples end."""
    before = [rate for at_s, rate in _rates(samples) if kill.at_s - BEFORE_S <= at_s <= kill.at_s]
    usual = statistics.quantiles(before, n=4)[2] if len(before) > 1 else max(before, default=0.0)
    up_s = kill.at_s + kill.down_s
    for at_s, rate in _rates([sample for sample in samples if sample.at_s >= up_s]):
        if rate >= ENOUGH * usual:
            return at_s - kill.at_s
    return None


def _rates(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """(end of a window, what was done in it a second), for each sample that another precedes by a window."""
    found, start = [], 0
    for at, sample in enumerate(samples):
        while start + 1 < at and sample.at_s - samples[start + 1].at_s >= WINDOW_S:
            start += 1
        passed = sample.at_s - samples[start].at_s
        if passed >= WINDOW_S:
            found.append((sample.at_s, (sample.done - samples[start].done) / passed))
    return found


def recoveries(samples: Sequence[Sample], kills: Sequence[Kill]) -> list[Recovery]:
    """One line a kind of part, in the order of the first kills."""
    found = []
    for part in dict.fromkeys(kill.part for kill in kills):
        mine = [kill for kill in kills if kill.part == part]
        down = [kill.down_s for kill in mine]
        backs = [back_after(samples, kill) for kill in mine]
        back = [seconds for seconds in backs if seconds is not None]
        found.append(
            Recovery(
                part=part,
                kills=len(mine),
                down_s=statistics.median(down),
                down_worst_s=max(down),
                back_s=statistics.median(back) if back else 0.0,
                back_worst_s=max(back, default=0.0),
                never=len(mine) - len(back),
            )
        )
    return found
