"""A deployment that can be killed part by part: enclave, host service and PostgreSQL as processes, wires between them.

async with open_site(directory) as site:
    site.kill(Victim.HOST)
    await site.revive(Victim.HOST)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from adytum.client.usage import draft_reset, sign_reset
from adytum.storage import migrate
from adytum_sim.crash import points
from adytum_sim.crash.parts import HostProcess, KillablePostgres
from adytum_sim.crash.points import Victim, Watch
from adytum_sim.crash.wires import Chunks, PostgresRequests, Wire, frames, postgres_answers, tls_records
from adytum_sim.enclave.config import enclave_socket, host_socket
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import limits
from adytum_wire.messages import HealthReply

PLAIN, ASKED, LOAD = "plain", "asked", "load"  # labels of keys
WEI: Final = "eip155:1/native"
WINDOW_S: Final = 24 * 3600
PLENTY: Final = 10**9
READY_S: Final = 60.0
# Warm keys stay warm: only what is asked for the first time goes to KMS, so that a KMS point is the designated one's.
BOUNDS: Final = {"key_ttl_seconds": 3600, "key_max_uses": 1_000_000}

Json = dict[str, Any]


@dataclass(slots=True, repr=False)
class Site:
    """`alice` asks for what is struck, `bob` approves, `crowd` is the load. `most`: how often alice may sign."""

    stack: Stack
    host: HostProcess
    postgres: KillablePostgres
    watch: Watch
    wires: dict[str, Wire]
    alice: Person
    bob: Person
    crowd: list[Person]
    most: int
    http: httpx.AsyncClient
    boots: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.wires[points.CLIENT].port}"

    def kill(self, victim: Victim) -> None:
        """SIGKILL, now. What listens before it falls silent."""
        if victim is Victim.ENCLAVE:
            self.stack.process.kill_now()
            self.wires[points.ENCLAVE].silence()
            self.wires["control"].silence()
        elif victim is Victim.DATABASE:
            self.postgres.kill()
            self.wires[points.DATABASE].silence()
        else:
            self.host.kill()

    async def revive(self, victim: Victim) -> None:
        """Start the killed part again; it finds the others by itself. Errors: RuntimeError, EmbeddedPostgresError."""
        if victim is Victim.ENCLAVE:
            await self.stack.process.kill()
            await self.stack.process.start()
            self.stack.reconnect()
            await self.wires["control"].listen()
            await self.wires[points.ENCLAVE].listen()
        elif victim is Victim.DATABASE:
            await asyncio.to_thread(self.postgres.stop)
            await asyncio.to_thread(self.postgres.start)
            await self.wires[points.DATABASE].listen()
        else:
            await self.host.gone()
            await self.host.start()

    async def ready(self) -> None:
        """Wait until the service says that it serves, with the boot that runs. Errors: TimeoutError."""
        boot_id = (await self.health()).boot_id
        async with asyncio.timeout(READY_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    found = (await self.http.get(f"{self.url}/v1/health")).json()
                    if found["ready"] and found["enclave"]["boot_id"] == boot_id:
                        return
                await asyncio.sleep(0.05)

    async def health(self) -> HealthReply:
        """The enclave's own word."""
        return await self.stack.client.health()

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows, past the wires."""
        connection = await asyncpg.connect(self.postgres.dsn())
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def usage(self) -> Json:
        """As `adytum usage show` asks for it."""
        found: Json = (await self.http.get(f"{self.url}/v1/tenants/{TENANT}/usage")).raise_for_status().json()
        return found


@contextlib.asynccontextmanager
async def open_site(directory: Path, *, clients: int, most: int) -> AsyncIterator[Site]:
    """Everything runs, the policy is in force and no limit is closed. `directory`: private and short."""
    alice, bob = Person.new("alice"), Person.new("bob")
    crowd = [Person.new(f"load-{number}") for number in range(clients)]
    async with contextlib.AsyncExitStack() as cleanup:
        stack = await cleanup.enter_async_context(
            running_stack(directory / "e", configure=False, anchor={"kind": "host"}, bounds=BOUNDS)
        )
        postgres = KillablePostgres(directory / "pg")
        await asyncio.to_thread(postgres.start)
        cleanup.push_async_callback(asyncio.to_thread, postgres.stop)
        await migrate.upgrade(postgres.dsn())
        settings = directory / "adytum.json"
        settings.write_text(json.dumps(_settings(stack, directory)))
        host = HostProcess(settings, directory / "host.log")
        cleanup.push_async_callback(host.stop)
        await stack.pipe.close()
        watch = Watch()
        wires = _wires(stack, host, directory)
        for wire in wires.values():
            wire.hook = None if wire.name == "control" else watch.hook
            await wire.listen()
            cleanup.push_async_callback(wire.close)
        http = await cleanup.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        await host.start()
        site = Site(stack, host, postgres, watch, wires, alice, bob, crowd, most, http)
        await _put_in_force(site)
        yield site


def _wires(stack: Stack, host: HostProcess, directory: Path) -> dict[str, Wire]:
    front, database = directory / "f", directory / "d"
    for place in (front, database):
        place.mkdir(mode=0o700)
    postgres_socket = directory / "pg" / "socket" / ".s.PGSQL.5432"
    unix, tcp = asyncio.open_unix_connection, asyncio.open_connection
    wires = [
        Wire(points.CLIENT, None, lambda: tcp("127.0.0.1", host.port), Chunks, Chunks),
        Wire(
            points.DATABASE,
            database / ".s.PGSQL.5432",
            lambda: unix(postgres_socket),
            PostgresRequests,
            postgres_answers,
        ),
        Wire(
            points.ENCLAVE,
            enclave_socket(front, limits.DATA_PORT),
            lambda: unix(enclave_socket(stack.directory, limits.DATA_PORT)),
            frames,
            frames,
        ),
        Wire(
            "control",
            enclave_socket(front, limits.CONTROL_PORT),
            lambda: unix(enclave_socket(stack.directory, limits.CONTROL_PORT)),
            frames,
            frames,
        ),
        Wire(
            points.KMS,
            host_socket(stack.directory, limits.KMS_PORT),
            lambda: tcp("127.0.0.1", stack.kms.port),
            tls_records,
            tls_records,
        ),
    ]
    return {wire.name: wire for wire in wires}


def _settings(stack: Stack, directory: Path) -> Json:
    manifest, roots = directory / "manifest.json", directory / "roots.pem"
    manifest.write_bytes(stack.manifest)
    roots.write_bytes(stack.kms.pki.root_pem)
    credentials = stack.credentials
    return {
        "tee": {
            "kmsKeyARN": stack.key_arn,
            "allowedPCRs": stack.allowed_pcrs,
            "manifestFile": str(manifest),
            "attestationRootsFile": str(roots),
            "developmentDirectory": str(directory / "f"),
            "requestTimeoutSeconds": 10,
        },
        "database": {"dsn": f"postgresql://postgres@/postgres?host={directory / 'd'}"},
        "http": {"port": 0},
        "aws": {
            "accessKeyId": credentials.access_key_id,
            "secretAccessKey": credentials.secret_access_key,
            "sessionToken": credentials.session_token,
        },
    }


def document(site: Site) -> Json:
    """Alice may sign `most` times in all, with or without bob's approval; the load is counted, too."""
    base = {
        "effect": "allow",
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "content": "*",
        "approvals": "none",
        "limits": "none",
    }
    limited = ["signatures", "wei"]
    everybody = ["role:asker", "role:load"]
    return site.stack.policy(
        [
            site.alice.as_principal("asker"),
            site.bob.as_principal("approver"),
            *(person.as_principal("load") for person in site.crowd),
        ],
        [
            base | {"id": "make", "operations": ["generate_key", "reseal"], "principals": everybody, "labels": "*"},
            base
            | {
                "id": "sign",
                "operations": ["sign"],
                "principals": ["role:asker"],
                "labels": [PLAIN],
                "limits": limited,
            },
            base
            | {
                "id": "sign-approved",
                "operations": ["sign"],
                "principals": ["role:asker"],
                "labels": [ASKED],
                "limits": limited,
                "approvals": {"role": "approver", "count": 1},
            },
            base
            | {
                "id": "load",
                "operations": ["sign"],
                "principals": ["role:load"],
                "labels": [LOAD],
                "limits": ["load"],
            },
        ],
    ) | {
        "limits": [
            _limit("signatures", "count", "*", site.most),
            _limit("wei", "amount", WEI, 10**30),
            _limit("load", "count", "*", PLENTY),
        ]
    }


def _limit(name: str, measure: str, asset: str, most: int) -> Json:
    return {
        "id": name,
        "measure": measure,
        "asset": asset,
        "per": "principal",
        "window_seconds": WINDOW_S,
        "max": str(most),
    }


async def _put_in_force(site: Site) -> None:
    await site.ready()
    envelope = signed_policy(document(site), *site.stack.admins)
    (await site.http.put(f"{site.url}/v1/tenants/{TENANT}/policy", content=envelope)).raise_for_status()
    boot = (await site.health()).boot_id
    reset = sign_reset(draft_reset(TENANT, boot, "*"), [admin.signer for admin in site.stack.admins])
    (await site.http.post(f"{site.url}/v1/tenants/{TENANT}/usage/reset", content=reset)).raise_for_status()
