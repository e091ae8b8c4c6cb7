"""A deployment in the middle of a rotation, for tests and the bench: a rotator, many records, and clients that sign.

async with running_rotation(directory, records=200) as site:
    await site.next_generation()
    job = await site.start()
    async with site.worker(), site.traffic() as traffic:
        await site.ended(job.id)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adytum.app import read_manifest
from adytum.client import AsyncAdytum, Retries, UntrustedError
from adytum.client.checks import Answer
from adytum.client.signers import KeySigner
from adytum.rotation import job as jobs
from adytum.rotation import progress
from adytum.rotation.job import Job
from adytum.rotation.plan import Selection, Target, read_target
from adytum.rotation.progress import Progress
from adytum.rotation.queue import Queue
from adytum.rotation.wiring import Rotator, open_database
from adytum.settings import Settings, load
from adytum.storage.database import Database
from adytum_sim.bench.records import make_records, seed
from adytum_sim.demo.transfer import Transfer
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire.errors import AdytumError
from adytum_wire.manifest import manifest_hash
from adytum_wire.requests import EthereumTransaction
from adytum_wire.types import SigningScheme

LABEL = "treasury"
PATIENT = Retries(attempts=240, first_s=0.05, most_s=0.5)


def policy(
    stack: Stack, alice: Person, rotator: Person, *, version: int, generation: int, floor: int
) -> dict[str, Any]:
    """`alice` uses keys, `rotator` reseals them, and neither may do what the other may."""
    common = {
        "effect": "allow",
        "labels": "*",
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "content": "*",
        "approvals": "none",
        "limits": "none",
    }
    uses = ["sign", "generate_key", "unseal", "seal", "derive_key", "disable_key", "enable_key"]
    rules = [
        {"id": "use", "operations": uses, "principals": ["role:signer"], **common},
        {"id": "rotate", "operations": ["reseal"], "principals": ["role:rotator"], **common},
        {"id": "state", "operations": ["rotation_statement"], "principals": ["role:rotator"], **common},
    ]
    people = [alice.as_principal("signer"), rotator.as_principal("rotator")]
    document = stack.policy(people, rules, version=version)
    document["records"] = {"generation": generation, "min_generation": floor}
    return document


@dataclass(slots=True)
class Traffic:
    """Signatures that clients ask for, one key after the other. `count`: proven answers. `wrong`: answers that prove
    something else. `failed`: no answer. `public_keys`: who must have signed, by key id, where that is known.
    `heard`: told of each proven answer."""

    keys: Sequence[str]
    public_keys: Mapping[str, str] = field(default_factory=dict)
    heard: Callable[[str, Answer], None] | None = None
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self, client: AsyncAdytum, number: int) -> None:
        """The client verifies receipt and signature, and tries retryable errors again."""
        content = EthereumTransaction(unsigned=Transfer(nonce=number).unsigned().hex())
        at = number
        while not self.stopped:
            at += 7
            await self.sign(client, self.keys[at % len(self.keys)], content)

    async def sign(self, client: AsyncAdytum, key_id: str, content: EthereumTransaction) -> None:
        """One signature, counted as what came of it."""
        expected = bytes.fromhex(self.public_keys.get(key_id, ""))
        try:
            answer = await client.sign(key_id, SigningScheme.ECDSA_SECP256K1, content, public_key=expected)
        except UntrustedError as error:
            self.wrong.append(f"{key_id}: {error}")
        except AdytumError as error:
            self.failed.append(str(error))
        else:
            self.count += 1
            if self.heard is not None:
                self.heard(key_id, answer)

    async def more(self, count: int = 10) -> None:
        """Wait until so many more were answered, or one failed."""
        wanted = self.count + count
        while self.count < wanted and not self.failed + self.wrong:  # noqa: ASYNC110 (every signature would set an event)
            await asyncio.sleep(0.01)


@dataclass(slots=True, kw_only=True)
class Tenant:
    """Whose records are rotated, wherever the parts run. `url`: of the service. `config`: the settings as a file, for
    the commands. `settings`: the same, read. `keys`: ids of the records."""

    stack: Stack
    url: str
    dsn: str
    alice: Person
    rotator: Person
    config: Path
    settings: Settings
    database: Database
    queue: Queue
    keys: list[str]
    version: int = 1

    def client(self, person: Person, retries: Retries | None = None) -> AsyncAdytum:
        """The SDK as this person would use it, with exactly this deployment's PCRs and manifest."""
        return AsyncAdytum(
            self.url,
            TENANT,
            person.signer,
            expected=self.stack.allow_list,
            anchors=(self.stack.kms.anchor,),
            manifest_hash=manifest_hash(self.stack.manifest),
            retries=retries,
        )

    async def put_policy(self, *, generation: int, floor: int = 1) -> None:
        self.version += 1
        document = policy(
            self.stack, self.alice, self.rotator, version=self.version, generation=generation, floor=floor
        )
        async with self.client(self.alice) as client:
            await client.put_policy(signed_policy(document, *self.stack.admins))

    async def target(self) -> Target:
        return await read_target(self.database, TENANT, read_manifest(self.settings.tee.manifestFile))

    async def start(self, selection: Selection | None = None, *, rate: float = 0.0, batch: int = 20) -> Job:
        return await jobs.start(
            self.database, self.queue, await self.target(), selection or Selection(), rate=rate, batch=batch
        )

    async def progress(self, job_id: str) -> Progress:
        return await progress.read(self.database, job_id)

    async def until(self, job_id: str, *, ended: int = 0, states: Sequence[str] = ()) -> Progress:
        """Wait until so many records of the job have ended, and it is in one of `states`. A database that is away is
        waited for."""
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(AdytumError):
                    found = await self.progress(job_id)
                    if found.total - found.left >= ended and (not states or found.state in states):
                        return found
                await asyncio.sleep(0.05)


