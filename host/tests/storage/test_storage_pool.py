"""Connections are given back without a query: so nothing may be left on one that a query would have to undo."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg

import adytum
from adytum.storage.database import Database

SESSION_STATE = re.compile(
    r"\bLISTEN\b|add_listener|add_log_listener|pg_(?:try_)?advisory_lock(?:_shared)?\(|WITH HOLD|TEMP(?:ORARY)? TABLE"
    r"|SET SESSION|set_config\(|[\"';]\s*SET [a-z_.]+ *(?:=|TO)"
)
OF_THEIR_OWN = {"migrate.py"}  # a connection that is closed afterwards


def test_no_statement_of_ours_leaves_something_on_its_session() -> None:
    sources = sorted(Path(adytum.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    found = {path.name: SESSION_STATE.findall(path.read_text()) for path in sources}
    assert {name for name, places in found.items() if places} == OF_THEIR_OWN
    for bad in ('"LISTEN x"', "SELECT pg_advisory_lock(1)", '"SET jit = on"', "CREATE TEMP TABLE t (a int)"):
        assert SESSION_STATE.search(bad), bad


async def test_a_connection_comes_back_without_a_query_and_without_a_transaction(database: Database) -> None:
    said: list[str] = []

    def note(record: asyncpg.connection.LoggedQuery) -> None:
        said.append(record.query)

    async with database.connection() as connection:
        pid = connection.get_server_pid()
        connection.add_query_logger(note)
        await connection.fetchval("SELECT 1")
    async with database.connection() as connection:
        assert connection.get_server_pid() == pid
        await connection.fetchval("SELECT 2")
    assert said == ["SELECT 1", "SELECT 2"]


async def test_a_transaction_that_was_left_open_is_rolled_back(database: Database) -> None:
    async with database.connection() as connection:
        pid = connection.get_server_pid()
        await connection.execute("BEGIN")
        await connection.execute("CREATE TABLE left_open (a int)")
        connection._loop.set_exception_handler(lambda *_: None)  # asyncpg complains, rightly
    async with database.connection() as connection:
        assert connection.get_server_pid() == pid
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT to_regclass('left_open')") is None
