"""The bounded pool of connections, and typed errors around it. The service starts and stops also without a database.

Opening is lazy and retried by use: a host whose PostgreSQL is away answers STORAGE_UNAVAILABLE and works again when it
is back, without a restart.

With `revisions` a connection is handed out only while the schema is at the last of them: each new connection is asked
for it, and `check` (run by `watch`, and by /v1/health) asks again and drops the pool when it has changed underneath.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from adytum.storage.errors import Fault, StorageError, connecting, typed
from adytum_wire.errors import AdytumError, Code

log = logging.getLogger("adytum.database")

CHECK_S: Final = 5.0
_SCHEMA: Final = (Fault.SCHEMA_MISSING, Fault.SCHEMA_OLDER, Fault.SCHEMA_UNKNOWN)


class Database:
    """`pool_size`: most connections. Timeouts in seconds. `revisions`: those of the schema that the program knows,
    oldest first; it works at the last one only (none: at any). Close it with `close`."""

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int = 8,
        connect_timeout: float = 5,
        statement_timeout: float = 5,
        lock_timeout: float = 3,
        revisions: Sequence[str] = (),
    ) -> None:
        self._dsn = dsn
        self._revisions = tuple(revisions)
        self._misfit: StorageError | None = None
        self._size = pool_size
        self._connect_timeout = connect_timeout
        self._statement_timeout = statement_timeout
        self._lock_timeout = lock_timeout
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def dsn(self) -> str:
        return self._dsn

    @asynccontextmanager
    async def connection(self, code: Code = Code.STORAGE_UNAVAILABLE) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool. Errors: `code` when none can be had in time, or the work in the block is cut
        off."""
        with typed(code):
            pool = await self._open()
            connection = await self._acquire(pool, code)
            try:
                yield connection
            finally:
                await pool.release(connection)

    async def _acquire(self, pool: asyncpg.Pool, code: Code) -> asyncpg.Connection:
        with connecting(self._dsn, code):
            return await pool.acquire(timeout=self._connect_timeout)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows. Errors: STORAGE_UNAVAILABLE."""
        async with self.connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return rows

    async def execute(self, query: str, *arguments: Any) -> None:
        """Run a statement in its own transaction. Errors: STORAGE_UNAVAILABLE."""
        async with self.connection() as connection:
            await connection.execute(query, *arguments)

    def require(self) -> None:
        """Errors: STORAGE_UNAVAILABLE (StorageError) while the schema is known to be of another revision."""
        if self._misfit is not None:
            raise StorageError(self._misfit.fault, self._misfit.detail)

    async def check(self) -> None:
        """A trivial query comes back, and the schema is at the wanted revision. Errors: STORAGE_UNAVAILABLE."""
        try:
            async with self.connection() as connection:
                if self._revisions:
                    await self._fits(connection)
                else:
                    await connection.fetchval("SELECT 1")
        except StorageError as error:
            if error.fault in _SCHEMA and self._pool is not None:
                await self._pool.expire_connections()  # each is asked anew before it is used again
            raise

    async def problem(self) -> str:
        """ "" when `check` finds none, else a code: what is set up wrongly, or STORAGE_UNAVAILABLE."""
        try:
            await self.check()
        except StorageError as error:
            return error.fault.value
        except AdytumError as error:
            return error.code.value
        return ""

    async def is_up(self) -> bool:
        """True when `check` finds no problem."""
        return not await self.problem()

    async def watch(self, every_s: float = CHECK_S) -> None:
        """Check for ever. Cancel to stop."""
        while True:
            with suppress(AdytumError):
                await self.check()
            await asyncio.sleep(every_s)

    async def _fits(self, connection: asyncpg.Connection) -> None:
        try:
            with typed():
                found = await connection.fetchval("SELECT max(version_num) FROM adytum_migrations")
            require_revision(found, self._revisions)
        except StorageError as error:
            if error.fault in _SCHEMA:
                if self._misfit is None or self._misfit.field != error.field:
                    log.error("nothing is served: %s", error)
                self._misfit = error
            raise
        if self._misfit is not None:
            log.info("the schema is as it should be")
        self._misfit = None

    async def close(self) -> None:
        """Give all connections back; waits at most the statement timeout, then cuts. Idempotent."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), self._statement_timeout)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    async def _open(self) -> asyncpg.Pool:
        if self._pool is not None:
            return self._pool
        async with self._opening:
            if self._closed:
                raise AdytumError(Code.STORAGE_UNAVAILABLE)
            if self._pool is None:
                self._pool = await self._create()
            return self._pool

    async def _create(self) -> asyncpg.Pool:
        with connecting(self._dsn):
            return await asyncpg.create_pool(
                self._dsn,
                min_size=0,  # with more, asyncpg goes on opening them while the server is away, and says so with traces
                max_size=self._size,
                timeout=self._connect_timeout,
                command_timeout=self._statement_timeout,
                init=self._fits if self._revisions else None,
                reset=_leave,
                server_settings={
                    "application_name": "adytum",
                    "statement_timeout": str(int(self._statement_timeout * 1000)),
                    "lock_timeout": str(int(self._lock_timeout * 1000)),
                    "idle_in_transaction_session_timeout": "10000",
                    "synchronous_commit": "on",
                    # Our statements are few and always look up by index: planning them anew for each
                    # execution takes longer than carrying them out (205 against 75 us for the look-up).
                    "plan_cache_mode": "force_generic_plan",
                    "jit": "off",
                },
            )


def require_revision(found: str | None, known: Sequence[str]) -> None:
    """`found`: of the database; None when it is empty. Errors: SCHEMA_MISSING, SCHEMA_OLDER, SCHEMA_UNKNOWN."""
    if found == known[-1]:
        return
    if found is None:
        raise StorageError(Fault.SCHEMA_MISSING)
    fault = Fault.SCHEMA_OLDER if found in known else Fault.SCHEMA_UNKNOWN
    raise StorageError(fault, f"the database is at {found[:32]}, the program at {known[-1]}")


async def _leave(_connection: asyncpg.Connection) -> None:
    """Nothing: what asyncpg would undo with a query of its own each time (settings, locks and listeners of a session)
    is never done on a connection of the pool. A transaction that is left open asyncpg has rolled back by now."""
