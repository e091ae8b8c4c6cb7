"""`adytum sim`: run a stand-in as a process. Development and tests only; production does not install this package."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import click

from adytum_sim.kms.process import Options, serve
from adytum_sim.kms.state import DEFAULT_ACCOUNT, DEFAULT_REGION


@click.group()
def sim() -> None:
    """Stand-ins for AWS services that really refuse. Never in production."""


def _pcrs(entries: tuple[str, ...]) -> dict[int, bytes]:
    """`INDEX=HEX` entries. Errors: click.BadParameter."""
    pcrs: dict[int, bytes] = {}
    for entry in entries:
        index, equals, value = entry.partition("=")
        try:
            number, data = int(index.upper().removeprefix("PCR")), bytes.fromhex(value)
        except ValueError:
            number, data = -1, b""
        if not equals or not 0 <= number < 32 or len(data) != 48 or number in pcrs:
            raise click.BadParameter("a PCR is given once, as INDEX=96 hex digits", param_hint="--pcr")
        pcrs[number] = data
    return pcrs


@sim.command()
@click.option("--port", default=0, show_default=True, help="TLS port on 127.0.0.1; 0 takes a free one.")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Directory for keys and certificates.")
@click.option("--region", default=DEFAULT_REGION, show_default=True)
@click.option("--account", default=DEFAULT_ACCOUNT, show_default=True)
@click.option("--pcr", "pcr", multiple=True, metavar="INDEX=HEX", help="Demanded by the development key; repeatable.")
@click.option("--fault-port", default=0, show_default=True, help="HTTP port to break things at; 0 takes a free one.")
@click.option("--imds-port", type=int, help="Also stand in for the instance metadata service here; 0: a free port.")
@click.option("--accept-unsigned-documents", is_flag=True, help="For the QEMU rig, whose documents carry no signature.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
def kms(
    port: int,
    state: Path | None,
    region: str,
    account: str,
    pcr: tuple[str, ...],
    fault_port: int,
    imds_port: int | None,
    accept_unsigned_documents: bool,
    as_json: bool,
) -> None:
    """Stand in for AWS KMS (and STS) until SIGTERM or SIGINT."""

    def announce(ready: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(ready))
        else:
            for name, value in ready.items():
                click.echo(f"{name}: {value}")

    with contextlib.ExitStack() as stack:
        directory = state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adytum-kms-")))
        options = Options(
            directory=directory,
            port=port,
            region=region,
            account=account,
            pcrs=_pcrs(pcr),
            fault_port=fault_port,
            imds_port=imds_port,
            accept_unsigned_documents=accept_unsigned_documents,
        )
        try:
            asyncio.run(serve(options, announce))
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None
