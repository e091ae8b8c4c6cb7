"""Limits through the whole deployment: HTTP, PostgreSQL, a restarted enclave, the admins' reset."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from limited import LIMIT
from wallet import allow_everything, ethereum

from adytum.client import AsyncAdytum
from adytum.client.errors import RefusedError
from adytum.client.usage import draft_reset, sign_reset
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import TENANT, running_stack
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm


async def stored(host: Host) -> tuple[int, int]:
    """(rows, highest version) of the host's snapshots."""
    connection = await asyncpg.connect(host.dsn)
    try:
        row = await connection.fetchrow("SELECT count(*) AS rows, max(version) AS version FROM usage_snapshots")
    finally:
        await connection.close()
    assert row is not None
    return row["rows"], row["version"] or 0


async def sign(client: AsyncAdytum, key_id: str) -> None:
    await client.sign_ethereum(key_id, bytes.fromhex(ethereum()["unsigned"]))


async def refused(call: object, code: Code) -> None:
    with pytest.raises(RefusedError) as caught:
        await call  # type: ignore[misc]
    assert caught.value.code is code


async def test_a_limit_holds_over_a_restart_and_admins_open_it_when_the_snapshot_is_lost(
    short_directory: Path,
) -> None:
    short_directory.chmod(0o755)
    async with running_stack(short_directory / "e", anchor={"kind": "host"}, configure=False) as stack:
        alice = Person.new("alice")
        document = stack.policy(
            [alice.as_principal("signer")],
            [
                allow_everything("keys", operations=["generate_key"]),
                allow_everything("spend", operations=["sign"], limits=["daily"]),
            ],
        )
        document["limits"] = [LIMIT]
        home = short_directory / "h"
        home.mkdir(mode=0o755)
        async with running_host(stack, home, durable=False) as host, host.client(alice) as client:
            await client.put_policy(signed_policy(document, *stack.admins))
            key = await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])
            await refused(sign(client, key.result.key_id), Code.USAGE_UNKNOWN)
            boot = (await client.get_usage())["boot_id"]
            reset = sign_reset(draft_reset(TENANT, boot, ["daily"]), [admin.signer for admin in stack.admins[:2]])
            assert (await client.reset_usage(reset))["boot_id"] == boot
            for _ in range(2):
                await sign(client, key.result.key_id)
            rows, version = await stored(host)
            assert rows == 1 and version > 0

            await stack.restart_enclave()
            await _served_again(host, boot)
            used = await client.get_usage()
            assert used["boot_id"] != boot and used["is_known"]
            assert [(e["used"], e["held"]) for e in used["entries"]] == [("2", "0")]
            await sign(client, key.result.key_id)
            await refused(sign(client, key.result.key_id), Code.LIMIT_EXCEEDED)
            assert (await stored(host))[1] > version
            with pytest.raises(RefusedError) as caught:  # a reset of the boot before
                await client.reset_usage(reset)
            assert caught.value.code is Code.USAGE_INVALID


async def _served_again(host: Host, before: str) -> None:
    """Until another boot is proven and prepared."""
    async with asyncio.timeout(60):
        while host.service.pool.lead().boot_id in ("", before):
            await asyncio.sleep(0.05)
