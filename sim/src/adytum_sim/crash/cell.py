"""One cell of the matrix: one step, one victim, many kills under load; and what the judge says afterwards.

The designated requests take turns: a signature under two limits, a new key, a reseal, a signature that needs an
approval. So do the three things that may become of the message at the step (`points.Mode`).
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from adytum_sim.crash.asking import Asked, Load, ask, ask_for_key, ask_to_sign, drive, send
from adytum_sim.crash.judge import Verdict, judge
from adytum_sim.crash.points import HELD_S, Mode, Point, Strike, Victim
from adytum_sim.crash.site import ASKED, LOAD, PLAIN, Site, open_site
from adytum_sim.people import Person

CLIENTS: Final = 4
SPARE: Final = 3  # of alice's signatures: those that fill her limit at the end
REACHED_S: Final = 30.0
MODES: Final = tuple(Mode)
_AT_KMS: Final = (Point.KMS_ASKED, Point.KMS_ANSWERED)  # a request without its approvals does not come so far


KINDS: Final = ("sign", "generate_key", "reseal", "approved")


class CellResult(Struct, frozen=True, kw_only=True):
    """`kills`: that happened; `recovered`: designated requests that ended well; `same_bytes`: those of them whose every
    answer, also to three repeats, was the same. `conflicts`: final refusals of any request. `unfinished`: without a
    final answer in a minute. Times in seconds, from the kill to the final answer. The rest is `judge.Verdict`."""

    point: str
    victim: str
    kills: int
    recovered: int
    same_bytes: int
    conflicts: int
    unfinished: int
    load: int
    double_effects: int
    lost_receipts: int
    leaked_reservations: int
    broken_chains: int
    unheard: int
    receipts: int
    median_s: float
    worst_s: float
    seconds: float
    problems: list[str]

    @property
    def failures(self) -> int:
        return (
            self.conflicts
            + self.unfinished
            + self.double_effects
            + self.lost_receipts
            + self.leaked_reservations
            + self.broken_chains
            + (self.kills - self.recovered)
            + (self.recovered - self.same_bytes)
        )


class Designated(Struct):
    """What the cell has asked for, and how long each took."""

    asked: list[Asked]
    recovery_s: list[float]
    problems: list[str]
    kills: int = 0
    same: int = 0


class Blow(Struct, frozen=True, kw_only=True):
    """One kill: of whom, at which step of which kind of request, and what becomes of the message there."""

    point: Point
    victim: Victim
    mode: Mode
    kind: str


def plan(point: Point, victim: Victim, repeats: int) -> list[Blow]:
    """Kinds and modes take turns, so that in 16 blows each kind meets each mode."""
    return [
        Blow(
            point=point,
            victim=victim,
            mode=MODES[(number + number // len(KINDS)) % len(MODES)],
            kind=KINDS[number % len(KINDS)],
        )
        for number in range(repeats)
    ]


async def run_cell(directory: Path, point: Point, victim: Victim, repeats: int) -> CellResult:
    """As `run_blows`, `repeats` of them at one point with one victim."""
    return await run_blows(directory, plan(point, victim, repeats), point=point.value, victim=victim.value)


async def run_blows(
    directory: Path, blows: Sequence[Blow], *, point: str = "several", victim: str = "several"
) -> CellResult:
    """`blows`, one after the other, in a deployment in `directory`, which must not exist. `point`, `victim`: for the
    result. Errors: RuntimeError, OSError, TimeoutError when a part does not come up."""
    began = time.perf_counter()
    directory.mkdir(mode=0o711, parents=True)
    directory.chmod(0o711)
    async with open_site(directory, clients=CLIENTS, most=len(blows) + SPARE) as site:
        http = site.http
        made = Designated([], [], [])
        load_keys = [await _make(site, site.crowd[n], LOAD, made, http) for n in range(CLIENTS)]
        first = ask_to_sign(site, site.alice, await _make(site, site.alice, PLAIN, made, http))
        made.asked.append(first)
        await drive(site, first, http)  # alice's limit has been charged, so there is a snapshot to present
        resealed = await _make(site, site.alice, PLAIN, made, http)
        async with _loaded(site, load_keys) as load:
            for number, blow in enumerate(blows):
                asked = await _designate(site, blow.kind, resealed, made, http)
                if blow.kind == "approved" and (number % 2 or blow.point in _AT_KMS):
                    await drive(site, asked, http, through=False)  # it waits; the blow is at its second way through
                await load.all_served()
                await _strike(site, asked, blow, made)
            await load.all_served()
        verdict = await judge(site, [*made.asked, *load.asked])
        conflicts = [a for a in (*made.asked, *load.asked) if a.code]
        made.problems += [f"{a.request_id}: {a.code}" for a in conflicts]
        return _result(point, victim, made, load, verdict, len(conflicts), time.perf_counter() - began)


async def _make(site: Site, person: Person, label: str, made: Designated, http: httpx.AsyncClient) -> str:
    asked = ask_for_key(site, person, label)
    made.asked.append(asked)
    await drive(site, asked, http)
    return asked.key_id


async def _designate(site: Site, kind: str, resealed: str, made: Designated, http: httpx.AsyncClient) -> Asked:
    """The next request. Signatures are asked of a key that nothing has opened yet."""
    if kind == "generate_key":
        asked = ask_for_key(site, site.alice, PLAIN)
    elif kind == "reseal":
        asked = ask(site, site.alice, "reseal", key_id=resealed)
    else:
        key_id = await _make(site, site.alice, ASKED if kind == "approved" else PLAIN, made, http)
        asked = ask_to_sign(site, site.alice, key_id)
    made.asked.append(asked)
    return asked


async def _strike(site: Site, asked: Asked, blow: Blow, made: Designated) -> None:
    """Send, kill at the point, revive, and send the same bytes until there is a final answer; then three times more."""
    struck_at = 0.0

    def kill() -> None:
        nonlocal struck_at
        struck_at = time.perf_counter()
        site.kill(blow.victim)

    strike = Strike(blow.point, blow.mode, asked.request_id, kill)
    site.watch.arm(strike)
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        driving = asyncio.create_task(_drive(site, asked, http, made))
        try:
            await asyncio.wait_for(strike.done.wait(), REACHED_S)
        except TimeoutError:
            made.problems.append(f"{asked.request_id}: never came to {blow.point}")
            await driving
            return
        finally:
            site.watch.strike = None
        made.kills += 1
        await site.revive(blow.victim)
        if blow.mode is Mode.HELD:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(site.ready(), HELD_S)
        strike.revived.set()
        await driving
        if asked.is_done:
            made.recovery_s.append(time.perf_counter() - struck_at)
            await site.ready()  # the answer may have left before the kill
            for _ in range(3):
                await send(site, asked, http)
            made.same += len(asked.results) >= 4 and len(set(asked.results)) == 1
    await site.ready()


async def _drive(site: Site, asked: Asked, http: httpx.AsyncClient, made: Designated) -> None:
    try:
        await drive(site, asked, http)
    except TimeoutError:
        made.problems.append(f"{asked.request_id}: no final answer")


@contextlib.asynccontextmanager
async def _loaded(site: Site, keys: list[str]) -> AsyncIterator[Load]:
    load = Load(site, keys, rounds=[0] * len(keys))
    tasks = [asyncio.create_task(load.run(number)) for number in range(len(keys))]
    try:
        await load.all_served()
        yield load
    finally:
        load.stopped = True
        await asyncio.gather(*tasks)


def _result(
    point: str, victim: str, made: Designated, load: Load, verdict: Verdict, conflicts: int, seconds: float
) -> CellResult:
    return CellResult(
        point=point,
        victim=victim,
        kills=made.kills,
        recovered=len(made.recovery_s),
        same_bytes=made.same,
        conflicts=conflicts,
        unfinished=len(load.unfinished) + sum(p.endswith("no final answer") for p in made.problems),
        load=sum(asked.is_done for asked in load.asked),
        double_effects=verdict.double_effects,
        lost_receipts=verdict.lost_receipts,
        leaked_reservations=verdict.leaked_reservations,
        broken_chains=verdict.broken_chains,
        unheard=verdict.unheard,
        receipts=verdict.receipts,
        median_s=statistics.median(made.recovery_s) if made.recovery_s else 0.0,
        worst_s=max(made.recovery_s, default=0.0),
        seconds=seconds,
        problems=[*made.problems, *load.unfinished, *verdict.problems],
    )


def broken(point: Point, victim: Victim, problem: str) -> CellResult:
    """A cell that could not be run to its end."""
    numbers = {field.name: 0 for field in msgspec.structs.fields(CellResult) if field.type in (int, float)}
    return CellResult(point=point.value, victim=victim.value, problems=[problem], **numbers)