@dataclass(slots=True, kw_only=True)
class Site(Tenant):
    """With the service, KMS and the clients in this process; enclave and database are processes of their own."""

    host: Host

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[asyncio.Event]:
        """A worker in this process; setting the event ends it."""
        rotator, database, stop = Rotator(self.settings), open_database(self.settings), asyncio.Event()
        task = asyncio.create_task(rotator.worker(database, self.settings).run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await task
            await rotator.close()
            await database.close()

    async def work(self) -> None:
        """A worker in this process, until no job runs."""
        rotator, database = Rotator(self.settings), open_database(self.settings)
        try:
            await rotator.worker(database, self.settings).run(asyncio.Event(), until_done=True)
        finally:
            await rotator.close()
            await database.close()

    async def worker_process(self, *more: str) -> asyncio.subprocess.Process:
        """`adytum rotate worker` as a process of its own. The caller ends it."""
        code = "from adytum.cli import main; main()"
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, "rotate", "worker", "-c", str(self.config), "--log-level", "warning", *more,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def traffic(self, clients: int = 2) -> AsyncIterator[Traffic]:
        """Clients that sign with the records that are being rotated, until the block ends."""
        traffic = Traffic(self.keys)
        async with contextlib.AsyncExitStack() as open_clients:
            found = [await open_clients.enter_async_context(self.client(self.alice, PATIENT)) for _ in range(clients)]
            tasks = [asyncio.create_task(traffic.run(one, number)) for number, one in enumerate(found)]
            try:
                yield traffic
            finally:
                traffic.stopped = True
                await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def running_rotation(
    directory: Path,
    *,
    records: int,
    durable: bool = False,
    second_key: bool = False,
    in_flight: int = 16,
    **options: Any,
) -> AsyncIterator[Site]:
    """Everything, with `records` keys of generation 1. `second_key`: they are sealed under a second KMS key that the
    manifest lists, and not under the tenant's. `options`: as `running_stack`."""
    async with (
        running_stack(directory / "s", configure=False, kms_keys=2 if second_key else 1, **options) as stack,
        running_host(stack, directory, durable=durable) as host,
    ):
        rotator, key_file = person_with_file("rotator", directory)
        config = directory / "adytum.yaml"
        config.write_text(
            json.dumps(settings_of(stack, host.dsn, host.service.base_url, directory, key_file, in_flight))
        )
        settings = load(config, {})
        database = open_database(settings)
        kms_key = json.loads(stack.manifest)["kms"]["keys"][-1]
        keys = await seed(host.dsn, make_records(stack, records, label=LABEL, kms_key=kms_key))
        site = Site(
            stack=stack,
            url=host.service.base_url,
            dsn=host.dsn,
            host=host,
            alice=Person.new("alice"),
            rotator=rotator,
            config=config,
            settings=settings,
            database=database,
            queue=Queue(),
            keys=keys,
        )
        try:
            await site.put_policy(generation=1)
            yield site
        finally:
            await database.close()


def person_with_file(name: str, directory: Path) -> tuple[Person, Path]:
    """Somebody new, and the PEM file of the private key, for the commands."""
    key = Ed25519PrivateKey.generate()
    file = directory / f"{name}.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Person(name, KeySigner(key)), file


def settings_of(
    stack: Stack, dsn: str, url: str, directory: Path, key_file: Path, in_flight: int, *, lease_s: float = 2
) -> dict[str, Any]:
    """What the commands need: `manifest.json` and `roots.pem` are in `directory`."""
    return {
        "tee": {
            "kmsKeyARN": stack.key_arn,
            "allowedPCRs": stack.allowed_pcrs,
            "manifestFile": str(directory / "manifest.json"),
            "attestationRootsFile": str(directory / "roots.pem"),
            "developmentDirectory": str(stack.directory),
        },
        "database": {"dsn": dsn},
        "rotation": {
            "url": url,
            "signerFile": str(key_file),
            "leaseSeconds": lease_s,
            "inFlight": in_flight,
        },
    }
