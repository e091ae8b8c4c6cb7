"""One connection for one piece of work, outside any pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from adytum.storage.errors import typed
from adytum_wire.errors import AdytumError, Code

_CONNECT_S = 10.0


@asynccontextmanager
async def connected(
    dsn: str, *, query_s: float | None = None, snapshot: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """`query_s`: longest time for a query. `snapshot`: all reads are as of one moment, and nothing is written.
    Errors: STORAGE_UNAVAILABLE."""
    with typed():
        try:
            connection = await asyncpg.connect(dsn, timeout=_CONNECT_S, command_timeout=query_s)
        except asyncpg.PostgresError:  # whatever the server says to a newcomer, it is not there for us
            raise AdytumError(Code.STORAGE_UNAVAILABLE) from None
        try:
            if not snapshot:
                yield connection
                return
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close()
