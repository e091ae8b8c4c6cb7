"""The command `adytum bench`."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from rich.console import Console

from adytum_sim.bench import enclave as enclaves
from adytum_sim.bench import http as whole
from adytum_sim.bench import restore as restores
from adytum_sim.bench import rotation as rotations
from adytum_sim.bench.kills import every
from adytum_sim.bench.rotation_tables import show as show_rotation
from adytum_sim.bench.tables import show_enclave, show_http
from adytum_sim.bench.workload import StampBy
from adytum_sim.crash import matrix as crashes
from adytum_sim.crash.points import Point, Victim
from adytum_wire.errors import AdytumError
from adytum_wire.types import SigningScheme

E = TypeVar("E", bound=StrEnum)


@click.group()
def bench() -> None:
    """Measure this machine: rates, latencies, and how near they come to the bare primitives.

    Everything runs here, against the stand-ins; nothing of AWS is needed or measured.
    """


@bench.command()
@click.option("--seconds", default=3.0, show_default=True, help="Of load for each line of the table.")
@click.option("--depth", default="1,64", show_default=True, help="Requests in flight on one connection; a list.")
@click.option("--scheme", default="ecdsa-secp256k1", show_default=True, help="How keys sign; a list, or all.")
@click.option("--stamp", default="ed25519,p256,secp256k1,session", show_default=True, help="How clients stamp; a list.")
@click.option(
    "--cold/--no-cold", default=True, show_default=True, help="Also the strict mode, which asks KMS each time."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def enclave(seconds: float, depth: str, scheme: str, stamp: str, cold: bool, as_json: bool) -> None:
    """Signatures a second of one real enclave process, over its data port."""
    wanted = enclaves.cases(
        _members(SigningScheme, scheme, "--scheme"),
        _members(StampBy, stamp, "--stamp"),
        _numbers(depth, "--depth"),
        strict=cold,
    )
    with _directory() as directory:
        report = asyncio.run(enclaves.run(directory, wanted, seconds=seconds))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        show_enclave(report, Console())
    _fail_on(sum(measured.errors for measured in report.measured))


@bench.command()
@click.option("--seconds", default=6.0, show_default=True, help="Of load for each number of clients.")
@click.option("--clients", default="1,16,64", show_default=True, help="Connections with one request in flight; a list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def http(seconds: float, clients: str, as_json: bool) -> None:
    """The whole way: HTTP, service, enclave, and a receipt that is durable before the answer."""
    with _directory() as directory:
        report = asyncio.run(whole.run(directory, _numbers(clients, "--clients"), seconds=seconds))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        show_http(report, Console())
    _fail_on(sum(measured.errors for measured in report.measured))


@bench.command()
@click.option("--records", default="1000", show_default=True, help="How many; a list measures one after the other.")
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Worker processes.")
@click.option("--in-flight", type=click.IntRange(1, 256), default=16, show_default=True, help="Of each worker.")
@click.option("--clients", type=click.IntRange(1, 64), default=1, show_default=True, help="That sign meanwhile.")
@click.option("--kms-delay-ms", type=click.IntRange(0, 1000), default=0, show_default=True, help="Of each KMS answer.")
@click.option("--second-key", is_flag=True, help="The records move to another KMS key, too.")
@click.option(
    "--kill-every",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="SIGKILL a worker, the enclave, the database, the service, in turn, about so often.",
)
@click.option("--seed", default=0, show_default=True, help="Of the moments of the kills.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list and nothing else.")
def rotation(
    records: str,
    workers: int,
    in_flight: int,
    clients: int,
    kms_delay_ms: int,
    second_key: bool,
    kill_every: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """A tenant's records rotated while clients sign with them: rate, failures, and where the time goes."""
    found = []
    moments = random.Random(seed)  # noqa: S311 (protects nothing)
    logging.getLogger("asyncpg").addHandler(logging.NullHandler())  # it tells of each look for a killed database
    for count in _numbers(records, "--records", most=1_000_000):
        with _directory() as directory:
            found.append(
                asyncio.run(
                    rotations.run(
                        directory,
                        count,
                        workers=workers,
                        in_flight=in_flight,
                        clients=clients,
                        kms_delay_ms=kms_delay_ms,
                        second_key=second_key,
                        kill=every(kill_every, moments) if kill_every else None,
                        seed=seed,
                    )
                )
            )
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        show_rotation(found, Console(width=180))
    defects = sum(one.defects for one in found)
    if defects:
        raise click.ClickException(f"{defects} things went wrong")


@bench.command()
@click.option("--repeats", type=click.IntRange(1, 1000), default=20, show_default=True, help="Kills in each cell.")
@click.option("--steps", default="all", show_default=True, help="Steps of a request; a list, or all.")
@click.option("--killed", default="all", show_default=True, help="enclave, host, database; a list, or all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--partial", type=click.Path(path_type=Path, dir_okay=False), help="Keep the JSON so far in this file.")
@click.option(
    "--page",
    "pages",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run nothing: print the reference page of this JSON; several times for a run in parts.",
)
def crash(repeats: int, steps: str, killed: str, as_json: bool, partial: Path | None, pages: tuple[Path, ...]) -> None:
    """Kill enclave, host and database at each step of a request, under load, and count what was lost or doubled."""
    if pages:
        parts = [msgspec.json.decode(page.read_bytes(), type=crashes.Report) for page in pages]
        click.echo(crashes.page(crashes.merged(parts)), nl=False)
        return
    wanted = _members(Point, steps, "--steps"), _members(Victim, killed, "--killed")

    def told(so_far: crashes.Report) -> None:
        if partial is not None:
            partial.write_bytes(msgspec.json.encode(so_far))
        if not as_json:
            crashes.show(crashes.Report(repeats=repeats, cells=so_far.cells[-1:]), Console(width=180))

    with _directory() as directory:
        report = asyncio.run(crashes.run(directory, *wanted, repeats, told))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        crashes.show(report, Console(width=180))
    if report.failures:
        raise click.ClickException(f"{report.failures} things went wrong")


@bench.command()
@click.option("--records", default="1000", show_default=True, help="How many; a list measures one after the other.")
@click.option("--sample", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Records to open.")
@click.option("--receipts", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Least to verify.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list and nothing else.")
def restore(records: str, sample: int, receipts: int, as_json: bool) -> None:
    """A backup, its restore into an empty database, all checks, and a sample opened in a fresh enclave."""
    found = []
    for count in _numbers(records, "--records", most=1_000_000):
        with _directory() as directory:
            found.append(asyncio.run(restores.run(directory, count, sample=sample, receipts=receipts)))
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        restores.show(found, Console(width=220))
    _fail_on(sum(one.findings + one.sampled - one.opened for one in found))


@contextmanager
def _directory() -> Iterator[Path]:
    """A private directory with a short path, as Unix sockets need. A refusal ends the command with status 1."""
    path = Path(tempfile.mkdtemp(prefix="adytum-", dir="/tmp"))
    path.chmod(0o711)  # as root, PostgreSQL runs as another user, who must be able to enter
    try:
        yield path
    except (AdytumError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fail_on(errors: int) -> None:
    if errors:
        raise click.ClickException(f"{errors} requests were refused")


def _members(kind: type[E], text: str, option: str) -> list[E]:
    try:
        return list(kind) if text == "all" else [kind(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"choose from {', '.join(kind)}", param_hint=option) from None


def _numbers(text: str, option: str, *, most: int = 1024) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if not all(1 <= number <= most for number in numbers):
        raise click.BadParameter(f"numbers from 1 to {most}, separated by commas", param_hint=option)
    return numbers
