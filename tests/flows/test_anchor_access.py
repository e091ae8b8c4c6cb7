"""Sealed credentials of the anchor's table through the whole deployment: the command line seals them, the host stores
and presents them, and a restarted enclave counts on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dynamo import running_dynamo
from limited import LIMIT, USER, anchor_pipe, table_user
from wallet import allow_everything, ethereum

from adytum.cli import main
from adytum.client import AsyncAdytum
from adytum.client.errors import RefusedError, UnreachableError
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import running_stack
from adytum_wire import limits
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:moto", "ignore::ResourceWarning")


async def test_sealed_credentials_are_presented_to_each_boot(short_directory: Path) -> None:
    short_directory.chmod(0o755)
    home = short_directory / "h"
    home.mkdir(mode=0o755)
    async with running_dynamo() as dynamo:
        anchor = dynamo.manifest(limits.ANCHOR_PORT, "sealed")
        async with running_stack(short_directory / "e", anchor=anchor, configure=False) as stack:
            dynamo.door.account = stack.kms.account
            dynamo.door.known[stack.kms.access_key_id] = stack.kms.role
            dynamo.door.known[USER[0]] = table_user(stack, *USER)
            dynamo.door.only = USER[0]
            alice = Person.new("alice")
            keys = allow_everything("keys", operations=["generate_key", "seal_anchor", "reseal"])
            spend = allow_everything("spend", operations=["sign"], limits=["daily"])
            document = stack.policy([alice.as_principal("signer")], [keys, spend])
            document["limits"] = [LIMIT]
            async with anchor_pipe(stack, dynamo), running_host(stack, home, durable=False) as host:
                async with host.client(alice) as client:
                    await client.put_policy(signed_policy(document, *stack.admins))
                    with pytest.raises(UnreachableError) as unreachable:
                        await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])
                    assert unreachable.value.code is Code.ANCHOR_UNAVAILABLE
                    sealed = await asyncio.to_thread(seal, host, alice, home)
                    assert sealed.exit_code == 0, sealed.output
                    assert USER[1] not in sealed.output
                    said = json.loads(sealed.stdout)
                    assert said["access_key_id"] == USER[0]
                    key = await opened(client)
                    await spend_one(client, key)
                    item = dynamo.item()
                    assert item is not None

                    boot = host.service.pool.lead().boot_id
                    await stack.restart_enclave()
                    await served_again(host, boot)
                    await spend_one(client, key)
                    renewed = await client.reseal(said["key_id"])
                    assert renewed.result.record_version == 2
                    await spend_one(client, key)
                    with pytest.raises(RefusedError) as caught:
                        await spend_one(client, key)
                    assert caught.value.code is Code.LIMIT_EXCEEDED
                    assert dynamo.door.denied == 0, "the host's credentials were never used there"
                assert USER[1].encode() not in await host.dump()


def seal(host: Host, alice: Person, home: Path) -> Result:
    """As an operator does, with what `aws iam create-access-key` printed."""
    created = {"AccessKey": {"UserName": "adytum-anchor", "AccessKeyId": USER[0], "Status": "Active",
                             "SecretAccessKey": USER[1], "CreateDate": "2026-11-23T12:00:00+00:00"}}  # fmt: skip
    (home / "key.json").write_text(json.dumps(created))
    pem = alice.signer._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (home / "alice.pem").write_bytes(pem)
    return CliRunner().invoke(
        main,
        [
            *("usage", "seal-anchor", "--file", str(home / "key.json"), "--label", "treasury", "--json"),
            *("--url", host.service.base_url, "--tenant", "acme", "--key", str(home / "alice.pem")),
            *("--roots", str(home / "roots.pem"), "--pcr", host.stack.allowed_pcrs[0]),
        ],
    )


async def opened(client: AsyncAdytum) -> str:
    """A key, once the host has presented the credentials and the policy again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result.key_id
            except (RefusedError, UnreachableError) as error:
                assert error.code in (Code.ANCHOR_UNAVAILABLE, Code.POLICY_MISSING), error
                await asyncio.sleep(0.1)


async def spend_one(client: AsyncAdytum, key_id: str) -> None:
    await client.sign_ethereum(key_id, bytes.fromhex(ethereum()["unsigned"]))


async def served_again(host: Host, before: str) -> None:
    """Until another boot is proven and prepared."""
    async with asyncio.timeout(60):
        while host.service.pool.lead().boot_id in ("", before):
            await asyncio.sleep(0.05)
