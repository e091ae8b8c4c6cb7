"""A second enclave of a `Stack`: another image, or the same once more, with a directory, pipe and process of its own.

KMS, PKI, manifest and admins are the stack's.

    async with running_sibling(stack, directory, variant="next") as sibling:
        ...
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from adytum.enclave.client import EnclaveClient
from adytum.enclave.endpoint import UnixEndpoint
from adytum.pipe import Pipe
from adytum_sim.enclave.config import StandInConfig
from adytum_sim.enclave.measure import source_pcrs
from adytum_sim.enclave.process import EnclaveProcess
from adytum_sim.stack import PARENT_ROLE, Stack
from adytum_verify.enclave import manifest_pcr
from adytum_wire import limits
from adytum_wire.manifest import manifest_hash

MODULE_ID = "i-0adb7a0ad17000001-enc0190000000000002"


@dataclass(frozen=True, slots=True)
class Sibling:
    """`pcrs`: 0, 1, 2 and 16. `client`: past the service, as a hostile host would ask."""

    directory: Path
    pcrs: dict[int, bytes]
    enclave: EnclaveProcess
    pipe: Pipe
    client: EnclaveClient

    @property
    def allowed_pcrs(self) -> list[str]:
        """As `tee.allowedPCRs` takes them."""
        return [",".join(f"PCR{index}={value.hex()}" for index, value in sorted(self.pcrs.items()))]


@contextlib.asynccontextmanager
async def running_sibling(stack: Stack, directory: Path, *, variant: str) -> AsyncIterator[Sibling]:
    """Start it; it awaits its manifest. `directory`: private and short; `variant`: as `running_stack` takes it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    measured = source_pcrs(variant)
    config = StandInConfig(
        directory=str(directory),
        pki=stack.process.config.pki,
        pcrs={str(index): value.hex() for index, value in measured.items()},
        module_id=MODULE_ID,
        parent_role=PARENT_ROLE,
    )
    host = stack.kms.host
    async with contextlib.AsyncExitStack() as cleanup:
        endpoint = UnixEndpoint(directory)
        pipe = await cleanup.enter_async_context(
            Pipe(
                endpoint,
                limits.KMS_PORT,
                host,
                443,
                allow=frozenset({(host, 443)}),
                dial_to=("127.0.0.1", stack.kms.port),
            )
        )
        client = EnclaveClient(endpoint)
        cleanup.callback(client.close)
        enclave = EnclaveProcess(config)
        cleanup.push_async_callback(enclave.stop)
        await enclave.start()
        pcrs = measured | {16: manifest_pcr(manifest_hash(stack.manifest))}
        yield Sibling(directory, pcrs, enclave, pipe, client)
