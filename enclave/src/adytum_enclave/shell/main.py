"""The production entry point: no flags, no environment, AF_VSOCK and /dev/nsm only.

    python3 -I -m adytum_enclave.shell.main

Its console lines are coded events from a fixed list, since the host reads them.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell import admission, entropy
from adytum_enclave.shell.nsm import open_device
from adytum_enclave.shell.program import ARENA_BYTES, Platform, run
from adytum_enclave.shell.vsock import dial_vsock, listen_vsock

PARENT_CID = 3  # the parent of a Nitro enclave, until a control connection says otherwise


def _report(event: str) -> None:
    sys.stdout.write(f"adytum-enclave: {event}\n")
    sys.stdout.flush()


async def _dial(cid: int | None, port: int) -> socket.socket:
    return await dial_vsock(PARENT_CID if cid is None else cid, port)


async def _serve(arena: Arena) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    platform = Platform(
        nsm=open_device(), listen=listen_vsock, dial=_dial, fill=entropy.fill, report=_report, arena=arena
    )
    await run(platform, stop)


def main() -> int:
    """Exit status: 0 stopped, 1 refused to serve (the console names the failed checks), 2 failed."""
    admission.harden()
    arena = Arena(ARENA_BYTES)
    failed = admission.failed_checks(admission.this_machine(arena_kind=arena.kind))
    for name in failed:
        _report(f"admission-failed {name}")
    if failed:
        return 1
    try:
        asyncio.run(_serve(arena))
    except Exception:
        _report("failed")  # what failed could say more than the host may know
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
