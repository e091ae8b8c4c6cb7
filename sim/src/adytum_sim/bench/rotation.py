"""`adytum bench rotation`: a whole tenant rotated while clients sign with the very keys, and where the time goes.

Records are made beforehand without the enclave (`records.py`); the rotation itself is the real one, each part in a
process of its own (`apart.py`): worker, HTTP service, PostgreSQL with fsync, enclave, byte pipe, KMS stand-in, clients.
All share this machine, and so does the stand-in, which no deployment has beside it; `kms_delay_ms` makes it answer as
late as KMS does. With `kills`, parts are killed and started again meanwhile (`kills.py`). At the end everything is read
back and judged (`verdict.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
from msgspec import Struct
from msgspec.structs import replace

from adytum.rotation.job import Job
from adytum.rotation.progress import Progress
from adytum_sim.bench.apart import Apart, running_apart
from adytum_sim.bench.kills import Killer, Moment, Recovery, Sample, recoveries
from adytum_sim.bench.opening import Opened, open_some
from adytum_sim.bench.parts import Part, Times, machine_seconds
from adytum_sim.bench.sampled import KINDS, KMS_KINDS
from adytum_sim.bench.signing import Heard, Summary, heard_of, read_evidence
from adytum_sim.bench.verdict import Verdict, judge
from adytum_wire.errors import AdytumError

_TICK_S: Final = 0.25
_SAY_S: Final = 30.0
_ENDED: Final = ("complete", "incomplete", "paused")
GENERATION: Final = 2

# Cheap at any size: one index look-up a chain, and no reading of what the batches hold.
_DURABLE: Final = """
SELECT coalesce(sum(m.n), 0)::bigint AS n FROM (SELECT DISTINCT chain FROM attestations) a,
LATERAL (SELECT max(sequence) AS n FROM receipts r WHERE r.chain = a.chain) m
"""
_RECORDS: Final = "SELECT coalesce(sum(resealed + skipped + failed), 0)::bigint AS n FROM job_batches WHERE job_id = $1"


class Split(Struct, frozen=True, kw_only=True):
    """Milliseconds of processor time for one record, each part a process. `enclave_kms_ms`: of `enclave_ms`, what KMS's
    protocol took; `enclave_loop_ms`: what its event loop took (`sampled.py`). `total_ms`: of all parts, the stand-in
    and the clients among them. `kms_share`: of the total, stand-in, pipe and KMS's protocol in the enclave."""

    kms_ms: float
    pipe_ms: float
    enclave_ms: float
    enclave_kms_ms: float
    enclave_loop_ms: float
    service_ms: float
    worker_ms: float
    postgres_ms: float
    client_ms: float
    total_ms: float
    kms_share: float


class Cores(Struct, frozen=True, kw_only=True):
    """Cores, on average while the job ran. A Python part is one thread: where it is busy or wants a core all the time
    (1.0), it is what bounds the job. A worker's are of all workers together."""

    kms: float
    pipe: float
    enclave: float
    service: float
    worker: float
    postgres: float
    client: float


class KmsCalls(Struct, frozen=True, kw_only=True):
    """As the enclave saw them. `each_ms`: from wanting an answer to having it, its turn awaited. `in_flight`: on
    average. `documents`: attestation documents that were made for them."""

    calls: int
    each_ms: float
    in_flight: float
    documents: int


class RotationMeasured(Struct, frozen=True, kw_only=True):
    """`seconds`: from the start of the job to its end. `first_rate`, `last_rate`: records a second in the first and the
    last fifth. `busy`: cores that a part was on; `wanted`: that, and what it was ready for while others were on them;
    `others`: cores that programs were on which are not ours, this one's watching included. `enclave`: milliseconds of
    its processor for one record, by `sampled.KINDS`. `stopped`: parts that ended without being killed."""

    job: str
    records: int
    second_key: bool
    seeded_seconds: float
    prepared_seconds: float
    seconds: float
    rate: float
    first_rate: float
    last_rate: float
    state: str
    resealed: int
    skipped: int
    refused: int
    rounds: int
    signatures: Summary
    kms: KmsCalls
    split: Split
    busy: Cores
    wanted: Cores
    others: float
    cores: int
    enclave: dict[str, float]
    opened: Opened
    kills: list[Recovery]
    stopped: list[str]
    verdict: Verdict

    @property
    def defects(self) -> int:
        """What must be zero."""
        wrong = self.signatures.wrong + self.signatures.failed + self.opened.asked - self.opened.opened
        missing = abs(self.records - self.resealed) + self.records - self.verdict.resealed
        return wrong + missing + self.verdict.defects + len(self.stopped) + (self.state != "complete")


