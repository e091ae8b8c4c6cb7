"""A release takes over from another while clients sign: no failed request, and afterwards the old image is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from wallet import allow_everything, ethereum

from adytum.client import AsyncAdytum, KeySigner, Retries
from adytum.kms_policy.deployment import Deployment, Image, Roles
from adytum.releases import rollover, store
from adytum.releases.canary import Alert
from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.key_policy import policy_for
from adytum.releases.release import Release
from adytum.service.pool import Member
from adytum.storage.database import Database
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.sibling import Sibling, running_sibling
from adytum_sim.stack import TENANT, Stack, put_key_policy, running_stack
from adytum_verify import AllowList
from adytum_wire.errors import Code
from adytum_wire.messages import Refusal
from adytum_wire.types import Algorithm, derive_key_id

UNSIGNED = bytes.fromhex(ethereum()["unsigned"])


@dataclass(slots=True)
class Traffic:
    """Four clients that sign all the time, with no second try: one refusal and the test fails."""

    clients: list[AsyncAdytum]
    keys: list[str]
    count: int = 0
    chains: set[str] = field(default_factory=set)
    signatures: dict[str, set[str]] = field(default_factory=dict)
    stopped: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(self.clients):
                group.create_task(self._sign(client, number))

    async def _sign(self, client: AsyncAdytum, number: int) -> None:
        while not self.stopped:
            key = self.keys[(self.count + number) % len(self.keys)]
            answer = await client.sign_ethereum(key, UNSIGNED)  # verifies receipt and signature
            self.count += 1
            self.chains.add(answer.receipt.receipt.chain)
            self.signatures.setdefault(key, set()).add(getattr(answer.result, "signature", ""))

    async def more(self, count: int = 25) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.count + count
        async with asyncio.timeout(20):
            while self.count < wanted:
                await asyncio.sleep(0.01)


@dataclass(slots=True)
class Deployed:
    """`stack` is release a, `next` release b; the service knows the place of both."""

    stack: Stack
    next: Sibling
    host: Host
    database: Database
    alice: Person

    @property
    def a(self) -> Release:
        return Release(name="a", pcrs=self.stack.pcrs)

    @property
    def b(self) -> Release:
        return Release(name="b", pcrs=self.next.pcrs)

    def member(self, number: int) -> Member:
        return self.host.service.pool.members[number]

    def put_key_policy(self, *releases: Release) -> None:
        """As the break-glass role puts what `adytum release` prints."""
        kms = self.stack.kms
        roles = Roles(
            parent=kms.role_arn,
            admin=f"arn:aws:iam::{kms.account}:role/key-admin",
            break_glass=kms.operator.caller.principal_arn,
        )
        deployment = Deployment(
            key=self.stack.key_arn, roles=roles, tenants=(TENANT,), images=(Image("a", self.stack.pcrs),)
        )
        put_key_policy(kms, self.stack.key_arn, policy_for(deployment, releases))

    async def command(self, *arguments: str) -> dict[str, Any]:
        """Run `adytum` as an operator on the host would, with settings of its own."""
        kms, settings = self.stack.kms, self.host.service.settings.model_dump(mode="json", exclude_unset=True)
        settings["database"] = {"dsn": self.host.dsn}
        settings["aws"] = {
            "accessKeyId": kms.access_key_id,
            "secretAccessKey": kms.secret_access_key,
            "sessionToken": kms.session_token,
        }
        file = self.stack.directory / "adytum.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from adytum.cli import main; main()", *arguments, "-c", str(file), "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        found: dict[str, Any] = json.loads(output)
        return found

    def client(self, person: Person) -> AsyncAdytum:
        return AsyncAdytum(
            self.host.service.base_url,
            TENANT,
            person.signer,
            expected=AllowList.parse([*self.stack.allowed_pcrs, *self.next.allowed_pcrs]),
            anchors=(self.stack.kms.anchor,),
            retries=Retries(attempts=1),
        )

    async def until_proven(self, name: str) -> None:
        async with asyncio.timeout(20):
            while not any(r.release == name and r.is_proven for r in await store.reports(self.database)):
                await asyncio.sleep(0.05)

    async def until_traffic_is_on(self, name: str) -> None:
        async with asyncio.timeout(20):
            while any((r.state == "serving") != (r.release == name) for r in await store.reports(self.database)):
                await asyncio.sleep(0.05)


@pytest.fixture
async def deployed() -> AsyncIterator[Deployed]:
    """Release a serves alone, as the settings say. B's enclave runs, and nobody accepts it yet."""
    async with contextlib.AsyncExitStack() as cleanup:

        def directory() -> Path:
            path = Path(tempfile.mkdtemp(prefix="ad-"))
            path.chmod(0o711)
            cleanup.callback(shutil.rmtree, path, ignore_errors=True)
            return path

        first, second, place = directory(), directory(), directory()
        stack = await cleanup.enter_async_context(running_stack(first / "a"))
        sibling = await cleanup.enter_async_context(running_sibling(stack, second / "b", variant="b"))
        alice, watchman = Person.new("alice"), Ed25519PrivateKey.generate()
        key_file = place / "canary.pem"
        key_file.write_bytes(watchman.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        wanted = {
            "tenant": TENANT,
            "keyId": derive_key_id(TENANT, "canary-secret-1"),  # follows from the request that will make it
            "signerFile": str(key_file),
            "kmsEndpoint": stack.kms.endpoint,
            "intervalSeconds": 3600,
        }
        host = await cleanup.enter_async_context(
            running_host(stack, place, durable=False, others=[sibling.directory], settings={"canary": wanted})
        )
        database = Database(host.dsn)
        cleanup.push_async_callback(database.close)
        made = Deployed(stack, sibling, host, database, alice)
        guard = Person("watchman", KeySigner(watchman))
        only_canary = allow_everything("canary", principals=["role:canary"], operations=["unseal"], labels=["canary"])
        principals = [alice.as_principal("signer"), guard.as_principal("canary")]
        document = stack.policy(principals, [allow_everything(labels="*"), only_canary])
        async with made.client(alice) as client:
            await client.put_policy(signed_policy(document, *stack.admins))
            await client.seal(b"nothing of value", labels=["canary"], request_id="canary-secret-1")
        yield made


@contextlib.asynccontextmanager
async def traffic_of(deployed: Deployed, *, keys: int = 3) -> AsyncIterator[Traffic]:
    async with contextlib.AsyncExitStack() as cleanup:
        clients = [await cleanup.enter_async_context(deployed.client(deployed.alice)) for _ in range(4)]
        made = [await clients[0].generate_key(Algorithm.SECP256K1, labels=["hot"]) for _ in range(keys)]
        traffic = Traffic(clients, [answer.result.key_id for answer in made])
        task = asyncio.create_task(traffic.run())
        try:
            await traffic.more()
            yield traffic
            await traffic.more()
        finally:
            traffic.stopped = True
            await task  # raises what a client was refused with


async def test_a_release_takes_over_without_a_failed_request(deployed: Deployed) -> None:
    a, b, database = deployed.a, deployed.b, deployed.database
    old, new = deployed.member(0), deployed.member(1)
    assert new.gate.proof is None  # not in the settings, not in the database
    async with traffic_of(deployed) as traffic:
        await rollover.add(database, "a", a)
        await deployed.until_proven("a")
        await rollover.promote(database, "a")
        with pytest.raises(ReleaseError) as caught:
            await rollover.retire(database, "a")
        assert caught.value.code is ReleaseCode.PROMOTED
        await traffic.more()

        await rollover.plan(database, b)
        with pytest.raises(ReleaseError) as caught:
            await rollover.promote(database, "b")
        assert caught.value.code is ReleaseCode.STATE
        deployed.put_key_policy(a, b)  # the overlap
        await rollover.add(database, "b")
        await deployed.until_proven("b")
        assert traffic.chains == {old.boot_id}  # proven, and still idle
        await rollover.promote(database, "b")
        await deployed.until_traffic_is_on("b")
        await traffic.more()
        assert traffic.chains == {old.boot_id, new.boot_id}

        traffic.chains.clear()
        await rollover.retire(database, "a")
        deployed.put_key_policy(b)
        await traffic.more(100)
        assert traffic.chains == {new.boot_id}
    assert traffic.count > 200
    assert all(len(found) == 1 for found in traffic.signatures.values())  # equal requests, equal signatures

    # the old image is refused by everybody
    assert (old.gate.proof, old.gate.reason) == (None, "RELEASE_RETIRED")
    assert not await old.gate.check()
    verdict = await deployed.host.service.canary.run()
    assert verdict.as_json() | {"at": 0} == {
        "ok": True,
        "alert": "",
        "unattested": "AccessDeniedException",
        "retired": {"enclave-1": "KMS_DENIED"},
        "problem": "",
        "at": 0,
    }
    assert b"adytum_canary_ok 1.0" in deployed.host.service.metrics.render()
    said = await deployed.command("release", "canary")
    assert (said["ok"], said["retired"]) == (True, {"enclave-1": "KMS_DENIED"})
    shown = await deployed.command("release", "status")
    assert [(r["name"], r["state"], r["serving"]) for r in shown["releases"]] == [
        ("a", "retired", 0),
        ("b", "promoted", 1),
    ]
    cold = await deployed.stack.ask(
        deployed.alice, "generate_key", algorithm="secp256k1", labels=["hot"]
    )  # past the service, as a hostile host would
    assert isinstance(cold, Refusal)
    assert cold.code == Code.KMS_DENIED.value


async def test_a_policy_that_still_allows_the_old_image_raises_the_alarm(deployed: Deployed) -> None:
    a, b, database = deployed.a, deployed.b, deployed.database
    deployed.put_key_policy(a, b)
    for release in (a, b):
        await rollover.add(database, release.name, release)
        await deployed.until_proven(release.name)
    await rollover.promote(database, "b")
    await rollover.retire(database, "a")  # and nobody takes a out of the key policy
    service = deployed.host.service
    while deployed.member(0).gate.reason != "RELEASE_RETIRED":
        await asyncio.sleep(0.05)
    verdict = await service.canary.run()
    assert (verdict.ok, verdict.alert, verdict.retired) == (False, Alert.RETIRED_ALLOWED, {"enclave-1": ""})
    assert b"adytum_canary_ok 0.0" in service.metrics.render()
    deployed.put_key_policy(b)
    assert (await service.canary.run()).ok


async def test_a_policy_that_allows_unattested_use_raises_the_alarm(deployed: Deployed) -> None:
    """As the default key policy does: the account's root, so that IAM alone decides."""
    kms, service = deployed.stack.kms, deployed.host.service
    assert (await service.canary.run()).ok
    root = {"AWS": f"arn:aws:iam::{kms.account}:root"}
    statement = {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
    direct = {"Effect": "Allow", "Principal": {"AWS": kms.role_arn}, "Action": "kms:Decrypt", "Resource": "*"}
    put_key_policy(kms, deployed.stack.key_arn, {"Version": "2012-10-17", "Statement": [statement, direct]})
    verdict = await service.canary.run()
    assert (verdict.ok, verdict.alert, verdict.unattested) == (False, Alert.UNATTESTED_ALLOWED, "")


async def test_a_canary_that_could_not_run_is_not_well(deployed: Deployed) -> None:
    service = deployed.host.service
    assert (await service.canary.run()).ok
    deployed.stack.kms.faults.set(refuse=1)
    verdict = await service.canary.run()
    assert (verdict.ok, verdict.alert, verdict.problem) == (False, Alert.NOT_RUN, "KMSInternalException")
    assert b"adytum_canary_ok 0.0" in service.metrics.render()


async def test_an_enclave_that_dies_loses_no_signature_and_comes_back_when_proven(deployed: Deployed) -> None:
    deployed.put_key_policy(deployed.a, deployed.b)
    for release in (deployed.a, deployed.b):
        await rollover.add(deployed.database, release.name, release)
        await deployed.until_proven(release.name)
    async with traffic_of(deployed, keys=16) as traffic:  # no release is promoted: both serve, each its own keys
        async with asyncio.timeout(20):
            while len(traffic.chains) < 2:
                await asyncio.sleep(0.01)
        gone = deployed.member(1).boot_id
        await deployed.next.enclave.kill()
        await traffic.more(100)
        traffic.chains.clear()
        await traffic.more(50)
        assert gone not in traffic.chains
        await deployed.next.enclave.start()
        async with asyncio.timeout(20):
            while not deployed.member(1).boot_id:
                await asyncio.sleep(0.05)
        assert deployed.member(1).boot_id != gone
    assert all(len(found) == 1 for found in traffic.signatures.values())
