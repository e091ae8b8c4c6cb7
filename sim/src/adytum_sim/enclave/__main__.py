"""`python -m adytum_sim.enclave CONFIG.json`: run the trusted program on the stand-in platform.

CONFIG (see `config.StandInConfig`): "directory" for the Unix sockets, "pki" as saved by DevPki, "pcrs" {"0": hex, ...},
"module_id", "parent_role" ARN, "payload_encoding" "indefinite" or "definite", "debug", "witness", "told". Prints one
JSON line when ready. With `witness` it keeps digests of its secrets for `witness.scan`, which leaves traces in its
memory: not for the memory-scan tests. With `told`, a file, it writes each secret that it draws to its end
(`witness.telling`), which leaves none.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell import entropy
from adytum_enclave.shell.program import ARENA_BYTES, Platform, run
from adytum_sim.enclave.config import StandInConfig, enclave_socket, host_socket, witness_socket
from adytum_sim.enclave.witness import Witness, telling
from adytum_sim.nsm import SimNsm
from adytum_sim.pki import DevPki


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(64)
    sock.setblocking(False)
    return sock


async def _serve(config: StandInConfig) -> None:
    directory = Path(config.directory)
    nsm = SimNsm(
        DevPki.load(Path(config.pki)),
        module_id=config.module_id,
        pcrs={int(index): bytes.fromhex(value) for index, value in config.pcrs.items()},
        clock_ms=lambda: time.time_ns() // 1_000_000,
        payload_encoding=config.payload_encoding,
        parent_role=config.parent_role,
        debug=config.debug,
    )
    fill = telling(entropy.fill, Path(config.told)) if config.told else entropy.fill
    witness = Witness(fill) if config.witness else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)

    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(witness.export() if witness is not None else []).encode())
        await writer.drain()
        writer.close()

    witness_server = await asyncio.start_unix_server(tell, path=witness_socket(directory))

    async def dial(_cid: int | None, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, str(host_socket(directory, port)))
        except OSError:
            sock.close()
            raise
        return sock

    def report(event: str) -> None:
        sys.stdout.write(json.dumps({"event": event, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()

    platform = Platform(
        nsm=nsm.request,
        listen=lambda port: _listen(enclave_socket(directory, port)),
        dial=dial,
        fill=witness.fill if witness is not None else fill,
        report=report,
        arena=Arena(ARENA_BYTES),
    )
    try:
        await run(platform, stop)
    finally:
        witness_server.close()


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        sys.stderr.write("usage: python -m adytum_sim.enclave CONFIG.json\n")
        return 2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    config = msgspec.json.decode(Path(argv[1]).read_bytes(), type=StandInConfig)
    asyncio.run(_serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
