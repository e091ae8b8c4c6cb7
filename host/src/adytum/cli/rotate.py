"""`adytum rotate`: start, status, pause, resume, cancel, list, report, finish, worker. See docs/how-to/rotate.md."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from adytum.app import host_clock_ms, read_manifest
from adytum.cli.groups import Group
from adytum.cli.options import FILE, read_settings, settings_option
from adytum.cli.output import facts, json_option, say, table
from adytum.rotation import finish as finishing
from adytum.rotation import job as jobs
from adytum.rotation import progress
from adytum.rotation.plan import ASSUMED_RATE, Selection, described, read_target, take_inventory
from adytum.rotation.progress import Progress
from adytum.rotation.queue import Queue
from adytum.rotation.wiring import Rotator, open_database
from adytum.settings import Settings
from adytum.storage.database import Database
from adytum_wire.errors import AdytumError

T = TypeVar("T")
_WATCH_S = 1.0
_tenant = click.option("--tenant", required=True, envvar="ADYTUM_TENANT", help="Whose records.  [env: ADYTUM_TENANT]")
_key = click.option(
    "--key", "signer_file", type=FILE, help="The rotator's private key (PEM); default: rotation.signerFile."
)
_url = click.option("--url", default="", help="The service; default: rotation.url.")


@click.group(cls=Group)
def rotate() -> None:
    """Seal every record again under fresh data keys, gradually, while the service signs.

    First publish a policy with a higher `records.generation` (or a manifest with another KMS key). Then start a job,
    run workers, wait for `complete`; publish `min_generation`, so that the old records are refused; then `finish`.
    """


@rotate.command()
@settings_option
@_tenant
@click.option("--kms-key", default="", help="Only records that are sealed under this KMS key (ARN) now.")
@click.option("--below-generation", type=click.IntRange(min=1), default=None, help="Only records below it.")
@click.option("--label", default="", help="Only records with this label.")
@click.option("--dry-run", is_flag=True, help="Count, estimate, and change nothing.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=None, help="At most so many records a second.")
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Run so many workers here until it ends.")
@click.option("--batch", type=click.IntRange(1, 1000), default=jobs.BATCH, show_default=True, help="Records a batch.")
@json_option
def start(
    settings_file: Path | None,
    tenant: str,
    kms_key: str,
    below_generation: int | None,
    label: str,
    dry_run: bool,
    rate: float | None,
    workers: int | None,
    batch: int,
) -> None:
    """Start a job: every record of the tenant whose generation or KMS key is not the one in force.

    The options narrow that down. One job of a tenant runs at a time.
    """
    settings = read_settings(settings_file)
    selection = Selection(kms_key=kms_key, below_generation=below_generation or 0, label=label)

    async def count(database: Database) -> dict[str, object]:
        target = await read_target(database, tenant, read_manifest(settings.tee.manifestFile))
        counts = await take_inventory(database, target, selection)
        expected = rate or await progress.last_rate(database, tenant) or ASSUMED_RATE
        return described(counts, target, rate=expected)

    async def begin(database: Database) -> Progress:
        target = await read_target(database, tenant, read_manifest(settings.tee.manifestFile))
        job = await jobs.start(database, Queue(), target, selection, rate=rate or 0.0, batch=batch)
        return await progress.read(database, job.id)

    if dry_run:
        found = _run(settings, count)
        say({"plan": found}, facts({name: _short(value) for name, value in found.items()}))
        return
    begun = _run(settings, begin)
    if workers is None:
        say(_shown(begun), f"Job {begun.id}: {begun.total} records. Run `adytum rotate worker` on any host.")
        return
    click.echo(f"Job {begun.id}: {begun.total} records.", err=True)
    processes = workers

    async def work(database: Database) -> Progress:
        """Until the workers have ended: with the job, or because it is paused."""
        watching = asyncio.create_task(_watch(database, begun.id))
        try:
            await _run_workers(processes, settings_file)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return await progress.read(database, begun.id)

    try:
        ended = _run(settings, work)
    except KeyboardInterrupt:
        click.echo(f"The workers have stopped; job {begun.id} goes on as soon as others run.", err=True)
        raise
    say(_shown(ended), _facts(ended))
    _fail_unless_complete(ended)


@rotate.command()
@settings_option
@click.argument("job_id")
@click.option("--watch", is_flag=True, help="Go on until the job has ended.")
@json_option
def status(settings_file: Path | None, job_id: str, watch: bool) -> None:
    """Show how far a job is: records, rate, time to go, failures. With --watch, status 1 unless it ends complete."""
    settings = read_settings(settings_file)
    if not watch:
        found = _run(settings, lambda database: progress.read(database, job_id))
        say(_shown(found), _facts(found))
        return
    ended = _run(settings, lambda database: _watch(database, job_id))
    say(_shown(ended), _facts(ended))
    _fail_unless_complete(ended)


@rotate.command("list")
@settings_option
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
def list_jobs(settings_file: Path | None, tenant: str) -> None:
    """List the jobs, oldest first."""
    found = _run(read_settings(settings_file), lambda database: progress.read_all(database, tenant))
    rows = [(p.id, p.tenant, p.state, p.generation, p.total, p.left, p.failed, p.problem) for p in found]
    say(
        {"jobs": [_shown(one) for one in found]},
        table("JOB", "TENANT", "STATE", "GENERATION", "RECORDS", "LEFT", "FAILED", "PROBLEM", rows=rows),
    )


@rotate.command()
@settings_option
@click.argument("job_id")
@json_option
def pause(settings_file: Path | None, job_id: str) -> None:
    """Stop a job for now; the records that are under way are finished."""
    _change(settings_file, job_id, lambda database: jobs.pause(database, job_id))


@rotate.command()
@settings_option
@click.argument("job_id")
@json_option
def resume(settings_file: Path | None, job_id: str) -> None:
    """Let a paused job go on."""
    _change(settings_file, job_id, lambda database: jobs.resume(database, job_id))


@rotate.command()
@settings_option
@click.argument("job_id")
@json_option
def cancel(settings_file: Path | None, job_id: str) -> None:
    """End a job for good. What was resealed stays so."""
    _change(settings_file, job_id, lambda database: jobs.cancel(database, Queue(), job_id))


@rotate.command()
@settings_option
@click.argument("job_id")
@json_option
def report(settings_file: Path | None, job_id: str) -> None:
    """Show a job with every record that failed, and the enclave's statement once it is finished."""

    async def read(database: Database) -> dict[str, Any]:
        found, job = await progress.read(database, job_id), await jobs.get(database, job_id)
        failed = await jobs.failures(database, job_id)
        return {
            "job": _shown(found),
            "failures": msgspec.to_builtins(failed),
            "statement": {
                "request": job.statement_body.decode(),
                "result": job.statement.decode(),
                "receipt": job.statement_receipt.decode(),
            },
        }

    found = _run(read_settings(settings_file), read)
    rows = [(one["key_id"], one["code"], one["field"]) for one in found["failures"]]
    lines = [table("KEY", "CODE", "FIELD", rows=rows)] if rows else []
    say(found, facts(found["job"]), *lines, *([found["statement"]["result"]] if found["statement"]["result"] else []))


