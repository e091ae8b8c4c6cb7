"""The host puts its whole database back to yesterday: what the enclave refuses by itself, and what is named to people.

The enclave keeps running: it knows newer versions, a newer policy and what was used. What it cannot know after a boot
of its own, the second copy's checkpoints tell, and `adytum restore check` says it in numbers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from wallet import TRANSFER, allow_everything, unsigned

from adytum.cli import main
from adytum.client import RefusedError
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import dsse
from adytum_wire.errors import Code
from adytum_wire.pae import USAGE_RESET, pae
from adytum_wire.types import Algorithm

LIMIT = {"id": "daily", "measure": "count", "asset": "*", "per": "tenant", "window_seconds": 3600, "max": "3"}
WORK = ["generate_key", "sign", "reseal", "disable_key"]


@dataclass(slots=True)
class Site:
    """`alice` pays within a limit from keys labelled `paid`, and without one from the others."""

    stack: Stack
    place: Path
    alice: Person = field(default_factory=lambda: Person.new("alice"))
    version: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Host]:
        """The service, on whatever database the host puts there."""
        audit = {"checkpointReceipts": 1, "checkpointSeconds": 0.1, "fileDirectory": str(self.place / "copies")}
        async with running_host(self.stack, self.place, durable=False, settings={"audit": audit}) as host:
            yield host

    def keep(self, name: str) -> None:
        """A copy of the disk, while the database is stopped."""
        subprocess.run(["cp", "-a", self.place / "pg" / "data", self.place / name], check=True)

    def put_back(self, name: str) -> None:
        subprocess.run(["rm", "-r", self.place / "pg" / "data"], check=True)
        subprocess.run(["cp", "-a", self.place / name, self.place / "pg" / "data"], check=True)

    async def put_policy(self, host: Host, generation: int) -> None:
        self.version += 1
        rules = [
            allow_everything("work", operations=WORK),
            allow_everything("make", operations=["generate_key", "reseal"], labels=["paid"]),
            allow_everything("pay", operations=["sign"], labels=["paid"], limits=["daily"]),
        ]
        document = self.stack.policy([self.alice.as_principal("signer")], rules, version=self.version)
        document |= {"limits": [LIMIT], "records": {"generation": generation, "min_generation": generation}}
        async with host.client(self.alice) as client:
            await client.put_policy(signed_policy(document, *self.stack.admins))

    async def sign(self, host: Host, key_id: str) -> None:
        async with host.client(self.alice) as client:
            await client.sign_ethereum(key_id, bytes.fromhex(unsigned(TRANSFER)))

    async def make(self, host: Host, label: str) -> str:
        async with host.client(self.alice) as client:
            made: Any = (await client.generate_key(Algorithm.SECP256K1, labels=[label])).result
        return str(made.key_id)

    async def refused(self, host: Host, key_id: str, code: Code) -> None:
        with pytest.raises(RefusedError) as caught:
            await self.sign(host, key_id)
        assert caught.value.code is code
        assert caught.value.receipt is not None  # the enclave's own word

    async def open_limits(self, host: Host) -> None:
        async with host.client(self.alice) as client:
            boot = (await client.attestation()).binding.boot_id
            data = json.dumps({"v": 1, "tenant": TENANT, "boot_id": boot, "limits": "*"}).encode()
            await client.reset_usage(
                dsse.build(
                    USAGE_RESET, data, [(a.public_key, a.sign(pae(USAGE_RESET, data))) for a in self.stack.admins]
                )
            )

    async def check(self, host: Host, *more: object) -> dict[str, tuple[str, int]]:
        """What `adytum restore check` names: lack to (subject, count)."""
        made = {
            "tee": {
                "kmsKeyARN": self.stack.key_arn,
                "allowedPCRs": self.stack.allowed_pcrs,
                "attestationRootsFile": str(self.place / "roots.pem"),
            },
            "database": {"dsn": host.dsn},
        }
        config = self.place / "check.yaml"
        config.write_text(json.dumps(made))
        words = ["restore", "check", "-c", str(config), "--json", *(str(one) for one in more)]
        result = await asyncio.to_thread(CliRunner().invoke, main, words)
        found = json.loads(result.stdout)["findings"]
        assert result.exit_code == (1 if found else 0)
        return {one["lack"]: (one["subject"], one["count"]) for one in found}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
        place = directory / "h"
        (place / "copies").mkdir(parents=True)
        place.chmod(0o711)
        async with running_stack(directory / "s", configure=False, anchor={"kind": "host"}) as stack:
            yield Site(stack, place)


async def receipts_copied(site: Site, host: Host) -> tuple[str, int]:
    """(chain, number) of the newest receipt, once the second copy has a checkpoint of it."""
    health = await site.stack.client.health()
    async with asyncio.timeout(30):
        while True:
            for file in (site.place / "copies").iterdir():
                for line in file.read_text().splitlines():
                    body = json.loads(json.loads(line)["checkpoint"]["body"])
                    if (body["chain"], body["sequence"]) == (health.boot_id, health.receipts):
                        return health.boot_id, health.receipts
            await asyncio.sleep(0.05)


async def test_a_database_put_back_under_a_running_enclave_brings_nothing_back(site: Site) -> None:
    async with site.open() as host:
        await site.put_policy(host, 1)
        await site.open_limits(host)
        disabled, retired, kept, paid = [
            await site.make(host, label) for label in ("treasury", "treasury", "treasury", "paid")
        ]
        await site.sign(host, retired)
        before = (await site.stack.client.health()).receipts
    site.keep("yesterday")
    async with site.open() as host:
        async with host.client(site.alice) as client:
            await client.disable_key(disabled)
            await client.reseal(disabled)  # the disabled record has been opened now, and counts (ADR 6)
        for _ in range(3):
            await site.sign(host, paid)
        await site.refused(host, paid, Code.LIMIT_EXCEEDED)
        await site.put_policy(host, 1)
        async with host.client(site.alice) as client:
            await client.reseal(kept)
        await site.sign(host, kept)
        _, after = await receipts_copied(site, host)
        assert await site.check(host, "--checkpoints", site.place / "copies") == {}
    site.put_back("yesterday")

    async with site.open() as host:
        state = await site.stack.client.health()
        assert state.policies == {TENANT: site.version}  # yesterday's policy was offered, and refused
        await site.refused(host, disabled, Code.RECORD_ROLLBACK)  # the key that was active yesterday
        await site.refused(host, kept, Code.RECORD_ROLLBACK)  # a version that was replaced
        await site.refused(host, paid, Code.LIMIT_EXCEEDED)  # what was used is counted in the enclave
        assert (await site.stack.client.health()).policies == state.policies

        # And people hear of it: from the service, which asks the enclave, and from the second copy.
        found = await host.service.database_watch.look()
        lacks = {(one.lack.value, one.subject): (one.expected, one.found) for one in found}
        assert lacks["POLICY_OLDER", TENANT] == (site.version, 1)
        expected, stored = lacks["USAGE_OLDER", TENANT]
        assert stored < expected
        await site.put_policy(host, 2)
        await site.refused(host, retired, Code.RECORD_RETIRED)  # no version of it was ever newer; its generation is old
        assert before < after


async def test_a_database_put_back_before_an_enclave_starts_anew_is_named_by_the_second_copy(site: Site) -> None:
    """A new boot knows nothing of yesterday. That the database does is proven from outside: by how many receipts the
    chain is short, and which chain is missing altogether."""
    async with site.open() as host:
        await site.put_policy(host, 1)
        key = await site.make(host, "treasury")
        chain, before = await receipts_copied(site, host)
    site.keep("yesterday")
    async with site.open() as host:
        for _ in range(4):
            await site.sign(host, key)
        await receipts_copied(site, host)
    await site.stack.restart_enclave()
    site.stack.reconnect()
    async with site.open() as host:
        await site.sign(host, key)
        second, count = await receipts_copied(site, host)
    site.put_back("yesterday")
    await site.stack.restart_enclave()
    site.stack.reconnect()
    async with site.open() as host:
        assert await site.check(host) == {}  # by itself it is whole
        found = await site.check(host, "--checkpoints", site.place / "copies")
        assert found == {"CHAIN_SHORT": (chain, 4), "CHAIN_MISSING": (second, count)}
        assert before + 4 > before
