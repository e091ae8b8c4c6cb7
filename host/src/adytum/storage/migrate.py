"""Migrations, forward and back, run from the program (no alembic.ini, no shell).

A migration waits at most `lock_timeout_ms` for a lock, so that it never queues in front of live traffic, and runs at
most `statement_timeout_ms` a statement. Each migration is one transaction. Two that start together: one waits
(advisory lock).

>>> await upgrade("postgresql:///adytum")  # doctest: +SKIP
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from adytum.storage.errors import typed

T = TypeVar("T")

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 120_000
_ADVISORY_LOCK = 0x41647974756D  # "Adytum"
_VERSION_TABLE = "adytum_migrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`current`: the database's revision, None when it is empty. `pending`: revisions to apply, oldest first."""

    current: str | None
    head: str
    pending: tuple[str, ...]


def _config() -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


async def upgrade(
    dsn: str,
    target: str = "head",
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> None:
    """Bring the database to `target`. Errors: STORAGE_UNAVAILABLE; the database is then at a whole revision."""
    await _run(dsn, lambda config: command.upgrade(config, target), lock_timeout_ms, statement_timeout_ms)


async def downgrade(
    dsn: str,
    target: str,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> None:
    """Go back to `target` ("base" empties the database: sealed keys are lost with it)."""
    await _run(dsn, lambda config: command.downgrade(config, target), lock_timeout_ms, statement_timeout_ms)


async def status(dsn: str) -> Status:
    """Where the database stands. Changes nothing."""
    scripts = ScriptDirectory.from_config(_config())

    def read(connection: sa.Connection) -> str | None:
        context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
        return context.get_current_revision()

    current = await _with_connection(dsn, read, LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS)
    history = [script.revision for script in scripts.walk_revisions()][::-1]
    done = history.index(current) + 1 if current in history else 0
    return Status(current=current, head=history[-1], pending=tuple(history[done:]))


def revisions() -> tuple[str, ...]:
    """Every revision that this program knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


async def _run(dsn: str, action: Callable[[Config], None], lock_ms: int, statement_ms: int) -> None:
    config = _config()

    def migrate(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT pg_advisory_lock(:id)"), {"id": _ADVISORY_LOCK})
        connection.commit()  # the lock is the session's, so it outlives this transaction
        config.attributes["connection"] = connection
        action(config)

    await _with_connection(dsn, migrate, lock_ms, statement_ms)


async def _with_connection(dsn: str, work: Callable[[sa.Connection], T], lock_ms: int, statement_ms: int) -> T:
    async def connect() -> asyncpg.Connection:
        timeouts = {"lock_timeout": str(lock_ms), "statement_timeout": str(statement_ms)}
        return await asyncpg.connect(dsn, timeout=10, server_settings=timeouts)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        with typed():
            async with engine.connect() as connection:
                return await connection.run_sync(work)
    finally:
        await engine.dispose()
