"""`adytum migrate`: the database schema, forward and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from adytum.cli.options import read_settings, settings_option
from adytum.cli.output import facts, json_option, say
from adytum.storage import migrate as migrations
from adytum.storage import roles


@click.group()
def migrate() -> None:
    """Move the database schema forward and back. Each step is one transaction, with lock and statement timeouts."""


@migrate.command()
@settings_option
@click.option("--to", "target", default="head", show_default=True, help="Revision to reach.")
@json_option
def up(settings_file: Path | None, target: str) -> None:
    """Bring the schema forward."""
    dsn = _dsn(settings_file)
    asyncio.run(migrations.upgrade(dsn, target))
    _say(asyncio.run(migrations.status(dsn)))


@migrate.command()
@settings_option
@click.option("--to", "target", required=True, help='Revision to go back to; "base" removes everything.')
@click.option("--yes-delete-data", is_flag=True, help="Needed: going back drops tables, sealed keys included.")
@json_option
def down(settings_file: Path | None, target: str, yes_delete_data: bool) -> None:
    """Take the schema back. Data of the dropped tables are lost: a sealed key exists nowhere else."""
    if not yes_delete_data:
        raise click.UsageError("going back drops tables, sealed keys included; add --yes-delete-data")
    dsn = _dsn(settings_file)
    asyncio.run(migrations.downgrade(dsn, target))
    _say(asyncio.run(migrations.status(dsn)))


@migrate.command()
@settings_option
@json_option
def status(settings_file: Path | None) -> None:
    """Show where the schema stands. Changes nothing."""
    _say(asyncio.run(migrations.status(_dsn(settings_file))))


@migrate.command("grant")
@settings_option
@json_option
def grant_roles(settings_file: Path | None) -> None:
    """Make the database roles and give each what it needs, and no more.

    Run it as the owner of the tables, after every `up`. The roles cannot log in: make logins of your own and grant them
    adytum_service (the service, the workers), adytum_auditor (reads proofs, no ciphertext) or adytum_migrator.
    """
    dsn = _dsn(settings_file)
    asyncio.run(roles.grant(dsn))
    say({"roles": list(roles.ROLES), "tables": len(roles.GRANTS)}, facts({"roles": ", ".join(roles.ROLES)}))


def _dsn(settings_file: Path | None) -> str:
    dsn = read_settings(settings_file).database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty: the embedded PostgreSQL migrates itself when the service starts")
    return dsn


def _say(found: migrations.Status) -> None:
    data = {"current": found.current, "head": found.head, "pending": list(found.pending)}
    say(
        data,
        facts(
            {"current": found.current or "(empty)", "head": found.head, "pending": ", ".join(found.pending) or "none"}
        ),
    )
