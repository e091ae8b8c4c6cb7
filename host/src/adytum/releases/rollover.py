"""The steps of a rollover: plan, add, promote, retire. Each changes one row, or refuses and changes nothing.

    plan     written down                                    -> planned
    add      KMS key policy of the overlap first, then this  -> active: the gates accept it
    promote  refuses until an enclave of it is proven        -> promoted: the traffic moves; the one before is active
    retire   refuses while nothing else is proven            -> retiring, and, when its enclaves are idle, retired

The way back is the same way: `promote` the older release as long as it is active.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from adytum.releases import store
from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.release import Release, State, may_follow
from adytum.releases.store import Change, Report
from adytum.storage.database import Database

DRAIN_S: Final = 15.0
_POLL_S: Final = 0.2
Sleep = Callable[[float], Awaitable[None]]


async def plan(database: Database, release: Release) -> Release:
    """Write a release down. The same again changes nothing. Errors: EXISTS, OVERLAPS."""
    async with store.change(database) as step:
        known = await _known(step, release)
        if known is None:
            await step.insert(replace(release, state="planned"))
    return known or replace(release, state="planned")


async def add(database: Database, name: str, release: Release | None = None, *, again: bool = False) -> Release:
    """Let the gates accept it. `release`: its measurements, when it was not planned before. `again`: a retired one may
    come back. One that runs already stays as it is. Errors: UNKNOWN, EXISTS, OVERLAPS, RETIRED, STATE."""
    async with store.change(database) as step:
        known = await _known(step, release) if release is not None else await step.get(name)
        if known is None and release is not None:
            await step.insert(replace(release, state="active"))
            return replace(release, state="active")
        found = known or await step.get(name)
        if found.state in ("active", "promoted"):
            return found
        if found.state == "retired" and not again:
            raise ReleaseError(ReleaseCode.RETIRED)
        _require_step(found, "active")
        await step.set_state(name, "active")
    return replace(found, state="active")


async def promote(database: Database, name: str) -> Release:
    """Give it the traffic. Errors: UNKNOWN, STATE, NOT_PROVEN."""
    async with store.change(database) as step:
        found = await step.get(name)
        if found.state == "promoted":
            return found
        _require_step(found, "promoted")
        if not _proven(await store.reports(database), name):
            raise ReleaseError(ReleaseCode.NOT_PROVEN)
        for other in await step.all():
            if other.state == "promoted":
                await step.set_state(other.name, "active")
        await step.set_state(name, "promoted")
    return replace(found, state="promoted")


async def retire(database: Database, name: str, *, drain_s: float = DRAIN_S, sleep: Sleep = asyncio.sleep) -> Release:
    """Take it out: first nothing new, then, when nothing is under way in its enclaves, refuse it everywhere.

    Errors: UNKNOWN, PROMOTED, LAST_PROVEN (nothing has changed); BUSY after `drain_s` seconds: it stays retiring, and
    saying it again goes on.
    """
    async with store.change(database) as step:
        found = await step.get(name)
        if found.state == "retired":
            return found
        if found.state == "promoted":
            raise ReleaseError(ReleaseCode.PROMOTED)
        now = await store.reports(database)
        if _proven(now, name) and not any(r.is_proven and r.release != name for r in now):
            raise ReleaseError(ReleaseCode.LAST_PROVEN)
        if found.state == "active":
            await step.set_state(name, "retiring")
    for _ in range(max(1, round(drain_s / _POLL_S))):
        if found.state == "planned" or await _is_idle(database, name):
            break
        await sleep(_POLL_S)
    else:
        raise ReleaseError(ReleaseCode.BUSY)
    async with store.change(database) as step:
        _require_step(await step.get(name), "retired")  # somebody may have brought it back meanwhile
        await step.set_state(name, "retired")
    return replace(found, state="retired")


async def _known(step: Change, release: Release) -> Release | None:
    """The stored release of that name, None when there is none. Errors: EXISTS, OVERLAPS."""
    known: Release | None = None
    for other in await step.all():
        if other.name == release.name:
            known = other
        elif other.overlaps(release):
            raise ReleaseError(ReleaseCode.OVERLAPS, other.name)
    if known is not None and dict(known.pcrs) != dict(release.pcrs):
        raise ReleaseError(ReleaseCode.EXISTS)
    return known


def _require_step(release: Release, then: State) -> None:
    if not may_follow(release.state, then):
        raise ReleaseError(ReleaseCode.STATE, release.state)


def _proven(reports: list[Report], name: str) -> list[Report]:
    return [report for report in reports if report.is_proven and report.release == name]


async def _is_idle(database: Database, name: str) -> bool:
    """True when every host that runs has said, since the change, that nothing is under way in enclaves of `name`."""
    [since] = [release.changed_at for release in await store.load(database) if release.name == name]
    mine = [report for report in await store.reports(database) if report.release == name]
    return all(r.in_flight == 0 and r.reported_at and since and r.reported_at > since for r in mine)
