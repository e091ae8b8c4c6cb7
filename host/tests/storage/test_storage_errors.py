"""What cannot be mended by waiting has a name of its own, a sentence that says what to do, and no driver's text."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest
import sqlalchemy.exc
from alembic.util.exc import CommandError
from click.testing import CliRunner

from adytum.backup.connection import connected
from adytum.cli import main
from adytum.cli.output import report_failures
from adytum.storage import migrate, reads, roles
from adytum.storage.database import Database
from adytum.storage.errors import Fault, StorageError, typed
from adytum_wire.errors import AdytumError, Code

BROKEN = [
    ("nonsense", Fault.DSN),
    ("postgresql://u@h:port/db", Fault.DSN),
    ("postgresql://[::1/db", Fault.DSN),
    ("postgresql://u@127.0.0.1:1/db?sslmode=sometimes", Fault.DSN),
    ("postgresql://u@127.0.0.1:1/db?sslmode=verify-full&sslrootcert=/nowhere/root.pem", Fault.TLS),
    ("postgresql://u@127.0.0.1:1/db?sslmode=verify-full&sslrootcert={not_pem}", Fault.TLS),
    ("{server}/no_such_database?host={host}", Fault.MISSING),
    ("{stranger}/postgres?host={host}", Fault.LOGIN),
]
AWAY = ["postgresql://u@127.0.0.1:1/db", "postgresql://u@/db?host=/nowhere"]


@pytest.fixture
def place(postgres: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "not.pem").write_text("hello")
    server, _, host = postgres.dsn().partition("/postgres?host=")
    return {
        "server": server, "host": host, "not_pem": str(tmp_path / "not.pem"),
        "stranger": server.replace("postgres@", "nobody_knows_him@"),
    }  # fmt: skip


@pytest.mark.parametrize(("dsn", "fault"), BROKEN)
async def test_a_fault_of_the_settings_is_told_apart(place: dict[str, str], dsn: str, fault: Fault) -> None:
    dsn = dsn.format(**place)
    database = Database(dsn, connect_timeout=10)

    async def connect() -> None:
        async with connected(dsn):
            pass

    for attempt in (database.fetch("SELECT 1"), connect(), migrate.status(dsn), migrate.upgrade(dsn), roles.grant(dsn)):
        with pytest.raises(StorageError) as wrong:
            await attempt
        assert (wrong.value.fault, wrong.value.code) == (fault, Code.STORAGE_UNAVAILABLE)
    assert await database.problem() == fault.value
    await database.close()


@pytest.mark.parametrize("dsn", AWAY)
async def test_a_server_that_is_away_is_no_fault(dsn: str) -> None:
    database = Database(dsn)
    for attempt in (database.fetch("SELECT 1"), migrate.status(dsn), roles.grant(dsn)):
        with pytest.raises(AdytumError) as away:
            await attempt
        assert not isinstance(away.value, StorageError)
    assert await database.problem() == "STORAGE_UNAVAILABLE"
    await database.close()


@pytest.mark.parametrize(
    ("statement", "fault"),
    [("SELECT * FROM nothing", Fault.SCHEMA_MISSING), ("SELECT nothing FROM keys", Fault.SCHEMA_MISSING),
     ("SELECT nothing()", Fault.SCHEMA_MISSING), ("SELECT * FROM nowhere.keys", Fault.SCHEMA_MISSING),
     ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '42501'; END $$", Fault.PRIVILEGES),
     ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '58030'; END $$", None)],
)  # fmt: skip
async def test_a_statement_that_cannot_work(database: Database, statement: str, fault: Fault | None) -> None:
    with pytest.raises(AdytumError) as wrong:
        await database.execute(statement)
    assert wrong.value.code is Code.STORAGE_UNAVAILABLE
    assert getattr(wrong.value, "fault", None) is fault


def test_each_fault_has_a_sentence_and_a_field_for_clients() -> None:
    assert {fault.text for fault in Fault}.__len__() == len(Fault)
    error = StorageError(Fault.SCHEMA_OLDER, "0001", code=Code.AUDIT_UNAVAILABLE)
    assert (error.code, error.field) == (Code.AUDIT_UNAVAILABLE, "SCHEMA_OLDER: 0001")
    assert str(error).startswith("SCHEMA_OLDER (0001): The schema is older")


@pytest.mark.parametrize(
    ("dsn", "code"), [*((dsn, fault.value) for dsn, fault in BROKEN), (AWAY[0], "STORAGE_UNAVAILABLE")]
)
@pytest.mark.parametrize("command", [["migrate", "status"], ["migrate", "grant"], ["rotate", "list"]])
def test_a_command_says_it_in_one_line(
    place: dict[str, str], tmp_path: Path, dsn: str, code: str, command: list[str]
) -> None:
    config = tmp_path / "adytum.yaml"
    config.write_text(json.dumps({"tee": {"enabled": False}, "database": {"dsn": dsn.format(**place)}}))
    shown = CliRunner().invoke(main, [*command, "-c", str(config)])
    assert (shown.exit_code, len(shown.output.splitlines())) == (1, 1), shown.output
    assert code in shown.output
    said = json.loads(CliRunner().invoke(main, [*command, "-c", str(config), "--json"]).output)["error"]
    assert said["code"] == code
    assert said.get("retryable", True) is (code == "STORAGE_UNAVAILABLE")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncpg.UniqueViolationError("duplicate key (row: secret)"), "DATABASE_STATEMENT_FAILED"),
        (asyncpg.InterfaceError("cannot (row: secret)"), "DATABASE_STATEMENT_FAILED"),
        (
            sqlalchemy.exc.ProgrammingError("SELECT secret", {"a": "secret"}, Exception("secret")),
            "DATABASE_STATEMENT_FAILED",
        ),
        (CommandError("Can't locate secret"), "MIGRATION_FAILED"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_driver_speaks_to_the_user(error: Exception, code: str, as_json: bool) -> None:
    @click.command()
    @click.pass_context
    def command(ctx: click.Context) -> None:
        ctx.meta["adytum.json"] = as_json
        with report_failures(ctx):
            raise error

    shown = CliRunner().invoke(command)
    assert (shown.exit_code, len(shown.output.splitlines())) == (1, 1)
    assert code in shown.output
    assert "secret" not in shown.output
    if isinstance(error, asyncpg.PostgresError):
        assert "SQLSTATE 23505" in shown.output


async def test_typed_leaves_our_own_errors_alone() -> None:
    given = AdytumError(Code.NOT_FOUND, "$.x")
    with pytest.raises(AdytumError) as same, typed():
        raise given
    assert same.value is given


async def test_a_server_that_stops_leaves_no_stack_trace_in_the_log(
    fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncpg opens connections by itself to keep a least number of them, and logs each failure with its trace."""
    with caplog.at_level(logging.DEBUG):
        database = Database(fresh.dsn, pool_size=4, connect_timeout=2)
        await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.05)") for _ in range(4)))
        await fresh.take_away()
        with pytest.raises(AdytumError):
            await reads.newest_policies(database)
        pool = database._pool
        assert pool is not None
        assert pool.get_min_size() == 0
        await fresh.give_back()
        assert await reads.newest_policies(database) == []
        await database.close()
    assert [record for record in caplog.records if record.exc_info or record.name.startswith("asyncpg")] == []
