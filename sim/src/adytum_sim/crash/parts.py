"""Host service and PostgreSQL as processes that can be killed alone; `stack` and `host` do not start them so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from adytum.storage.embedded import EmbeddedPostgres

START_S = 60.0


class HostProcess:
    """The service of `settings`. `port`: where it listens now."""

    def __init__(self, settings: Path, log: Path) -> None:
        self.port = 0
        self._settings = settings
        self._log = log
        self._parent: Process | None = None
        self._pid = 0
        self._pidfd = -1

    async def start(self) -> None:
        """Errors: RuntimeError when it does not come up."""
        parent = self._parent = self._parent or await self._load()
        if parent.stdin is None or parent.stdout is None:
            raise RuntimeError("the host service has no pipes")
        parent.stdin.write(b"start\n")
        async with asyncio.timeout(START_S):
            line = await parent.stdout.readline()
        if not line:
            raise RuntimeError(f"the host service did not start; see {self._log}")
        ready = json.loads(line)
        self._pid, self.port = int(ready["pid"]), int(ready["port"])
        self._pidfd = os.pidfd_open(self._pid)

    async def _load(self) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "adytum_sim.crash.service",
                str(self._settings),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait for the end of a killed process."""
        descriptor, self._pidfd = self._pidfd, -1
        if descriptor < 0:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
        loop.remove_reader(descriptor)
        os.close(descriptor)

    async def stop(self) -> None:
        self.kill()
        await self.gone()
        parent, self._parent = self._parent, None
        if parent is not None:
            if parent.returncode is None:
                parent.kill()
            await parent.wait()


class KillablePostgres(EmbeddedPostgres):
    """PostgreSQL with fsync, whose processes all end at once, as when its machine does."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._data = directory / "data"

    def kill(self) -> None:
        """SIGKILL to the server and then to its children, now."""
        parent = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        children = [pid for pid, its in _parents() if its == parent]
        for pid in (parent, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) of all (proc(5), stat)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found.append((int(entry.name), int(fields[1])))
    return found
