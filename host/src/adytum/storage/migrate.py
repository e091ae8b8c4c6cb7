"""Migrations, forward and back, run from the program (no alembic.ini, no shell).

A migration waits at most `lock_timeout_ms` for a lock, so that it never queues in front of live traffic, and runs at
most `statement_timeout_ms` a statement. Each migration is one transaction. Two that start together: one waits
(advisory lock). Once `adytum migrate grant` has handed the schema to `adytum_migrator`, whoever may act as that role
does, so that what a migration makes belongs to it too.

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
from alembic.util.exc import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from adytum.storage.database import require_revision
from adytum.storage.errors import UNAVAILABLE, Fault, StorageError, connecting, driver_error, sqlstate_of, typed
from adytum.storage.roles import MAY_ACT, MIGRATOR

T = TypeVar("T")

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 120_000
_ADVISORY_LOCK = 0x41647974756D  # "Adytum"
_VERSION_TABLE = "adytum_migrations"
_BASE = "base"
_HEAD = "head"

# The schema is the migrator's, what is there of it too, and we may act as he.
_ACT = f"""
SELECT 1 FROM pg_roles r JOIN pg_namespace n ON n.nspname = 'public' AND n.nspowner = r.oid
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'adytum_migrations'
WHERE r.rolname = $1 AND (c.oid IS NULL OR c.relowner = r.oid) AND pg_has_role(r.oid, {MAY_ACT})
"""  # noqa: S608 (our own words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`current`: the database's revision, None when it is empty. `pending`: revisions to apply, oldest first. `known`:
    False when this program does not know `current`; then it knows nothing of what is pending either."""

    current: str | None
    head: str
    pending: tuple[str, ...]
    known: bool = True


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
    """Bring the database to `target`. Errors: STORAGE_UNAVAILABLE; as StorageError SCHEMA_UNKNOWN, REVISION_UNKNOWN (no
    such target, or one behind), MIGRATION_FAILED. The database is then at a whole revision."""
    await _run(dsn, target, lambda config: command.upgrade(config, target), lock_timeout_ms, statement_timeout_ms)


async def downgrade(
    dsn: str,
    target: str,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> None:
    """Go back to `target` ("base" empties the database: sealed keys are lost with it). Errors: as `upgrade`'s."""
    await _run(
        dsn, target, lambda config: command.downgrade(config, target), lock_timeout_ms, statement_timeout_ms, back=True
    )


async def status(dsn: str) -> Status:
    """Where the database stands. Changes nothing."""
    current = await _with_connection(dsn, _current, LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS)
    history = revisions()
    if current is not None and current not in history:
        return Status(current=current, head=history[-1], pending=(), known=False)
    done = history.index(current) + 1 if current is not None else 0
    return Status(current=current, head=history[-1], pending=history[done:])


def _current(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
    return context.get_current_revision()


def revisions() -> tuple[str, ...]:
    """Every revision that this program knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


async def _run(
    dsn: str, target: str, action: Callable[[Config], None], lock_ms: int, statement_ms: int, *, back: bool = False
) -> None:
    config, known = _config(), revisions()

    def migrate(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT pg_advisory_lock(:id)"), {"id": _ADVISORY_LOCK})
        connection.commit()  # the lock is the session's, so it outlives this transaction
        current = _current(connection)
        connection.commit()
        _require_target(current, target, known, back=back)
        config.attributes["connection"] = connection
        try:
            action(config)
        except CommandError:
            raise StorageError(Fault.MIGRATION) from None

    await _with_connection(dsn, migrate, lock_ms, statement_ms)


def _require_target(current: str | None, target: str, known: tuple[str, ...], *, back: bool) -> None:
    """Going forward to what is behind, or back to what is ahead, does nothing, and nobody means that."""
    if current is not None and current not in known:
        require_revision(current, known)
    places = {_BASE: -1, _HEAD: len(known) - 1} | {revision: place for place, revision in enumerate(known)}
    if target not in places:
        raise StorageError(Fault.REVISION_UNKNOWN, f"known: {_BASE}, {', '.join(known)}, {_HEAD}")
    here = -1 if current is None else known.index(current)
    if places[target] > here if back else places[target] < here:
        raise StorageError(
            Fault.REVISION_UNKNOWN, f"{target} is {'ahead' if back else 'behind'}: at {current or _BASE}"
        )


async def _with_connection(dsn: str, work: Callable[[sa.Connection], T], lock_ms: int, statement_ms: int) -> T:
    async def connect() -> asyncpg.Connection:
        timeouts = {"lock_timeout": str(lock_ms), "statement_timeout": str(statement_ms)}
        with connecting(dsn):
            connection = await asyncpg.connect(dsn, timeout=10, server_settings=timeouts)
        try:
            if await connection.fetchval(_ACT, MIGRATOR):
                await connection.execute(f"SET ROLE {MIGRATOR}")
        except BaseException:
            await connection.close()
            raise
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        with typed():
            try:
                async with engine.connect() as connection:
                    return await connection.run_sync(work)
            except sa.exc.DBAPIError as error:
                if isinstance(driver_error(error), UNAVAILABLE):
                    raise
                raise StorageError(Fault.MIGRATION, sqlstate_of(error)) from None
    finally:
        await engine.dispose()
