"""Batches to workers: PgQueuer's queue (FOR UPDATE SKIP LOCKED, leases that end when heartbeats stop).

Of the library only `Queries` is used, on a connection of ours, so that a batch leaves the queue in the very transaction
that writes down how it ended; its runner, which writes that later and in bulk, is left out (docs/adr/0009). A
rotation is one entry point, so pausing one is not asking for its batches. The library's names are fixed here and not
taken from the environment, where it would look by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.models import Job as QueuedItem
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SCHEMA: Final = "adytum_queue"
_UNLIMITED: Final = EntrypointExecutionParameter(concurrency_limit=0)


class _Names(DBSettings):
    """The library's settings without its environment variables."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Lease:
    """A batch that this worker has until it stops beating."""

    job_id: str
    number: int
    item: QueuedItem


class Queue:
    """Make one for each process. Every method takes the connection whose transaction it is to be part of."""

    def __init__(self) -> None:
        names = _Names(db_schema=SCHEMA)
        self._environment = QueryBuilderEnvironment(settings=names)
        self._queue = QueryQueueBuilder(settings=names)
        self._scheduler = QuerySchedulerBuilder(settings=names)

    def queries(self, connection: asyncpg.Connection) -> Queries:
        """The library's own interface on this connection."""
        return Queries(AsyncpgDriver(connection), self._environment, self._queue, self._scheduler)

    async def put(self, connection: asyncpg.Connection, job_id: str, numbers: Sequence[int]) -> None:
        """Offer these batches of a job."""
        count = len(numbers)
        payloads: list[bytes | None] = [b"%d" % number for number in numbers]
        await self.queries(connection).enqueue([job_id] * count, payloads, [0] * count)

    async def lease(
        self, connection: asyncpg.Connection, job_ids: Sequence[str], *, worker: UUID, most: int, lease_s: float
    ) -> list[Lease]:
        """At most `most` batches of these jobs: new ones, or those whose worker has been silent for `lease_s`."""
        items = await self.queries(connection).dequeue(
            most,
            {QueueEntrypoint(job_id): _UNLIMITED for job_id in job_ids},
            QueueManagerId(worker),
            None,
            timedelta(seconds=lease_s),
        )
        return [Lease(item.entrypoint, int(item.payload or b"0"), item) for item in items]

    async def beat(self, connection: asyncpg.Connection, leases: Sequence[Lease]) -> None:
        """Keep these leases."""
        await self.queries(connection).update_heartbeat([lease.item.id for lease in leases])

    async def done(self, connection: asyncpg.Connection, lease: Lease) -> None:
        """Take the batch out."""
        await self.queries(connection).log_jobs([(lease.item, "successful", None)])

    async def give_back(self, connection: asyncpg.Connection, leases: Sequence[Lease]) -> None:
        """Offer these batches again, at once."""
        for lease in leases:
            await self.queries(connection).retry_job(lease.item, timedelta(0), None)

    async def drop(self, connection: asyncpg.Connection, job_id: str) -> None:
        """Take out all batches of a job, and the library's log of them."""
        queries = self.queries(connection)
        await queries.clear_queue(job_id)
        await queries.clear_queue_log(job_id)
