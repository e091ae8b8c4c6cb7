"""The enclave as a guest: the real image, booted in QEMU, in the place of the stand-in process.

QEMU's NSM measures and locks as the real one does, but leaves its attestation documents unsigned, and `adytum_verify`
refuses those, always. Here a `Notary` stands where the Nitro hypervisor's signature would be: it takes the guest's own
document and issues the same statement under the development PKI. KMS is told to take QEMU's form. Both only here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adytum.enclave.client import EnclaveClient
from adytum.enclave.endpoint import VhostEndpoint
from adytum_image import build as builder
from adytum_image.fetch import Store, apt_mirrors, cache_root
from adytum_image.locks import read_lock
from adytum_image.rig import Booted, Machine, Rig, prepare
from adytum_sim.enclave.config import DEFAULT_MODULE_ID
from adytum_sim.nsm.document import build_document
from adytum_sim.pki import DevPki
from adytum_verify import parse_unverified
from adytum_wire.messages import AttestReply

READY = "adytum-enclave: ready"
BOOT_SECONDS = 120.0
CALL_SECONDS = 60.0  # software emulation is some thirty times slower


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its file and PCR 0, 1 and 2."""

    eif: Path
    pcrs: dict[int, bytes]


def build_image(directory: Path) -> tuple[Rig, Image]:
    """Build the image of this checkout into `directory`, and the rig if it is missing (minutes, the first time).

    Errors: BuildError, RigError, which say what is missing.
    """
    store = Store(cache_root(), apt_mirrors(), _silent)
    source = builder.Source.find()
    rig = prepare(read_lock(source.packages_lock), store, _silent)
    built = builder.build(source, store, builder.Options())
    measured = built.measurements
    eif = directory / "adytum.eif"
    eif.write_bytes(built.eif)
    return rig, Image(eif, {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2})


def _silent(_line: str) -> None:
    return None


class Notary(EnclaveClient):
    """A client whose attestation documents carry the signature that QEMU leaves out."""

    def __init__(self, endpoint: VhostEndpoint, pki: DevPki) -> None:
        super().__init__(endpoint, timeout_s=CALL_SECONDS)
        self._pki = pki

    async def attest(self, nonce: bytes, *, timeout_s: float | None = None) -> AttestReply:
        reply = await super().attest(nonce, timeout_s=timeout_s)
        said = parse_unverified(reply.document, allow_unsigned_shape=True)
        document = build_document(
            self._pki.chain(module_id=said.module_id, now_ms=said.timestamp_ms),
            module_id=said.module_id,
            timestamp_ms=said.timestamp_ms,
            pcrs=said.pcrs,
            public_key=said.public_key,
            user_data=said.user_data,
            nonce=said.nonce,
        )
        return AttestReply(document, reply.binding)


class GuestEnclave:
    """One booted image. The same interface as `EnclaveProcess`, as far as a guest can have it."""

    def __init__(self, rig: Rig, image: Image, pki: DevPki) -> None:
        self._rig = rig
        self._image = image
        self._pki = pki
        self._booted: Booted | None = None
        self._console = ""

    @property
    def endpoint(self) -> VhostEndpoint:
        if self._booted is None:
            raise RuntimeError("the guest is not running")
        return VhostEndpoint(self._booted.vsock)

    @property
    def log(self) -> list[str]:
        """The console, which is all that a guest shows."""
        text = self._booted.console_text() if self._booted is not None else self._console
        return text.splitlines()

    def client(self) -> EnclaveClient:
        return Notary(self.endpoint, self._pki)

    async def start(self) -> None:
        """Boot, and wait until it serves. Errors: RigError with what it printed."""
        machine = Machine(enclave_id=DEFAULT_MODULE_ID)
        self._booted = await asyncio.to_thread(self._rig.boot, self._image.eif, machine)
        try:
            await asyncio.to_thread(self._booted.wait_for_line, READY, BOOT_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        booted, self._booted = self._booted, None
        if booted is not None:
            self._console = booted.console_text()
            await asyncio.to_thread(booted.stop)

    async def witnessed(self) -> set[Any]:
        """A guest tells nothing of its secrets; what its records hold is found through KMS."""
        return set()
