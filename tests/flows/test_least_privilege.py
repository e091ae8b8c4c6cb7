"""The service with the rights of `adytum_service` alone: all of it works, and a thief of its login rewrites nothing."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from wallet import TRANSFER, allow_everything, unsigned

from adytum.client.errors import RefusedError
from adytum_sim.host import running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import running_stack
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm, KeyState

STATES = ["enable_key", "disable_key", "schedule_deletion", "cancel_deletion", "delete_key"]


async def test_the_service_does_its_work_with_its_own_role(short_directory: Path) -> None:
    alice = Person.new("alice")
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False, least_privilege=True) as host,
        host.client(alice) as client,
    ):
        rules = [allow_everything(), allow_everything("states", operations=STATES)]
        await client.put_policy(signed_policy(stack.policy([alice.as_principal("signer")], rules), *stack.admins))
        key = (await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result.key_id
        transaction = bytes.fromhex(unsigned(TRANSFER))
        first = await client.sign_ethereum(key, transaction)
        with pytest.raises(RefusedError):
            await client.generate_key(Algorithm.P256, labels=["elsewhere"])
        assert (await client.reseal(key)).result.record_version == 2

        disabled = await client.disable_key(key)
        assert (disabled.result.state, disabled.result.record_version) == (KeyState.DISABLED, 3)
        with pytest.raises(RefusedError) as refused:
            await client.sign_ethereum(key, transaction)
        assert refused.value.code is Code.KEY_STATE
        assert [k["status"] for k in (await client.get("/v1/keys?tenant=acme&status=disabled"))["keys"]] == ["disabled"]
        await client.enable_key(key)
        assert (await client.sign_ethereum(key, transaction)).result.encoded == first.result.encoded
        await client.schedule_deletion(key, 7)
        [due] = (await client.get("/v1/keys?tenant=acme&status=pending_deletion"))["keys"]
        assert due["deletion_date"] is not None
        assert (await client.get("/v1/keys?tenant=acme&due=true"))["keys"] == []
        with pytest.raises(RefusedError) as refused:
            await client.delete_key(key)
        assert (refused.value.code, refused.value.field) == (Code.KEY_STATE, "$.delete_after")
        await client.cancel_deletion(key)

        address = first.receipt.receipt.summary["to"]
        for query, found in (
            ("label=treasury", 1),
            ("label=cold", 0),
            (f"named={key}", 1),
            (f"named={due['address'].lower()}", 1),
            (f"named={due['public_key']}", 1),
            (f"named={address}", 0),
            ("algorithm=ed25519", 0),
        ):
            assert len((await client.get(f"/v1/keys?tenant=acme&{query}"))["keys"]) == found, query
        for query in ("status=lost", "label=%27", "named=%27%3B--"):
            with pytest.raises(RefusedError) as wrong:
                await client.get(f"/v1/keys?tenant=acme&{query}")
            assert wrong.value.code is Code.REQUEST_INVALID

        thief = await asyncpg.connect(host.dsn.replace("postgres@", "wallet@", 1))
        for statement in (
            "UPDATE receipts SET code = ''",
            "DELETE FROM receipts",
            "UPDATE key_envelopes SET version = 9",
            "DELETE FROM requests",
            "DROP TABLE receipts",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await thief.execute(statement)
        await thief.close()
