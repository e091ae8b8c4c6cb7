"""The parts of a deployment as processes: each can be killed alone, is started again, and its processor time is known
over all its lives.

    service = Command("service", ["serve", "-c", "adytum.yaml"], ready="serves at", log=directory / "service.log")
    await service.start()
    service.kill()
    await service.revive()
    service.times           # of the processor, without what the starts took
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from adytum.storage.embedded import EmbeddedPostgresError
from adytum_sim.bench.drive import process_seconds
from adytum_sim.bench.sampled import read_samples
from adytum_sim.crash.parts import KillablePostgres
from adytum_sim.stack import Stack
from adytum_wire.errors import AdytumError

START_S: Final = 120.0  # crowded machines
_STOP_S: Final = 30.0
_STARTS: Final = 4
ADYTUM: Final = ("-c", "from adytum.cli import main; main()")


class Part(Protocol):
    """What can be killed and comes back."""

    @property
    def times(self) -> Times: ...
    async def strike(self) -> None:
        """SIGKILL."""

    async def revive(self) -> None:
        """As a supervisor starts it again; returns when it is ready."""


class Times(NamedTuple):
    """Seconds: on a processor, and ready to run while others were on it."""

    busy: float = 0.0
    waited: float = 0.0

    def plus(self, other: Times) -> Times:
        return Times(self.busy + other.busy, self.waited + other.waited)

    def since(self, before: Times) -> Times:
        return Times(max(0.0, self.busy - before.busy), max(0.0, self.waited - before.waited))


class Spent:
    """Times between `begin` and `end`, summed up over the lives of a part. `read`: of the present life."""

    def __init__(self, read: Callable[[], Times]) -> None:
        self._read = read
        self._sum = Times()
        self._from: Times | None = None

    def begin(self) -> None:
        """What was spent until now is not counted."""
        self._from = self._read()

    def end(self) -> None:
        """The present life is over, or about to be."""
        self._sum, self._from = self.times, None

    @property
    def times(self) -> Times:
        return self._sum if self._from is None else self._sum.plus(self._read().since(self._from))


class Command:
    """A Python command. `ready`: it serves once a line of its output has this text. All it says goes to `log`."""

    def __init__(self, name: str, arguments: Sequence[str], *, ready: str, log: Path) -> None:
        self.name = name
        self.lines: list[str] = []
        self._arguments = arguments
        self._ready = ready
        self._log = log
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._spent = Spent(lambda: process_times(self.pid))

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def times(self) -> Times:
        return self._spent.times

    async def start(self) -> str:
        """Returns the line that says that it is ready. Errors: RuntimeError with what it said, when it ends or does not
        come up."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, limit=2**20
        )
        said = len(self.lines)
        try:
            async with asyncio.timeout(START_S):
                while self._ready not in (line := await self._line(process)):
                    if not line:
                        raise RuntimeError(f"{self.name} ended:\n" + "\n".join(self.lines[said:]))
        except TimeoutError:
            await self.stop()
            raise RuntimeError(f"{self.name} did not start in time:\n" + "\n".join(self.lines[said:])) from None
        self._reader = asyncio.create_task(self._read_on(process))
        self._spent.begin()
        return line

    async def _line(self, process: Process) -> str:
        """The next line, "" at the end."""
        line = (await process.stdout.readline()).decode(errors="replace") if process.stdout is not None else ""
        if line:
            self.lines = [*self.lines[-50:], line.rstrip()]
            with self._log.open("a") as log:
                log.write(line)
        return line

    async def _read_on(self, process: Process) -> None:
        while await self._line(process):
            pass

    async def strike(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._spent.end()
            self._process.kill()
        await self._gone()

    async def revive(self) -> None:
        await self.start()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to what does not end. Idempotent; `times` and `lines` stay."""
        process = self._process
        if process is not None and process.returncode is None:
            self._spent.end()
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await self._gone()

    async def _gone(self) -> None:
        process, self._process = self._process, None
        reader, self._reader = self._reader, None
        if process is not None:
            await process.wait()
        if reader is not None:
            await reader


class EnclavePart:
    """The enclave of a stack. `counters`: what it counted, over all its boots."""

    name = "enclave"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._spent = Spent(lambda: process_times(stack.process.pid))
        self._before: Counter[str] = Counter()
        self.boots: list[str] = []  # that were killed

    @property
    def times(self) -> Times:
        return self._spent.times

    def begin(self) -> None:
        self._spent.begin()

    def samples(self) -> Counter[str]:
        """What it was busy with (see `sampled`)."""
        return Counter(read_samples(self._stack.directory / "samples"))

    async def counters(self) -> Counter[str]:
        return self._before + Counter((await self._stack.client.health()).counters)

    async def strike(self) -> None:
        with contextlib.suppress(AdytumError):
            health = await self._stack.client.health()
            self._before += Counter(health.counters)
            self.boots.append(health.boot_id)
        self._spent.end()
        self._stack.process.kill_now()
        await self._stack.process.kill()

    async def revive(self) -> None:
        """It has no manifest, no policy and no credentials: the service's supervisor brings them."""
        await self._stack.process.start()
        self._stack.reconnect()
        self._spent.begin()


class PostgresPart:
    """The database with all its processes."""

    name = "database"

    def __init__(self, postgres: KillablePostgres, directory: Path) -> None:
        self._postgres = postgres
        self._pid_file = directory / "data" / "postmaster.pid"
        self._spent = Spent(lambda: family_times(int(self._pid_file.read_text().splitlines()[0])))

    @property
    def times(self) -> Times:
        return self._spent.times

    def begin(self) -> None:
        self._spent.begin()

    async def strike(self) -> None:
        self._spent.end()
        self._postgres.kill()
        await asyncio.to_thread(self._postgres.stop)

    async def revive(self) -> None:
        """It recovers from its log; for longer than a start may take, where there is much of it."""
        for left in reversed(range(_STARTS)):
            try:
                await asyncio.to_thread(self._postgres.start)
            except EmbeddedPostgresError:
                if not left:
                    raise
            else:
                break
        self._spent.begin()


def process_times(pid: int) -> Times:
    """Of a process; `waited` of its first thread (Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat)."""
    return Times(process_seconds(pid), _waited(Path("/proc") / str(pid)))


def _waited(process: Path) -> float:
    return int((process / "schedstat").read_text().split()[1]) / 1e9


def family_times(parent: int) -> Times:
    """Of a process, its children, and those that have ended (proc(5), stat: ppid, utime, stime, cutime, cstime)."""
    ticks, waited = 0, 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if parent in (int(entry.name), int(fields[1])):
                ticks += sum(map(int, fields[11 : 15 if int(entry.name) == parent else 13]))
                waited += _waited(entry)
        except OSError:
            continue  # it ended while we looked
    return Times(ticks / 100.0, waited)


def machine_seconds() -> float:
    """Processor seconds of everything on this machine, idle time left out (proc(5), stat: user, nice, system, idle,
    iowait, irq, softirq, steal)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / 100.0
