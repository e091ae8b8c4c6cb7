"""`adytum bench rotation`: a whole tenant rotated while clients sign with the very keys, and where the time goes.

Records are made beforehand without the enclave (`records.py`); the rotation itself is the real one: worker processes,
HTTP service, PostgreSQL with fsync, enclave process, TLS to the KMS stand-in. All share this machine, and so does the
stand-in, which no deployment has beside it; `kms_delay_ms` makes it answer as late as KMS does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg
import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from adytum.cli.output import table
from adytum.rotation.progress import Progress
from adytum_sim.bench.drive import process_seconds
from adytum_sim.bench.owners import OTHERS, counting
from adytum_sim.rotating import Site, running_rotation

_TICK_S: Final = 0.5
_TOGETHER: Final = ("kms", "pipe", "client", OTHERS)
_SAY_S: Final = 30.0
_ENDED: Final = ("complete", "incomplete", "paused")


class Split(Struct, frozen=True, kw_only=True):
    """For one record. `kms_ms`: waiting for KMS's two answers, in the enclave. The rest: processor time.

    The stand-in (`kms_cpu_ms`, its TLS included), the byte pipe, the signing clients and the service share a process
    and its loop; `loop_cpu_ms` is what that spent between their callbacks. `total_cpu_ms`: of everything."""

    kms_ms: float
    kms_cpu_ms: float
    enclave_cpu_ms: float
    service_cpu_ms: float
    pipe_cpu_ms: float
    client_cpu_ms: float
    loop_cpu_ms: float
    worker_cpu_ms: float
    postgres_cpu_ms: float
    total_cpu_ms: float


class RotationMeasured(Struct, frozen=True, kw_only=True):
    """`seconds`: from the start of the job to its end. `first_rate`, `last_rate`: records a second in the first and the
    last fifth. `signed`: signatures that clients got and verified meanwhile; `failed`: those that they did not."""

    records: int
    seeded_seconds: float
    prepared_seconds: float
    seconds: float
    rate: float
    first_rate: float
    last_rate: float
    state: str
    resealed: int
    versions_wrong: int
    signed: int
    failed: int
    failures: list[str]
    documents: int
    kms_calls: int
    split: Split


async def run(
    directory: Path, records: int, *, workers: int, in_flight: int, clients: int, kms_delay_ms: int
) -> RotationMeasured:
    """One rotation of `records`. Errors: AdytumError, OSError, RotationError."""
    seeding = time.perf_counter()
    async with (
        contextlib.AsyncExitStack() as cleanup,
        running_rotation(directory, records=records, durable=True, in_flight=in_flight) as site,
    ):
        seeded = time.perf_counter() - seeding
        site.stack.kms.faults.set(delay_ms=kms_delay_ms)
        await site.put_policy(generation=2)
        before = (await site.stack.client.health()).counters
        async with _workers(site, workers) as pids, site.traffic(clients) as traffic:
            await traffic.more(1)
            parts = cleanup.enter_context(counting())
            cpu = _cpu(site, pids)
            began = time.perf_counter()
            job = await site.start(batch=100)
            prepared = time.perf_counter() - began
            ended = await _wait(site, job.id)
            seconds = time.perf_counter() - began
            spent = {name: value - cpu[name] for name, value in _cpu(site, pids).items()} | parts
        counters = (await site.stack.client.health()).counters
        calls = counters["kms_calls"] - before.get("kms_calls", 0)
        first, last = await _rates(site, job.id)
        done = max(1, ended.resealed)
        waited_us = counters["kms_us"] - before.get("kms_us", 0)
        each = {name: value / done * 1e3 for name, value in spent.items()}
        together = sum(each.get(name, 0.0) for name in _TOGETHER)
        return RotationMeasured(
            records=records,
            seeded_seconds=seeded,
            prepared_seconds=prepared,
            seconds=seconds,
            rate=done / seconds,
            first_rate=first,
            last_rate=last,
            state=ended.state,
            resealed=ended.resealed,
            versions_wrong=await _versions_wrong(site),
            signed=traffic.count,
            failed=len(traffic.failed),
            failures=traffic.failed[:10],
            documents=counters["documents"] - before.get("documents", 0),
            kms_calls=calls,
            split=Split(
                kms_ms=2 * waited_us / calls / 1e3,
                kms_cpu_ms=each.get("kms", 0.0),
                enclave_cpu_ms=each["enclave"],
                service_cpu_ms=each.get(OTHERS, 0.0),
                pipe_cpu_ms=each.get("pipe", 0.0),
                client_cpu_ms=each.get("client", 0.0),
                loop_cpu_ms=each["host"] - together,
                worker_cpu_ms=each["worker"],
                postgres_cpu_ms=each["postgres"],
                total_cpu_ms=sum(each[name] for name in ("host", "enclave", "worker", "postgres")),
            ),
        )


@contextlib.asynccontextmanager
async def _workers(site: Site, count: int) -> AsyncIterator[list[int]]:
    processes = [await site.worker_process(stderr=asyncio.subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            if process.stderr is not None:
                await process.stderr.readline()  # it says that it runs: what its start took is not counted
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.communicate()


async def _wait(site: Site, job_id: str) -> Progress:
    said = begun = time.perf_counter()
    while True:
        found = await site.progress(job_id)
        if found.state in _ENDED:
            return found
        now = time.perf_counter()
        if now - said >= _SAY_S:
            said = now
            done = found.total - found.left
            click.echo(f"{now - begun:.0f} s: {done} of {found.total} records, {found.state}", err=True)
        await asyncio.sleep(_TICK_S)


async def _rates(site: Site, job_id: str) -> tuple[float, float]:
    """Records a second in the first and in the last fifth of the records, by when their batches ended."""
    rows = await site.database.fetch(
        "SELECT extract(epoch FROM b.finished_at - j.created_at)::float8 AS at,"
        " sum(b.resealed) OVER (ORDER BY b.finished_at)::float8 AS done"
        " FROM job_batches b JOIN jobs j ON j.id = b.job_id WHERE j.id = $1 ORDER BY b.finished_at",
        job_id,
    )
    whole, end = rows[-1]["done"], rows[-1]["at"]
    head = next(row for row in rows if row["done"] >= whole / 5)
    tail = next(row for row in rows if row["done"] >= 4 * whole / 5)
    last = (whole - tail["done"]) / (end - tail["at"]) if end > tail["at"] else 0.0
    return head["done"] / max(head["at"], 1e-3), last


async def _versions_wrong(site: Site) -> int:
    """Records that do not have exactly the versions 1 and 2."""
    connection = await asyncpg.connect(site.host.dsn)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM (SELECT array_agg(version ORDER BY version) AS v FROM key_envelopes"
                " GROUP BY key_id) t WHERE v <> ARRAY[1, 2]::bigint[]"
            )
        )
    finally:
        await connection.close()


def _cpu(site: Site, workers: list[int]) -> dict[str, float]:
    """Processor seconds of each process so far."""
    return {
        "enclave": process_seconds(site.stack.process.pid),
        "host": time.process_time(),
        "worker": sum(process_seconds(pid) for pid in workers),
        "postgres": _family_seconds(_postmaster(site)),
    }


def _postmaster(site: Site) -> int:
    file = site.config.parent / "pg" / "data" / "postmaster.pid"
    return int(file.read_text().splitlines()[0])


def _family_seconds(parent: int) -> float:
    """Of a process, its children, and those that have ended (proc(5), stat: ppid, utime, stime, cutime, cstime)."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(entry.name) == parent:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == parent:
            ticks += sum(map(int, fields[11:13]))
    return ticks / 100.0


def show(measured: list[RotationMeasured], console: Console) -> None:
    """As tables."""
    rates: Table = table(
        "RECORDS", "SECONDS", "A SECOND", "FIRST FIFTH", "LAST FIFTH", "STATE", "SIGNED", "FAILED", "WRONG",
        "DOCUMENTS", "KMS CALLS",
        rows=[
            (m.records, f"{m.seconds:.1f}", f"{m.rate:.0f}", f"{m.first_rate:.0f}", f"{m.last_rate:.0f}", m.state,
             m.signed, m.failed, m.versions_wrong, m.documents, m.kms_calls)
            for m in measured
        ],
    )  # fmt: skip
    names = [field.name for field in msgspec.structs.fields(Split)]
    split: Table = table(
        "RECORDS", *names, rows=[(m.records, *(f"{getattr(m.split, name):.2f}" for name in names)) for m in measured]
    )
    console.print(rates)
    console.print("\nfor one record, milliseconds (kms_ms is waiting, the others are processor time):")
    console.print(split)
