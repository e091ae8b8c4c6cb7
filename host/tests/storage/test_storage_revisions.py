"""The service and the schema's revision: at another one, older or newer, nothing is served, and it says why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner
from host_fake_enclave import ScriptedEnclave, scripted_settings

from adytum.app import Service, running_service
from adytum.cli import main
from adytum.client.errors import UnreachableError
from adytum.storage import migrate
from adytum.storage.database import Database, require_revision
from adytum.storage.errors import Fault, StorageError
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm

KNOWN = migrate.revisions()


async def set_revision(dsn: str, revision: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE adytum_migrations SET version_num = $1", revision)
    finally:
        await connection.close()


async def health(service: Service) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=service.base_url, trust_env=False) as http:
        answer = await http.get("/v1/health")
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("found", "fault"),
    [(None, Fault.SCHEMA_MISSING), (KNOWN[0], Fault.SCHEMA_OLDER), (KNOWN[-2], Fault.SCHEMA_OLDER),
     ("9999", Fault.SCHEMA_UNKNOWN), ("", Fault.SCHEMA_UNKNOWN), (KNOWN[-1], None)],
)  # fmt: skip
def test_which_revisions_fit(found: str | None, fault: Fault | None) -> None:
    if fault is None:
        require_revision(found, KNOWN)
        return
    with pytest.raises(StorageError) as misfit:
        require_revision(found, KNOWN)
    assert misfit.value.fault is fault
    assert misfit.value.code is Code.STORAGE_UNAVAILABLE


@pytest.mark.parametrize(("revision", "code"), [(KNOWN[-2], "SCHEMA_OLDER"), ("9999", "SCHEMA_UNKNOWN")])
async def test_at_another_revision_nothing_reaches_the_enclave_until_they_agree(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path, connect: Any, service: Service,
    revision: str, code: str, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Underneath a running service, as a migration would change it."""
    assert (await health(service))[1]["database_problem"] == ""
    await set_revision(fresh.dsn, revision)
    status, said = await health(service)
    assert (status, said["ready"], said["database"], said["database_problem"]) == (503, False, "down", code)
    assert f"nothing is served: {code} (the database is at {revision}, the program at {KNOWN[-1]})" in caplog.text
    executed = enclave.executed
    async with connect() as adytum:
        with pytest.raises(UnreachableError) as refused:
            await adytum.generate_key(Algorithm.ED25519, labels=["hot"])
        assert refused.value.code is Code.STORAGE_UNAVAILABLE
        assert code in refused.value.field
        assert enclave.executed == executed
        assert await fresh.count("keys") == 0
        await set_revision(fresh.dsn, KNOWN[-1])
        assert (await health(service))[1]["database_problem"] == ""
        await asyncio.wait_for(service.pool.ready(), 20)
        await adytum.generate_key(Algorithm.ED25519, labels=["hot"])
    assert "the schema is as it should be" in caplog.text


@pytest.mark.parametrize(("revision", "code"), [(KNOWN[-2], "SCHEMA_OLDER"), ("9999", "SCHEMA_UNKNOWN")])
async def test_a_service_starts_at_another_revision_and_opens_when_they_agree(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path, revision: str, code: str
) -> None:
    await set_revision(fresh.dsn, revision)
    settings = scripted_settings(enclave, tmp_path)
    async with running_service(settings, enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.05) as running:
        status, said = await health(running)
        assert (status, said["database_problem"]) == (503, code)
        await set_revision(fresh.dsn, KNOWN[-1])
        await running.ready(20)
        assert (await health(running))[0] == 200


