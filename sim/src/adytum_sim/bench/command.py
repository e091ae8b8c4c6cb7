"""The command `adytum bench`."""

from __future__ import annotations

import asyncio
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
from adytum_sim.bench.tables import show_enclave, show_http
from adytum_sim.bench.workload import StampBy
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


def _numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if not all(1 <= number <= 1024 for number in numbers):
        raise click.BadParameter("numbers from 1 to 1024, separated by commas", param_hint=option)
    return numbers
