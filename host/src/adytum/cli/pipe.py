"""`adytum pipe`: the byte pipe through which the enclave reaches KMS. AWS's `vsock-proxy` can stand in its place."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from adytum.app import endpoint_of
from adytum.cli.options import read_settings, settings_option
from adytum.pipe import Pipe
from adytum.settings import EnclaveAddress, Settings
from adytum_wire.errors import AdytumError
from adytum_wire.manifest import DynamoDbAnchor, Manifest, parse_manifest

HTTPS = 443
IMDS = ("169.254.169.254", 80)


@click.command()
@settings_option
@click.option(
    "--dial",
    metavar="HOST:PORT",
    help="Connect there instead of resolving KMS's name (a stand-in here). TLS still asks for KMS's name.",
)
@click.option("--dial-anchor", metavar="HOST:PORT", help="The same for the anchor that the manifest names.")
def pipe(settings_file: Path | None, dial: str | None, dial_anchor: str | None) -> None:
    """Carry bytes between the enclave and KMS, and what else its manifest names, until SIGINT or SIGTERM.

    Listens where the enclave dials `tee.vsock.kmsPort` and connects to KMS in the region of `tee.kmsKeyARN`, port 443.
    It sees TLS that ends inside the enclave. It needs no privileges beyond the socket. When the manifest says that the
    enclave fetches its credentials itself, `tee.vsock.imdsPort` leads to the instance metadata service; when it names
    an anchor in DynamoDB, the anchor's port leads to the anchor's host.
    """
    settings = read_settings(settings_file)
    target = kms_host(settings.tee.kmsKeyARN)
    there = _address(dial_anchor, "--dial-anchor") if dial_anchor else None
    asyncio.run(_carry(settings, target, _address(dial, "--dial") if dial else None, there))


def kms_host(key_arn: str) -> str:
    """The host name of KMS for a key ARN. Errors: click.UsageError for an ARN without a region."""
    parts = key_arn.split(":")
    if len(parts) < 6 or not parts[3]:
        raise click.UsageError("tee.kmsKeyARN names no region")
    suffix = "amazonaws.com.cn" if parts[1] == "aws-cn" else "amazonaws.com"
    return f"kms.{parts[3]}.{suffix}"


def _address(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter("want HOST:PORT", param_hint=option)
    return host, int(port)


async def _carry(
    settings: Settings, target: str, dial_to: tuple[str, int] | None, anchor_to: tuple[str, int] | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    allow = frozenset({(target, HTTPS)})
    port = settings.tee.vsock.kmsPort
    async with contextlib.AsyncExitStack() as cleanup:
        running = [
            await cleanup.enter_async_context(
                Pipe(endpoint_of(address), port, target, HTTPS, allow=allow, dial_to=dial_to)
            )
            for address in _listening(settings)
        ]
        click.echo(f"the enclave's port {port} leads to {target}:{HTTPS}")
        manifest = _manifest(settings)
        if manifest is not None and manifest.kms.credentials == "imds":
            imds = settings.tee.vsock.imdsPort
            for address in _listening(settings):
                await cleanup.enter_async_context(Pipe(endpoint_of(address), imds, *IMDS, allow=frozenset({IMDS})))
            click.echo(f"the enclave's port {imds} leads to {IMDS[0]}:{IMDS[1]}")
        anchor = None if manifest is None else manifest.anchor
        if isinstance(anchor, DynamoDbAnchor):
            there = (anchor.host, HTTPS)
            running += [
                await cleanup.enter_async_context(
                    Pipe(endpoint_of(address), anchor.port, *there, allow=frozenset({there}), dial_to=anchor_to)
                )
                for address in _listening(settings)
            ]
            click.echo(f"the enclave's port {anchor.port} leads to {anchor.host}:{HTTPS}")
        await stop.wait()
        up, down = sum(pipe.counters.bytes_up for pipe in running), sum(pipe.counters.bytes_down for pipe in running)
        click.echo(f"carried {up} bytes up, {down} down")


def _manifest(settings: Settings) -> Manifest | None:
    """Errors: click.ClickException for a manifest that cannot be read."""
    path = settings.tee.manifestFile
    if path is None:
        return None
    try:
        return parse_manifest(path.read_bytes())
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except AdytumError as error:
        raise click.ClickException(f"{path}: {error}") from None


def _listening(settings: Settings) -> list[EnclaveAddress]:
    """Where to listen: once for all enclaves on vsock, which dial the same port; else once for each."""
    vsock = [address for address in settings.tee.addresses if address.cid is not None]
    return vsock[:1] + [address for address in settings.tee.addresses if address.cid is None]
