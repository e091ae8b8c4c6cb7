"""Makes workers and their clients out of the settings."""

from __future__ import annotations

import ssl
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx

from adytum.app import anchors_of, host_clock_ms, read_manifest
from adytum.client import AsyncAdytum, Retries
from adytum.client.asynchronous import jitter
from adytum.client.signers import KeySigner, load_signer
from adytum.rotation.connections import Connections
from adytum.rotation.errors import RotationCode, RotationError
from adytum.rotation.job import Job
from adytum.rotation.plan import Target
from adytum.rotation.queue import Queue
from adytum.rotation.worker import Worker
from adytum.settings import Settings
from adytum.storage import migrate
from adytum.storage.database import Database
from adytum_verify import AllowList
from adytum_wire.manifest import manifest_hash, parse_manifest

_RETRIES: Final = Retries(attempts=2, first_s=0.1, most_s=1.0, jitter=jitter)  # the worker itself tries for longer
_TIMEOUT_S: Final = 65.0  # more than a service lets a request wait


class Rotator:
    """The rotator's clients, one a tenant, all by one signer. Close it.

    `url`: the service. `signer_file`: PEM of the principal whose rights are `reseal` and `rotation_statement`.
    """

    def __init__(
        self, settings: Settings, *, url: str = "", signer_file: Path | None = None, ca_file: Path | None = None
    ) -> None:
        """Errors: RotationError MANIFEST, SignerError, OSError."""
        wanted, tee = settings.rotation, settings.tee
        manifest = read_manifest(tee.manifestFile)
        if manifest is None:
            raise RotationError(RotationCode.MANIFEST, "tee.manifestFile")
        self._manifest, self._hash = parse_manifest(manifest), manifest_hash(manifest)
        signer_file = signer_file or wanted.signerFile
        if signer_file is None:
            raise RotationError(RotationCode.MANIFEST, "rotation.signerFile")
        self._signer: KeySigner = load_signer(signer_file)
        self._url = url or wanted.url
        self._expected = AllowList.parse(tee.allowedPCRs)
        self._anchors = anchors_of(tee.attestationRootsFile)
        self._in_flight = wanted.inFlight
        ca = ca_file or wanted.caCertFile
        context = ssl.create_default_context(cafile=ca) if ca else ssl.create_default_context()
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, transport=Connections(self._in_flight + 1, context))
        self._clients: dict[str, AsyncAdytum] = {}

    def client(self, tenant: str) -> AsyncAdytum:
        """The client for a tenant; the same one each time."""
        if tenant not in self._clients:
            self._clients[tenant] = AsyncAdytum(
                self._url,
                tenant,
                self._signer,
                expected=self._expected,
                anchors=self._anchors,
                manifest_hash=self._hash,
                http=self._http,
                retries=_RETRIES,
            )
        return self._clients[tenant]

    def target(self, job: Job) -> Target:
        """What the job's records are to have: as the policy and the manifest said when it was made."""
        return Target(
            tenant=job.tenant,
            generation=job.generation,
            min_generation=1,
            policy_version=job.policy_version,
            kms_key=job.kms_key_id,
            kms_keys=tuple(self._manifest.kms.keys),
            request_past_ms=self._manifest.bounds.request_past_ms,
        )

    def worker(self, database: Database, settings: Settings) -> Worker:
        wanted = settings.rotation
        return Worker(
            database=database,
            queue=Queue(),
            resealer=self.client,
            target=self.target,
            identity=uuid.uuid4(),
            now_ms=host_clock_ms,
            in_flight=self._in_flight,
            lease_s=wanted.leaseSeconds,
        )

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._http.aclose)
            for client in self._clients.values():
                closing.push_async_callback(client.close)


def open_database(settings: Settings) -> Database:
    """A small pool of one's own: a worker needs few connections."""
    given = settings.database
    return Database(
        given.dsn.get_secret_value(),
        pool_size=min(4, given.poolSize),
        connect_timeout=given.connectTimeoutSeconds,
        statement_timeout=max(30.0, given.statementTimeoutSeconds),
        lock_timeout=given.lockTimeoutSeconds,
        revisions=migrate.revisions(),
    )