async def run(
    directory: Path,
    records: int,
    *,
    workers: int = 1,
    in_flight: int = 16,
    clients: int = 1,
    kms_delay_ms: int = 0,
    second_key: bool = False,
    kill: Moment | None = None,
    seed: int = 0,
    sample: int = 200,
) -> RotationMeasured:
    """One rotation of `records` to generation 2, and with `second_key` to another KMS key. `kill`: when the next part
    is to be killed; `seed`: of which worker. `sample`: records to sign with afterwards. Errors: AdytumError, OSError,
    RotationError, RuntimeError, TimeoutError."""
    seeding = time.perf_counter()
    async with running_apart(
        directory,
        records=records,
        workers=workers,
        clients=clients,
        in_flight=in_flight,
        kms_delay_ms=kms_delay_ms,
        second_key=second_key,
    ) as apart:
        seeded = time.perf_counter() - seeding
        measured = await rotate(apart, kill=kill, seed=seed, sample=sample)
        return replace(measured, seeded_seconds=seeded, second_key=second_key)


async def rotate(apart: Apart, *, kill: Moment | None = None, seed: int = 0, sample: int = 200) -> RotationMeasured:
    """Rotate the records of a deployment that has just been opened. Arguments and errors as `run`."""
    await apart.put_policy(generation=GENERATION)
    before, machine = apart.times(), machine_seconds()
    counters, samples = await apart.enclave.counters(), apart.enclave.samples()
    began = time.perf_counter()
    job = await apart.start(batch=100)
    prepared = time.perf_counter() - began
    watch = _Watch(apart, job, began)
    async with _killing(watch, kill, seed) as killer:
        ended = await watch.until_ended()
        seconds = time.perf_counter() - began
    # What was killed last runs again.
    spent = {name: value.since(before[name]) for name, value in apart.times().items()}
    others = max(0.0, machine_seconds() - machine - sum(one.busy for one in spent.values()))
    counters, samples = await apart.enclave.counters() - counters, apart.enclave.samples() - samples
    stopped = apart.stopped
    await apart.ready()
    signatures = await apart.stop_clients()
    for worker in apart.workers:
        await worker.stop()
    heard = read_evidence(apart.evidence)
    opened, further = await _open(apart, heard, sample)
    first, last = await _rates(apart, job.id)
    done = max(1, ended.resealed)
    return RotationMeasured(
        job=job.id,
        records=len(apart.keys),
        second_key=False,
        seeded_seconds=0.0,
        prepared_seconds=prepared,
        seconds=seconds,
        rate=ended.resealed / seconds,
        first_rate=first,
        last_rate=last,
        state=ended.state,
        resealed=ended.resealed,
        skipped=ended.skipped,
        refused=ended.failed,
        rounds=ended.rounds,
        signatures=signatures,
        kms=_kms(counters, seconds),
        split=_split(spent, samples, done),
        busy=Cores(**{name: one.busy / seconds for name, one in spent.items()}),
        wanted=Cores(**{name: (one.busy + one.waited) / seconds for name, one in spent.items()}),
        others=others / seconds,
        cores=os.cpu_count() or 1,
        enclave=_kinds(spent["enclave"], samples, done),
        opened=opened,
        kills=recoveries(watch.samples, killer.kills if killer is not None else []),
        stopped=stopped,
        verdict=await judge(apart, job.id, generation=GENERATION, heard=[*heard, *further]),
    )


