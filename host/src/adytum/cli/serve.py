"""`adytum serve`: run the host service until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click
import uvloop

from adytum.app import Service
from adytum.cli.options import read_settings, settings_option
from adytum.settings import Settings


@click.command()
@settings_option
@click.option("--migrate", is_flag=True, help="Bring the database schema forward first.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="How much is written to standard error.",
)
def serve(settings_file: Path | None, migrate: bool, log_level: str) -> None:
    """Run the host service.

    Starts also while enclave or database are away; /v1/health says what is missing, and sensitive requests are refused
    until the enclave has proven itself. SIGTERM lets open requests finish.
    """
    settings = read_settings(settings_file)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore", "asyncio", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uvloop.run(_serve(settings, migrate))


async def _serve(settings: Settings, migrate: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, migrate_first=migrate)
    await service.start()
    try:
        click.echo(f"adytum serves at {service.base_url}")
        await stop.wait()
        click.echo("adytum stops")
    finally:
        await service.stop()
