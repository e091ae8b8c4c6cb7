"""Fixtures of the host's tests: one PostgreSQL for each test process, one database for each test, a scripted enclave.

Databases are copies of a migrated template, so that no test sees another's rows and none pays for migrations.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host_fake_enclave import ScriptedEnclave, scripted_settings

from adytum.app import Service, running_service
from adytum.client import AsyncAdytum, KeySigner, Retries
from adytum.storage import migrate
from adytum.storage.database import Database
from adytum.storage.embedded import EmbeddedPostgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    directory = Path(tempfile.mkdtemp(prefix="adytum-host-"))
    directory.chmod(0o711)  # the server runs as another user when we are root
    try:
        with EmbeddedPostgres(directory / "pg", durable=False) as server:
            _sql(server.dsn(), "CREATE DATABASE template_adytum")
            asyncio.run(migrate.upgrade(server.dsn("template_adytum")))
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sql(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


async def _admin(postgres: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Breakable:
    """A database of its own that a test can take away and give back."""

    def __init__(self, postgres: EmbeddedPostgres, name: str) -> None:
        self.name = name
        self.dsn = postgres.dsn(name)
        self._postgres = postgres

    async def take_away(self) -> None:
        await _admin(self._postgres, f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        await _admin(
            self._postgres,
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{self.name}'",
        )

    async def give_back(self) -> None:
        await _admin(self._postgres, f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def count(self, table: str) -> int:
        return int((await self.rows(f"SELECT count(*) FROM {table}"))[0][0])


@pytest.fixture
async def empty_database(postgres: EmbeddedPostgres) -> AsyncIterator[Breakable]:
    """Without tables."""
    name = f"empty_{next(_numbers)}"
    await _admin(postgres, f"CREATE DATABASE {name}")
    yield Breakable(postgres, name)
    await _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def fresh(postgres: EmbeddedPostgres) -> AsyncIterator[Breakable]:
    """Migrated and empty."""
    name = f"test_{next(_numbers)}"
    await _admin(postgres, f"CREATE DATABASE {name} TEMPLATE template_adytum")
    yield Breakable(postgres, name)
    await _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(fresh: Breakable) -> AsyncIterator[Database]:
    made = Database(fresh.dsn, pool_size=4, connect_timeout=2, statement_timeout=2, lock_timeout=0.2)
    yield made
    await made.close()


@pytest.fixture
def enclave() -> ScriptedEnclave:
    return ScriptedEnclave()


@pytest.fixture
async def service(fresh: Breakable, enclave: ScriptedEnclave, tmp_path: Path) -> AsyncIterator[Service]:
    """A running service whose gate is open."""
    settings = scripted_settings(enclave, tmp_path)
    async with running_service(settings, enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.05) as running:
        await running.ready()
        yield running


Connect = Callable[..., AbstractAsyncContextManager[AsyncAdytum]]


@pytest.fixture
def connect(service: Service, enclave: ScriptedEnclave) -> Connect:
    """`async with connect() as adytum`: an SDK client of `service` that expects the scripted enclave."""

    @asynccontextmanager
    async def open_client(**changes: Any) -> AsyncIterator[AsyncAdytum]:
        arguments: dict[str, Any] = {
            "base_url": service.base_url,
            "tenant": "acme",
            "signer": KeySigner(enclave.client_key),
            "expected": enclave.allow_list,
            "anchors": (enclave.pki.anchor,),
            "retries": Retries(attempts=3, first_s=0.01, most_s=0.02),
        } | changes
        async with AsyncAdytum(**arguments) as adytum:
            yield adytum

    return open_client
