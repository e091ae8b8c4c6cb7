"""The untrusted side of a stand-in deployment: embedded PostgreSQL and the real host service in front of a `Stack`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from adytum.app import Service, running_service
from adytum.client import AsyncAdytum
from adytum.settings import Settings
from adytum.storage import migrate, roles
from adytum.storage.embedded import EmbeddedPostgres, binary
from adytum.storage.rows import record_of
from adytum_sim.enclave.process import EnclaveProcess
from adytum_sim.people import Person
from adytum_sim.stack import TENANT, Stack
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import Credentials
from adytum_wire.record import Record

REQUEST_SECONDS = 30
READY_SECONDS = 60.0  # a guest under software emulation takes its time


@dataclass(frozen=True, slots=True)
class Host:
    """A running service. `dsn`: of its database."""

    service: Service
    postgres: EmbeddedPostgres
    dsn: str
    stack: Stack

    def client(self, person: Person) -> AsyncAdytum:
        """The SDK as this person would use it, with the stand-in's root and exactly this deployment's PCRs."""
        return AsyncAdytum(
            self.service.base_url,
            TENANT,
            person.signer,
            expected=self.stack.allow_list,
            anchors=(self.stack.kms.anchor,),
            manifest_hash=manifest_hash(self.stack.manifest),
        )

    async def attested_enclaves(self) -> list[tuple[bytes, bytes]]:
        """(attestation document, binding) of every boot that the host has seen, as an auditor would export them."""
        rows = await self._fetch(
            "SELECT DISTINCT ON (chain) document, binding FROM attestations ORDER BY chain, verified_at"
        )
        return [(bytes(row["document"]), bytes(row["binding"])) for row in rows]

    async def receipts(self) -> list[bytes]:
        """All receipt envelopes, in order."""
        rows = await self._fetch("SELECT envelope FROM receipts ORDER BY chain, sequence")
        return [bytes(row["envelope"]) for row in rows]

    async def _fetch(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def records(self) -> list[Record]:
        """Every sealed record."""
        rows = await self._fetch("SELECT header, ciphertext_blob, data_key_ciphertext FROM key_envelopes")
        return [record_of(bytes(row["header"]), row["ciphertext_blob"], row["data_key_ciphertext"]) for row in rows]

    async def dump(self) -> bytes:
        """All of the database as SQL text, by `pg_dump`."""
        process = await asyncio.create_subprocess_exec(
            str(binary("pg_dump")), "--inserts", "--no-owner", self.dsn, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, error = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(error.decode(errors="replace"))
        return out


@contextlib.asynccontextmanager
async def running_host(
    stack: Stack,
    directory: Path,
    *,
    durable: bool = True,
    others: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    least_privilege: bool = False,
) -> AsyncIterator[Host]:
    """Start PostgreSQL in `directory` and the service; it configures the enclave, and is ready when handed out.

    `others`: directories of further enclaves, which need not run yet. `settings`: further sections, such as `canary`.
    `least_privilege`: the service logs in with the role `adytum_service` and no more; `Host.dsn` stays the owner's.
    """
    manifest_file, roots_file = directory / "manifest.json", directory / "roots.pem"
    manifest_file.write_bytes(stack.manifest)
    roots_file.write_bytes(stack.kms.pki.root_pem)
    postgres = EmbeddedPostgres(directory / "pg", durable=durable)
    await asyncio.to_thread(postgres.start)
    try:
        serves_as = postgres.dsn()
        if least_privilege:
            await migrate.upgrade(postgres.dsn())
            await roles.grant(postgres.dsn())
            serves_as = await _login(postgres.dsn())
        enclaves = [{"developmentDirectory": str(place)} for place in (stack.directory, *others)]
        made = Settings.model_validate(
            {
                **(settings or {}),
                "tee": {
                    "kmsKeyARN": stack.key_arn,
                    "allowedPCRs": stack.allowed_pcrs,
                    "manifestFile": str(manifest_file),
                    "attestationRootsFile": str(roots_file),
                    "enclaves": enclaves,
                    "requestTimeoutSeconds": REQUEST_SECONDS,
                },
                "database": {"dsn": serves_as},
                "http": {"port": 0},
            }
        )

        async def credentials() -> Credentials | None:
            return stack.credentials

        async with running_service(
            made,
            enclave=None if isinstance(stack.enclave, EnclaveProcess) else stack.enclave.client(),
            credentials=credentials,
            migrate_first=not least_privilege,
            supervisor_poll_s=0.2,
        ) as service:
            await service.ready(READY_SECONDS)
            yield Host(service, postgres, postgres.dsn(), stack)
    finally:
        await asyncio.to_thread(postgres.stop)


async def _login(owner: str) -> str:
    """A login with the service's role; its connection string."""
    connection = await asyncpg.connect(owner)
    try:
        await connection.execute(f"CREATE ROLE wallet LOGIN IN ROLE {roles.SERVICE}")
    finally:
        await connection.close()
    return owner.replace("postgres@", "wallet@", 1)


def write_release(stack: Stack, path: Path) -> None:
    """The stack's PCRs as a measurements file (nitro-cli's form), for `adytum-verify --measurements`."""
    measurements = {f"PCR{index}": value.hex() for index, value in sorted(stack.pcrs.items())}
    path.write_text(json.dumps({"Measurements": measurements}, indent=1))
