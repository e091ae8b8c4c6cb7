"""One connection for one piece of work, outside any pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from adytum.storage.errors import connecting, typed

_CONNECT_S = 10.0


@asynccontextmanager
async def connected(
    dsn: str, *, query_s: float | None = None, snapshot: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """`query_s`: longest time for a query. `snapshot`: all reads are as of one moment, and nothing is written.
    Errors: STORAGE_UNAVAILABLE."""
    with typed():
        with connecting(dsn):
            connection = await asyncpg.connect(dsn, timeout=_CONNECT_S, command_timeout=query_s)
        try:
            if not snapshot:
                yield connection
                return
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close()
