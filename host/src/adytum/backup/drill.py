"""The drill: a random sample of a restored database's records is opened in an enclave, and its receipts say so.

Each record of the sample is resealed. That is the one operation which opens a record of every kind and hands nothing
out: it needs no content to sign, and a principal that may do nothing else. It writes a version of its own, so it is for
a scratch copy. It is also why the enclave must be a boot of its own: an enclave remembers the newest version that it
has opened, and one that had been shown the copy's would refuse production's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from adytum.app import anchors_of, endpoint_of, read_manifest, running_service
from adytum.backup.connection import connected
from adytum.backup.errors import BackupCode, BackupError
from adytum.client import AsyncAdytum, load_signer
from adytum.enclave import EnclaveClient
from adytum.settings import Audit, Canary, Http, Settings
from adytum_verify import AllowList
from adytum_wire.errors import AdytumError
from adytum_wire.manifest import manifest_hash
from adytum_wire.results import ResealResult

READY_S: Final = 120.0
_AT_ONCE: Final = 4
_SAMPLE: Final = """
SELECT k.key_id, k.tenant, k.kind, k.public_key, e.version FROM keys k
JOIN LATERAL (SELECT version FROM key_envelopes x WHERE x.key_id = k.key_id ORDER BY version DESC LIMIT 1) e ON true
ORDER BY random() LIMIT $1
"""
ClientFor = Callable[[str], AsyncAdytum]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One record of the sample. `code`: "" when it opened. `chain`, `sequence`: of the receipt that proves it."""

    key_id: str
    tenant: str
    kind: str
    version: int
    code: str
    chain: str = ""
    sequence: int = 0

    def shown(self) -> dict[str, Any]:
        return asdict(self)


async def drill(dsn: str, client_for: ClientFor, *, boots: Collection[str], sample: int) -> list[Opened]:
    """Open `sample` records chosen at random, or all when there are fewer.

    `client_for`: a client for a tenant, of a service on the database `dsn`. `boots`: the enclaves that had served the
    backed-up database. Errors: DRILL_ENCLAVE (nothing was opened), STORAGE_UNAVAILABLE, `adytum.client.errors` when the
    enclave cannot be verified. A record that does not open is no error: its code says why.
    """
    async with connected(dsn) as connection:
        rows = await connection.fetch(_SAMPLE, sample)
    for tenant in sorted({row["tenant"] for row in rows}):
        enclave = await client_for(tenant).attestation()
        if enclave.binding.boot_id in boots:
            raise BackupError(BackupCode.ENCLAVE, enclave.binding.boot_id)
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(row: asyncpg.Record) -> Opened:
        async with free:
            return await _open(client_for(row["tenant"]), row)

    return list(await asyncio.gather(*(one(row) for row in rows)))


async def _open(client: AsyncAdytum, row: asyncpg.Record) -> Opened:
    what = {name: row[name] for name in ("key_id", "tenant", "kind", "version")}
    try:
        answer = await client.reseal(row["key_id"])
    except AdytumError as error:
        return Opened(**what, code=error.code.value)
    result, receipt = answer.result, answer.receipt.receipt
    same = isinstance(result, ResealResult) and (result.key_id, result.public_key) == (row["key_id"], row["public_key"])
    code = "" if same else "RECORD_MISMATCH"
    return Opened(**what, code=code, chain=receipt.chain, sequence=receipt.sequence)


async def require_ready(settings: Settings, signer_file: Path | None, *, boots: Collection[str]) -> None:
    """Before anything is restored: is there a signer, and an enclave that `boots` does not name? By the enclave's own
    word, which `drill` has attested later. Errors: as `clients`; DRILL_ENCLAVE, PEER_UNAVAILABLE."""
    load_signer(_signer_file(settings, signer_file))
    for address in settings.tee.addresses:
        enclave = EnclaveClient(endpoint_of(address))
        try:
            boot_id = (await enclave.hello()).boot_id
        finally:
            enclave.close()
        if boot_id in boots:
            raise BackupError(BackupCode.ENCLAVE, boot_id)


def _signer_file(settings: Settings, given: Path | None) -> Path:
    file = given or settings.rotation.signerFile
    if file is None:
        raise BackupError(BackupCode.SIGNER, "--key or rotation.signerFile")
    return file


def failures(opened: Sequence[Opened]) -> list[Opened]:
    return [one for one in opened if one.code]


@asynccontextmanager
async def service_on(settings: Settings, dsn: str, **more: Any) -> AsyncIterator[str]:
    """A service of the drill's own on the restored database: loopback, a free port, no second copies, no canary. The
    enclave is the one of `settings`. `more`: as for `Service`. Errors: as `Service.start`; TimeoutError."""
    quiet = settings.model_copy(update={"http": Http(port=0), "audit": Audit(), "canary": Canary()})
    async with running_service(quiet, database=dsn, **more) as service:
        await service.ready(READY_S)
        yield service.base_url


@asynccontextmanager
async def clients(settings: Settings, url: str, signer_file: Path | None) -> AsyncIterator[ClientFor]:
    """Clients that believe what the settings allow. `signer_file`: else `rotation.signerFile`. Errors: BackupError
    DRILL_SIGNER, SignerError, OSError."""
    file = _signer_file(settings, signer_file)
    tee, manifest = settings.tee, read_manifest(settings.tee.manifestFile)
    signer, made = load_signer(file), dict[str, AsyncAdytum]()

    def client_for(tenant: str) -> AsyncAdytum:
        if tenant not in made:
            made[tenant] = AsyncAdytum(
                url,
                tenant,
                signer,
                expected=AllowList.parse(tee.allowedPCRs),
                anchors=anchors_of(tee.attestationRootsFile),
                manifest_hash=None if manifest is None else manifest_hash(manifest),
            )
        return made[tenant]

    try:
        yield client_for
    finally:
        for client in made.values():
            await client.close()