async def test_with_migrate_an_older_schema_is_brought_forward_and_an_unknown_one_refused(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path
) -> None:
    await migrate.downgrade(fresh.dsn, KNOWN[-2])
    settings = scripted_settings(enclave, tmp_path)
    more = {"enclave": enclave, "database": fresh.dsn, "supervisor_poll_s": 0.05, "migrate_first": True}
    async with running_service(settings, **more) as running:
        await running.ready(20)
    assert (await migrate.status(fresh.dsn)).current == KNOWN[-1]
    await set_revision(fresh.dsn, "9999")
    with pytest.raises(StorageError) as unknown:
        async with running_service(settings, **more):
            pass
    assert unknown.value.fault is Fault.SCHEMA_UNKNOWN


async def test_an_empty_database_is_a_missing_schema(empty_database: Any) -> None:
    database = Database(empty_database.dsn, revisions=KNOWN)
    assert await database.problem() == "SCHEMA_MISSING"
    with pytest.raises(StorageError):
        database.require()
    await migrate.upgrade(empty_database.dsn)
    assert await database.problem() == ""
    database.require()
    await migrate.downgrade(empty_database.dsn, "base")
    assert await database.problem() == "SCHEMA_MISSING"
    await database.close()


def run(config: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(main, ["migrate", *arguments, "-c", str(config), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


@pytest.fixture
def config(fresh: Any, enclave: ScriptedEnclave, tmp_path: Path) -> Path:
    path = tmp_path / "adytum.yaml"
    path.write_text(json.dumps({"tee": {"enabled": False}, "database": {"dsn": fresh.dsn}}))
    return path


def test_the_commands_say_that_a_revision_is_unknown(fresh: Any, config: Path) -> None:
    asyncio.run(set_revision(fresh.dsn, "9999"))
    status, said, _ = run(config, "status")
    assert (status, said["current"], said["known"], said["pending"]) == (0, "9999", False, [])
    shown = CliRunner().invoke(main, ["migrate", "status", "-c", str(config)]).output
    assert "does not know" in shown
    for arguments in (("up",), ("down", "--to", "base", "--yes-delete-data")):
        status, said, _ = run(config, *arguments)
        assert (status, said["error"]["code"]) == (1, "SCHEMA_UNKNOWN")
        assert said["error"]["retryable"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--to", "nope"),
        ("up", "--to", KNOWN[0]),
        ("up", "--to", ""),
        ("down", "--to", "nope", "--yes-delete-data"),
        ("down", "--to", "head~", "--yes-delete-data"),
    ],
)
def test_no_such_revision_is_one_line(fresh: Any, config: Path, arguments: tuple[str, ...]) -> None:
    status, said, _ = run(config, *arguments)
    assert (status, said["error"]["code"]) == (1, "REVISION_UNKNOWN")
    shown = CliRunner().invoke(main, ["migrate", *arguments, "-c", str(config)])
    assert (shown.exit_code, len(shown.output.splitlines())) == (1, 1)
    assert "Traceback" not in shown.output
    assert asyncio.run(migrate.status(fresh.dsn)).current == KNOWN[-1]


async def test_going_to_where_one_is_changes_nothing(fresh: Any) -> None:
    await migrate.upgrade(fresh.dsn)
    await migrate.downgrade(fresh.dsn, KNOWN[-1])
    with pytest.raises(AdytumError):
        await migrate.upgrade(fresh.dsn, KNOWN[-2])
    assert (await migrate.status(fresh.dsn)).current == KNOWN[-1]


async def test_no_connection_is_handed_out_at_another_revision(fresh: Any) -> None:
    """Neither a new one, nor one that was opened before somebody migrated."""
    database = Database(fresh.dsn, revisions=KNOWN)
    await database.fetch("SELECT 1")
    await set_revision(fresh.dsn, "9999")
    young = Database(fresh.dsn, revisions=KNOWN)
    with pytest.raises(StorageError):
        await young.fetch("SELECT 1")
    with pytest.raises(StorageError):
        await database.check()
    with pytest.raises(StorageError):
        await database.fetch("SELECT 1")
    await set_revision(fresh.dsn, KNOWN[-1])
    for one in (database, young):
        await one.fetch("SELECT 1")
        one.require()
        await one.close()