@rotate.command("finish")
@settings_option
@click.argument("job_id")
@_key
@_url
@json_option
def finish_job(settings_file: Path | None, job_id: str, signer_file: Path | None, url: str) -> None:
    """Remove the old ciphertext of a complete job, once no enclave uses it any more.

    Refused until the policy in force has `min_generation` at the job's generation or above, and unless the enclave says
    so itself: its signed statement is kept with the job (`report`).
    """
    settings = read_settings(settings_file)

    async def work(database: Database) -> finishing.Finished:
        rotator = Rotator(settings, url=url, signer_file=signer_file)
        try:
            job = await jobs.get(database, job_id)
            target = await read_target(database, job.tenant, read_manifest(settings.tee.manifestFile))
            return await finishing.finish(
                database, rotator.client(job.tenant), job_id, target, issued_at=host_clock_ms()
            )
        finally:
            await rotator.close()

    done = _run(settings, work)
    said = msgspec.to_builtins(done.statement)
    say({"job": job_id, "state": done.job.state, "shredded": done.shredded, "statement": said}, facts(said),
        f"Removed {done.shredded} old versions.")  # fmt: skip


@rotate.command()
@settings_option
@_key
@_url
@click.option("--until-done", is_flag=True, help="End when no job runs any more.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="How much is written to standard error.",
)
def worker(settings_file: Path | None, signer_file: Path | None, url: str, until_done: bool, log_level: str) -> None:
    """Work on the jobs that run, until SIGINT or SIGTERM. Start as many as you like, on any host."""
    settings = read_settings(settings_file)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore", "asyncio", "pgqueuer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(_work(settings, signer_file, url, until_done))


async def _work(settings: Settings, signer_file: Path | None, url: str, until_done: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    rotator, database = Rotator(settings, url=url, signer_file=signer_file), open_database(settings)
    try:
        click.echo("adytum rotate worker runs", err=True)
        one = rotator.worker(database, settings)
        await one.run(stop, until_done=until_done)
        click.echo(f"adytum rotate worker stops: {one.resealed} records resealed", err=True)
    finally:
        await rotator.close()
        await database.close()


async def _run_workers(count: int, settings_file: Path | None) -> None:
    """Processes, since one Python process is one core. They end with the job, or with us."""
    arguments = ["rotate", "worker", "--until-done", "--log-level", "warning"]
    if settings_file is not None:
        arguments += ["-c", str(settings_file)]
    code = "from adytum.cli import main; main()"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments) for _ in range(count)]
    try:
        await asyncio.gather(*(process.wait() for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _watch(database: Database, job_id: str) -> Progress:
    """A bar on the terminal, until the job has ended. A database that is away for a moment is waited for."""
    bar = Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    found = await progress.read(database, job_id)
    with bar:
        task = bar.add_task(found.state, total=found.total, more="")
        while found.is_active:
            more = f"{found.rate}/s  eta {_eta(found)}  failed {found.failed}  {found.problem}"
            bar.update(task, description=found.state, total=found.total, completed=found.total - found.left, more=more)
            await asyncio.sleep(_WATCH_S)
            try:
                found = await progress.read(database, job_id)
            except AdytumError as error:
                if not error.code.retryable:
                    raise
    return found


def _eta(found: Progress) -> str:
    return "?" if found.eta_s < 0 else f"{found.eta_s // 60}:{found.eta_s % 60:02d}"


def _change(settings_file: Path | None, job_id: str, step: Callable[[Database], Awaitable[jobs.Job]]) -> None:
    done = _run(read_settings(settings_file), step)
    say({"id": job_id, "state": done.state}, f"Job {job_id} is {done.state}.")


def _run(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """`work` with a database of its own."""

    async def run() -> T:
        database = open_database(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def _shown(found: Progress) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown


def _facts(found: Progress) -> str:
    shown = _shown(found) | {"eta_s": _eta(found), "selection": _short(msgspec.to_builtins(found.selection))}
    return facts(shown)


def _short(value: object) -> object:
    """A mapping on one line."""
    if isinstance(value, dict):
        return "  ".join(f"{name}={part}" for name, part in value.items()) or "-"
    return value


def _fail_unless_complete(found: Progress) -> None:
    if found.state not in ("complete", "finished"):
        click.get_current_context().exit(1)
