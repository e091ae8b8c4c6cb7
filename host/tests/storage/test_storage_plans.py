"""The lists of requests and keys go by an index, whatever is asked for: the very queries, on tables with some rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from adytum.storage import reads, requests
from adytum.storage.database import Database
from adytum.storage.reads import KeyFilter
from adytum.storage.schema import REQUEST_STATES

ROWS = 4000
FILL = f"""
INSERT INTO keys (key_id, tenant, public_key, algorithm, kind, status, labels, address)
SELECT 'key-' || md5(i::text), 'acme', md5(i::text), 'secp256k1', 'signing-key',
       CASE WHEN i % 1000 = 0 THEN 'disabled' WHEN i % 1000 = 1 THEN 'pending_deletion' ELSE 'active' END,
       CASE WHEN i = 7 THEN '["rare"]'::jsonb ELSE '["treasury"]'::jsonb END, '0x' || md5((i + 1)::text)
FROM generate_series(1, {ROWS}) i;
INSERT INTO requests (tenant, request_id, body_hash, stamp_key, operation, state, result, code, field, receipt_chain,
                      receipt_sequence)
SELECT 'acme', 'r-' || md5(i::text), 'h', 'k', 'sign',
       CASE WHEN i % 1000 = 0 THEN 'rejected' WHEN i % 500 = 0 THEN 'pending' WHEN i % 100 = 0 THEN 'refused'
            ELSE 'done' END,
       '{{}}', CASE WHEN i % 100 = 0 THEN 'X' ELSE '' END, '', 'chain', i FROM generate_series(1, {ROWS}) i;
INSERT INTO receipts (chain, sequence, envelope, body_hash, tenant, request_id, "time", decision, code)
SELECT 'chain', i, 'x', 'h', 'acme', 'r-' || md5(i::text), 1, 'allow', '' FROM generate_series(1, {ROWS}) i;
ANALYZE keys; ANALYZE requests; ANALYZE receipts;
"""


class Recorder:
    """Stands for a database: remembers what was asked, and has no rows."""

    def __init__(self) -> None:
        self.query, self.arguments, self.before = "", tuple[object, ...](), ""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Recorder]:
        yield self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def execute(self, statement: str) -> None:
        self.before = statement

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        self.query, self.arguments = query, arguments
        return []


async def plan(dsn: str, asked: Recorder) -> str:
    """As the pool plans it."""
    connection = await asyncpg.connect(
        dsn, statement_cache_size=0, server_settings={"plan_cache_mode": "force_generic_plan", "jit": "off"}
    )
    try:
        async with connection.transaction():
            if asked.before:
                await connection.execute(asked.before)
            types = ", ".join("int" if isinstance(one, int) else "text" for one in asked.arguments)
            values = ", ".join(str(one) if isinstance(one, int) else f"'{one}'" for one in asked.arguments)
            await connection.execute(f"PREPARE asked ({types}) AS {asked.query}")
            rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE asked ({values})")
    finally:
        await connection.close()
    return "\n".join(row[0] for row in rows)


@pytest.fixture
async def filled(fresh: Any) -> str:
    connection = await asyncpg.connect(fresh.dsn)
    await connection.execute(FILL)
    await connection.close()
    return str(fresh.dsn)


async def test_requests_in_each_state(filled: str) -> None:
    for state in ("", *REQUEST_STATES):
        asked = Recorder()
        await requests.page(asked, "acme", state=state, after="", limit=100)  # type: ignore[arg-type]
        found = await plan(filled, asked)
        others = {"": "requests_pkey", "done": "requests_pkey", "pending": "ix_requests_pending"}
        assert f"using {others.get(state, 'ix_requests_ended')} on requests" in found, (state, found)
        assert "Seq Scan on requests" not in found


async def test_keys_by_what_is_rare_and_by_what_is_common(filled: str) -> None:
    for only, wanted in (
        (KeyFilter(named="0xabc"), ["ix_keys_public_key", "ix_keys_address", "keys_pkey"]),
        (KeyFilter(label="rare"), ["ix_keys_labels"]),
        (KeyFilter(label="nobody"), ["ix_keys_labels"]),
        (KeyFilter(label="treasury"), ["ix_keys_tenant_key_id"]),
        (KeyFilter(), ["ix_keys_tenant_key_id"]),
        (KeyFilter(status="disabled"), ["ix_keys_tenant_status_key_id"]),
        (KeyFilter(due=True), ["ix_keys_tenant_status_key_id"]),
    ):
        asked = Recorder()
        await reads.list_keys(asked, "acme", after="", limit=100, only=only)  # type: ignore[arg-type]
        found = await plan(filled, asked)
        for index in wanted:
            assert index in found, (only, found)
        assert "Seq Scan on keys" not in found


async def test_what_is_found_is_the_same_by_either_way(filled: str, database: Database) -> None:
    async def ids(**only: str) -> list[str]:
        return [
            key.key_id for key in await reads.list_keys(database, "acme", after="", limit=10, only=KeyFilter(**only))
        ]

    [rare] = await ids(label="rare")
    view = await reads.get_key(database, rare)
    for named in (rare, view.public_key, view.address):
        assert await ids(named=named) == [rare]
    assert await ids(named="nobody") == []
    assert len(await ids(label="treasury")) == 10
    assert await ids(label="treasury", named=rare) == []
    for state, count in (("rejected", 4), ("pending", 4), ("refused", 32), ("done", 100), ("expired", 0), ("", 100)):
        assert len(await requests.page(database, "acme", state=state, after="", limit=100)) == count, state