@contextlib.asynccontextmanager
async def _killing(watch: _Watch, kill: Moment | None, seed: int) -> AsyncIterator[Killer | None]:
    """Kill while the block runs; at its end everything runs again. Errors: of a part that does not come up."""
    if kill is None:
        yield None
        return
    apart = watch.apart
    parts: dict[str, Sequence[Part]] = {
        "worker": apart.workers,
        "enclave": [apart.enclave],
        "database": [apart.database_part],
        "service": [apart.service],
    }
    source = random.Random(seed)  # noqa: S311 (protects nothing)
    killer, stop = Killer(parts, kill, lambda: watch.done, source), asyncio.Event()
    task = watch.killing = asyncio.create_task(killer.run(stop))
    try:
        yield killer
    finally:
        stop.set()
        await task


@dataclass(slots=True)
class _Watch:
    """Looks at the job from outside until it has ended. `samples`: receipts that were durable."""

    apart: Apart
    job: Job
    began: float
    samples: list[Sample] = field(default_factory=list)
    killing: asyncio.Task[None] | None = None

    @property
    def done(self) -> int:
        """Receipts that were durable when it last looked."""
        return self.samples[-1].done if self.samples else 0

    async def until_ended(self) -> Progress:
        """A database that is away is waited for. Errors: RuntimeError when a part ended by itself, and what a part says
        that does not come up again."""
        said = self.began
        while True:
            if self.killing is not None and self.killing.done():
                self.killing.result()
            if self.killing is None and self.apart.stopped:
                raise RuntimeError(f"ended by itself: {', '.join(self.apart.stopped)}")
            with contextlib.suppress(AdytumError):
                if await self._state() in _ENDED:
                    return await self.apart.progress(self.job.id)
                [row] = await self.apart.database.fetch(_DURABLE)
                self.samples.append(Sample(time.perf_counter(), row["n"]))
                if time.perf_counter() - said >= _SAY_S:
                    said = time.perf_counter()
                    await self._say()
            await asyncio.sleep(_TICK_S)

    async def _state(self) -> str:
        [row] = await self.apart.database.fetch("SELECT state FROM jobs WHERE id = $1", self.job.id)
        return str(row["state"])

    async def _say(self) -> None:
        [row] = await self.apart.database.fetch(_RECORDS, self.job.id)
        passed = time.perf_counter() - self.began
        click.echo(f"{passed:.0f} s: {row['n']} of {len(self.apart.keys)} records", err=True)


async def _open(apart: Apart, heard: list[Heard], sample: int) -> tuple[Opened, list[Heard]]:
    """A sample of the records; first those that no client has signed with."""
    used, further = {one.key_id for one in heard}, list[Heard]()
    keys = sorted(apart.keys, key=used.__contains__)[:sample]
    return await open_some(apart, keys, lambda key_id, answer: further.append(heard_of(key_id, answer))), further


def _kms(counters: Counter[str], seconds: float) -> KmsCalls:
    calls, waited_s = counters["kms_calls"], counters["kms_us"] / 1e6
    return KmsCalls(
        calls=calls,
        each_ms=1e3 * waited_s / max(1, calls),
        in_flight=waited_s / seconds,
        documents=counters["documents"],
    )


def _kinds(enclave: Times, samples: Counter[str], records: int) -> dict[str, float]:
    """Milliseconds of the enclave's processor for one record, shared out as it was seen."""
    return {kind: 1e3 * enclave.busy / records * samples[kind] / max(1, samples.total()) for kind in KINDS}


def _split(spent: dict[str, Times], samples: Counter[str], records: int) -> Split:
    each = {name: 1e3 * one.busy / records for name, one in spent.items()}
    kinds, total = _kinds(spent["enclave"], samples, records), sum(each.values())
    protocol = sum(kinds[kind] for kind in KMS_KINDS)
    return Split(
        kms_ms=each["kms"],
        pipe_ms=each["pipe"],
        enclave_ms=each["enclave"],
        enclave_kms_ms=protocol,
        enclave_loop_ms=kinds["loop"],
        service_ms=each["service"],
        worker_ms=each["worker"],
        postgres_ms=each["postgres"],
        client_ms=each["client"],
        total_ms=total,
        kms_share=(each["kms"] + each["pipe"] + protocol) / total,
    )


async def _rates(apart: Apart, job_id: str) -> tuple[float, float]:
    """Records a second in the first and in the last fifth of the records, by when their batches ended."""
    rows = await apart.fetch(
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
