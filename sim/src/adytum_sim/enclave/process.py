"""Starts and stops the enclave stand-in as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import msgspec

from adytum.enclave.client import EnclaveClient
from adytum.enclave.endpoint import UnixEndpoint
from adytum_sim.enclave.config import StandInConfig, witness_socket

START_SECONDS = 30.0

# Resolving symbols at start leaves no spilled registers behind the first call of a crypto primitive; the other two
# overwrite memory that is freed. The image's init sets the same (docs/explanation/limits.md).
HARDENED = {
    "LD_BIND_NOW": "1",
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=170:glibc.malloc.tcache_count=0",
}


class EnclaveProcess:
    """One stand-in process. `log`: where its output goes besides the ready line. `module`: what is run."""

    def __init__(self, config: StandInConfig, *, hardened: bool = True, module: str = "adytum_sim.enclave") -> None:
        self.config = config
        self._module = module
        self.directory = Path(config.directory)
        self.log: list[str] = []
        self._hardened = hardened
        self._process: asyncio.subprocess.Process | None = None
        self._is_killed = False
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the enclave stand-in is not running")
        return self._process.pid

    @property
    def endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.directory)

    def client(self) -> EnclaveClient:
        return EnclaveClient(self.endpoint)

    async def start(self) -> None:
        """Start and wait until it serves. Errors: RuntimeError with what it printed."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self.directory.glob("enclave_*.sock"):
            old.unlink()
        witness_socket(self.directory).unlink(missing_ok=True)
        config_file = self.directory / "enclave.json"
        config_file.write_bytes(msgspec.json.encode(self.config))
        environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            str(config_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment | (HARDENED if self._hardened else {}),
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                if not await self._until_ready(self._process):
                    raise RuntimeError("the enclave stand-in did not start:\n" + "\n".join(self.log))
        except TimeoutError:
            await self.kill()
            raise RuntimeError("the enclave stand-in did not start in time:\n" + "\n".join(self.log)) from None
        self._reader = asyncio.create_task(self._collect(self._process))

    async def _until_ready(self, process: asyncio.subprocess.Process) -> bool:
        if process.stdout is None:
            return False
        while line := await process.stdout.readline():
            self.log.append(line.decode(errors="replace").rstrip())
            if '"ready"' in self.log[-1]:
                return True
        return False

    async def _collect(self, process: asyncio.subprocess.Process) -> None:
        while process.stdout is not None and (line := await process.stdout.readline()):
            self.log.append(line.decode(errors="replace").rstrip())

    async def stop(self) -> None:
        """SIGTERM: it wipes its secrets and ends."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: what a crash or a hostile host does."""
        await self._end(signal.SIGKILL)

    def kill_now(self) -> None:
        """SIGKILL without waiting; `kill` then waits for the end."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._is_killed = True

    async def _end(self, signum: signal.Signals) -> None:
        process, self._process = self._process, None
        is_killed, self._is_killed = self._is_killed, False
        if process is not None and process.returncode is None:
            if not is_killed:  # a second signal would take the end away from who waits for it
                process.send_signal(signum)
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def witnessed(self) -> set[tuple[str, int, bytes]]:
        """Digests of the secrets that this process made, for `witness.scan`."""
        reader, writer = await asyncio.open_unix_connection(witness_socket(self.directory), limit=2**24)
        data = await reader.read()
        writer.close()
        return {(kind, length, bytes.fromhex(digest)) for kind, length, digest in json.loads(data)}
