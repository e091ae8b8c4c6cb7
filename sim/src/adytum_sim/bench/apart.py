"""A deployment in the middle of a rotation, with each part in a process of its own, by the commands that a deployment
runs: `adytum sim kms` (which AWS stands for), `adytum pipe`, `adytum serve`, `adytum rotate worker`; the enclave
stand-in, PostgreSQL with fsync, and clients that sign (`signing`).

    async with running_apart(directory, records=1000, workers=1, clients=1) as apart:
        await apart.put_policy(generation=2)
        job = await apart.start(batch=100)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import msgspec

from adytum.rotation.queue import Queue
from adytum.rotation.wiring import open_database
from adytum.settings import load
from adytum.storage import migrate
from adytum_sim.bench.parts import ADYTUM, START_S, Command, EnclavePart, PostgresPart, Times
from adytum_sim.bench.records import Seeded, make_records, seed
from adytum_sim.bench.signing import Config, Summary
from adytum_sim.crash.parts import KillablePostgres
from adytum_sim.enclave.process import EnclaveProcess
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.process import CA_FILE, CA_KEY_FILE, STATE_FILE, TRAIL_FILE
from adytum_sim.kms.running import RunningKms, system_clock_ms
from adytum_sim.kms.service import KmsService
from adytum_sim.kms.state import State
from adytum_sim.kms.tls import DevCa
from adytum_sim.pki import DevPki
from adytum_sim.pki.devpki import write_private
from adytum_sim.rotating import LABEL, Tenant, person_with_file, settings_of
from adytum_sim.stack import TENANT, Stack, running_stack

LEASE_S: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Apart(Tenant):
    """`public_keys`: by key id, as they were sealed. `evidence`: what the clients heard."""

    kms: Command
    pipe: Command
    service: Command
    enclave: EnclavePart
    database_part: PostgresPart
    workers: list[Command]
    clients: Command
    public_keys: dict[str, str]
    evidence: Path

    @property
    def commands(self) -> list[Command]:
        return [self.kms, self.pipe, self.service, *self.workers, self.clients]

    async def ready(self) -> None:
        """Wait until the service serves. Errors: TimeoutError."""
        async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(self.url + "/v1/health")).json()["ready"]:
                        return
                await asyncio.sleep(0.05)

    @property
    def stopped(self) -> list[str]:
        """Commands that do not run now."""
        return [one.name for one in self.commands if not one.is_running]

    def times(self) -> dict[str, Times]:
        """Of each part, since it was begun."""
        return {
            "kms": self.kms.times,
            "pipe": self.pipe.times,
            "service": self.service.times,
            "enclave": self.enclave.times,
            "worker": reduce(Times.plus, (worker.times for worker in self.workers)),
            "postgres": self.database_part.times,
            "client": self.clients.times,
        }

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows, without the bounds that the service's pool sets."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def stop_clients(self) -> Summary:
        """What they have to say at the end. Errors: RuntimeError, msgspec.DecodeError when they ended before."""
        await self.clients.stop()
        return msgspec.json.decode(self.clients.lines[-1], type=Summary)


@contextlib.asynccontextmanager
async def running_apart(
    directory: Path,
    *,
    records: int,
    workers: int,
    clients: int,
    in_flight: int = 16,
    kms_delay_ms: int = 0,
    second_key: bool = False,
) -> AsyncIterator[Apart]:
    """Everything runs and clients sign; the policy in force says generation 1, which is what the `records` have.
    `second_key`: they are sealed under another KMS key than the tenant's. Errors: RuntimeError, EmbeddedPostgresError,
    AdytumError, TimeoutError."""
    async with contextlib.AsyncExitStack() as cleanup:
        kms_directory, pg_directory = directory / "kms", directory / "pg"
        offline = make_kms(kms_directory)
        stack = await cleanup.enter_async_context(
            running_stack(directory / "s", configure=False, kms_keys=2 if second_key else 1, kms=offline)
        )
        await stack.process.stop()
        stack.enclave = EnclaveProcess(stack.process.config, module="adytum_sim.bench.sampled")
        await stack.enclave.start()
        offline.service.state.save()
        port = cleanup.enter_context(held_port())
        url = f"http://127.0.0.1:{port}"
        (directory / "manifest.json").write_bytes(stack.manifest)
        (directory / "roots.pem").write_bytes(offline.pki.root_pem)
        rotator, rotator_file = person_with_file("rotator", directory)
        alice, alice_file = person_with_file("alice", directory)
        postgres = KillablePostgres(pg_directory)
        config = directory / "adytum.yaml"
        text = settings_of(stack, postgres.dsn(), url, directory, rotator_file, in_flight, lease_s=LEASE_S)
        config.write_text(json.dumps(text | {"http": {"port": port}, "aws": _aws(stack)}))

        def command(name: str, *arguments: str, ready: str) -> Command:
            made = Command(name, arguments, ready=ready, log=directory / f"{name}.log")
            cleanup.push_async_callback(made.stop)
            return made

        def adytum(name: str, *arguments: str, ready: str) -> Command:
            return command(name, *ADYTUM, *arguments, ready=ready)

        settings = str(config)
        kms = adytum("kms", "sim", "kms", "--state", str(kms_directory), "--json", ready='"endpoint"')
        cleanup.push_async_callback(asyncio.to_thread, postgres.stop)
        line, _ = await asyncio.gather(kms.start(), asyncio.to_thread(postgres.start))
        served = json.loads(line)
        await migrate.upgrade(postgres.dsn())
        pipe = adytum(
            "pipe", "pipe", "-c", settings, "--dial", f"127.0.0.1:{served['port']}", ready="the enclave's port"
        )
        service = adytum("service", "serve", "-c", settings, "--log-level", "warning", ready="serves at")
        await asyncio.gather(pipe.start(), service.start())
        public_keys: dict[str, str] = {}
        kms_key = json.loads(stack.manifest)["kms"]["keys"][-1]
        made = make_records(stack, records, label=LABEL, kms_key=kms_key)
        keys = await seed(postgres.dsn(), noting(made, public_keys))
        keys_file, evidence = directory / "keys.json", directory / "evidence.jsonl"
        keys_file.write_bytes(msgspec.json.encode(public_keys))
        signing = directory / "signing.json"
        wanted = Config(
            url=url,
            tenant=TENANT,
            signer=str(alice_file),
            keys=str(keys_file),
            allowed_pcrs=stack.allowed_pcrs,
            roots=str(directory / "roots.pem"),
            manifest=str(directory / "manifest.json"),
            evidence=str(evidence),
            clients=clients,
        )
        signing.write_bytes(msgspec.json.encode(wanted))
        database = open_database(load(config, {}))
        cleanup.push_async_callback(database.close)
        apart = Apart(
            stack=stack,
            url=url,
            dsn=postgres.dsn(),
            alice=alice,
            rotator=rotator,
            config=config,
            settings=load(config, {}),
            database=database,
            queue=Queue(),
            keys=keys,
            kms=kms,
            pipe=pipe,
            service=service,
            enclave=EnclavePart(stack),
            database_part=PostgresPart(postgres, pg_directory),
            workers=[
                adytum(
                    f"worker-{number}",
                    "rotate",
                    "worker",
                    "-c",
                    settings,
                    "--log-level",
                    "warning",
                    ready="worker runs",
                )
                for number in range(workers)
            ],
            clients=command("clients", "-m", "adytum_sim.bench.signing", str(signing), ready='"ready"'),
            public_keys=public_keys,
            evidence=evidence,
        )
        await apart.fetch("ANALYZE")
        await apart.ready()
        await apart.put_policy(generation=1)
        if kms_delay_ms:
            async with httpx.AsyncClient(trust_env=False) as http:
                (await http.post(served["fault_endpoint"], json={"delay_ms": kms_delay_ms})).raise_for_status()
        try:
            await asyncio.gather(*(one.start() for one in (*apart.workers, apart.clients)))
        except RuntimeError as error:
            raise RuntimeError("\n".join([str(error), "the service said:", *service.lines])) from None
        apart.enclave.begin()
        apart.database_part.begin()
        yield apart


def make_kms(directory: Path) -> RunningKms:
    """PKI, TLS root, identities and (empty) state of a stand-in that another process will serve from `directory`."""
    directory.mkdir(mode=0o700)
    pki, ca = DevPki.create(system_clock_ms()), DevCa.create(system_clock_ms())
    pki.save(directory)
    write_private(directory / CA_KEY_FILE, ca.key_pem)
    write_private(directory / CA_FILE, ca.pem)
    (directory / TRAIL_FILE).symlink_to("/dev/null")  # nobody reads it, and 100,000 records would write 300 MB
    state = State(path=directory / STATE_FILE)
    role, operator = bootstrap(state, os.urandom)
    service = KmsService(state, anchors=[pki.anchor], now_ms=system_clock_ms, random_bytes=os.urandom)
    return RunningKms(port=0, ca_pem=ca.pem, pki=pki, service=service, role=role, operator=operator)


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody else is given while the block runs: bound here, and never listened at, it stays
    ours when the process that listens at it is killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def noting(records: Iterator[Seeded], public_keys: dict[str, str]) -> Iterator[Seeded]:
    """`records`, while their public keys are written down."""
    for one in records:
        public_keys[one.key_id] = one.header.public_key
        yield one


def _aws(stack: Stack) -> dict[str, str]:
    credentials = stack.credentials
    return {
        "accessKeyId": credentials.access_key_id,
        "secretAccessKey": credentials.secret_access_key,
        "sessionToken": credentials.session_token,
    }
