"""What the service says of its own database: looked at when it starts and each hour, shown in /v1/health and /metrics.

It refuses nothing because of it: the enclave decides what a record is good for, and a wallet that still signs is worth
more than one that is down over a missing row. But somebody should know, also when the look itself fails. It has a
connection of its own, since it may take longer than requests may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Gauge

from adytum.backup import compare, findings
from adytum.backup.connection import connected
from adytum.backup.findings import Finding, Lack
from adytum.storage.database import Database
from adytum_wire.errors import AdytumError
from adytum_wire.messages import GetUsageReply

log = logging.getLogger("adytum.database")

EVERY_S: Final = 3600.0
AGAIN_S: Final = 15.0  # a receipt of a lost answer is fetched by then, and a write that was under way has ended
RETRY_S: Final = 5.0  # while the database is away
QUERY_S: Final = 60.0  # for one page
_ATTEMPTS: Final = 3
_MAX_SHOWN: Final = 20
_ENCLAVE_S: Final = 5.0


class Counting(Protocol):
    """An enclave that tells what it counts."""

    async def get_usage(self, tenant: str, *, timeout_s: float | None = None) -> GetUsageReply: ...


class Seen(Protocol):
    """What an enclave was last seen to have: the version of each tenant's policy."""

    @property
    def policies(self) -> dict[str, int]: ...


class DatabaseWatch:
    """Run `watch` as a task. `enclaves`: those that serve, with what each was last seen to have. `ready`: waits until
    there is one."""

    def __init__(
        self,
        database: Database,
        *,
        registry: CollectorRegistry,
        enclaves: Callable[[], Collection[tuple[Counting, Seen]]],
        ready: Callable[[], Awaitable[None]],
        every_s: float = EVERY_S,
        again_s: float = AGAIN_S,
        retry_s: float = RETRY_S,
        query_s: float = QUERY_S,
    ) -> None:
        self._database = database
        self._enclaves, self._ready = enclaves, ready
        self._every_s, self._again_s, self._retry_s, self._query_s = every_s, again_s, retry_s, query_s
        self.found: list[Finding] = []
        self._gauge = Gauge(
            "adytum_database_findings", "What the database lacks by its own evidence or the enclaves', by code.",
            ["lack"], registry=registry,
        )  # fmt: skip
        for lack in Lack:
            self._gauge.labels(lack.value).set(0)

    def shown(self) -> list[dict[str, Any]]:
        """For /v1/health."""
        return [one.shown() for one in self.found[:_MAX_SHOWN]]

    async def watch(self) -> None:
        """Look for ever. Cancel to stop. A database that is away is waited for; a look that fails is made again after
        `every_s`, not sooner, and is a finding until then."""
        await self._round()
        await self._ready()
        while True:  # now also beside what an enclave knows
            await self._round()
            await asyncio.sleep(self._every_s)

    async def _round(self) -> None:
        failures = 0
        while True:
            try:
                await self._database.check()  # one that is away, or of another schema, is waited for
            except AdytumError:
                await asyncio.sleep(self._retry_s)
                continue
            try:
                first = await self.look()
                if first:  # what is only under way is gone at the second look
                    await asyncio.sleep(self._again_s)
                    again = {(one.lack, one.subject) for one in first}
                    first = [one for one in await self.look() if (one.lack, one.subject) in again]
                self._note(first)
                return
            except Exception as error:
                failures += 1
                if failures < _ATTEMPTS and isinstance(error, AdytumError):  # it may have gone away in the midst
                    await asyncio.sleep(self._retry_s)
                    continue
                what = error.field or error.code.value if isinstance(error, AdytumError) else type(error).__name__
                self._note([Finding(lack=Lack.LOOK_UNFINISHED, subject=what)])
                return

    async def look(self) -> list[Finding]:
        """Once. Errors: STORAGE_UNAVAILABLE, those of the enclave; the driver's."""
        policies, usage = dict[str, int](), dict[str, int]()
        async with connected(self._database.dsn, query_s=self._query_s) as connection:
            found = await findings.look(connection)
        for enclave, seen in self._enclaves():
            for tenant, version in seen.policies.items():
                policies[tenant] = max(policies.get(tenant, 0), version)
                with suppress(AdytumError):  # an enclave that does not say is no finding
                    counted = await enclave.get_usage(tenant, timeout_s=_ENCLAVE_S)
                    usage[tenant] = max(usage.get(tenant, 0), counted.version)
        # After the enclaves: what they count is stored by now.
        async with connected(self._database.dsn, query_s=self._query_s) as connection:
            found += await findings.older_policies(connection, policies.items())
            found += compare.older_usage(usage, await compare.stored_usage(connection))
        return found

    def _note(self, found: list[Finding]) -> None:
        for one in found:
            if one not in self.found:
                log.error("the database is not whole: %s", one)
        self.found = found
        for lack in Lack:
            self._gauge.labels(lack.value).set(sum(one.count for one in found if one.lack is lack))
