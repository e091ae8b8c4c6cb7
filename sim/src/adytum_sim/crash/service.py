"""`python -m adytum_sim.crash.service SETTINGS`: the host service as a process that can be killed, again and again.

This process loads the code and nothing else. For each line on its standard input it forks a child that runs the service
of the settings and says where: {"pid", "port"}. Loading takes longer than everything else in a start, and would be
measured instead. The child that is alive dies with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from adytum.app import Service
from adytum.settings import Settings, load

POLL_S = 0.2


async def serve(settings: Settings) -> None:
    """Until it is killed."""
    service = Service(settings, supervisor_poll_s=POLL_S)
    await service.start()
    ready = {"pid": os.getpid(), "port": int(service.base_url.rsplit(":", 1)[1])}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main(file: Path) -> None:
    settings = load(file, {})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children: they leave no zombies
    child = 0
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdin.close()
            uvloop.run(serve(settings))
            return
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    main(Path(sys.argv[1]))
