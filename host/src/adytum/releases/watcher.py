"""Keeps a service's pool at what the database says of releases, and says in the database how its enclaves are.

A loop of small steps. While the database is away the pool keeps the last picture; before the first one it accepts
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from adytum.releases import store
from adytum.releases.images import Images
from adytum.releases.store import Report
from adytum.storage.database import Database
from adytum_verify import AllowList
from adytum_wire.errors import AdytumError

log = logging.getLogger("adytum.releases")
POLL_S: Final = 1.0


class Watched(Protocol):
    """The pool, as this module needs it."""

    def expect(self, images: Images) -> None: ...
    def reports(self) -> Sequence[Report]: ...


class Watcher:
    """Run `watch` as a task. `host`: a name of this running service, new at each start."""

    def __init__(
        self, *, database: Database, pool: Watched, configured: AllowList | None, host: str, poll_s: float = POLL_S
    ) -> None:
        self._database = database
        self._pool = pool
        self._configured = () if configured is None else configured.images
        self._host = host
        self._poll_s = poll_s
        self._states: dict[str, str] = {}
        self._problem = ""

    async def watch(self) -> None:
        """Step for ever. Cancel to stop."""
        while True:
            await self.step()
            await asyncio.sleep(self._poll_s)

    async def step(self) -> None:
        """One round. Nothing is raised; what failed is tried again in the next."""
        try:
            releases = tuple(await store.load(self._database))
            states = {release.name: release.state for release in releases}
            for name, state in states.items():
                if self._states.get(name) != state:
                    log.info("release=%s state=%s", name, state)
            self._states = {**states}
            self._pool.expect(Images(configured=self._configured, releases=releases))
            await store.write_reports(self._database, self._host, self._pool.reports())
        except AdytumError as error:
            self._note(error.code.value)
        except Exception as error:  # a fault of ours must not end the loop
            self._note(type(error).__name__)
        else:
            self._problem = ""

    async def sign_off(self) -> None:
        """The service ends: its enclaves no longer count as proven."""
        try:
            await store.write_reports(self._database, self._host, ())
        except AdytumError as error:
            self._note(error.code.value)

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("the releases cannot be kept: %s", problem)
        self._problem = problem
