"""`adytum migrate`: the database schema, forward and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from adytum.cli.groups import Group
from adytum.cli.options import read_settings, settings_option
from adytum.cli.output import facts, json_option, say
from adytum.storage import migrate as migrations
from adytum.storage import roles


@click.group(cls=Group)
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

    The first time a superuser or the database's owner runs it, also on an empty database; later, after every `up`, a
    login that has adytum_migrator may. Everything that is there then belongs to adytum_migrator. The roles cannot log
    in: make logins of your own and grant them adytum_service (the service, the workers), adytum_auditor (reads proofs,
    no ciphertext) or adytum_migrator (migrate, grant, backup). Afterwards the real rights are compared with the wanted
    ones; if they differ, the difference is named, nothing has changed, and the exit status is 1.
    """
    done = asyncio.run(roles.grant(_dsn(settings_file)))
    pairs: dict[str, object] = {"roles": ", ".join(roles.ROLES), "tables": len(done.tables)}
    if done.missing:
        pairs["not there yet"] = f"{', '.join(done.missing)}: run `adytum migrate up`, then this again"
    say({"roles": list(roles.ROLES), "tables": len(done.tables), "missing": list(done.missing)}, facts(pairs))


def _dsn(settings_file: Path | None) -> str:
    dsn = read_settings(settings_file).database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty: the embedded PostgreSQL migrates itself when the service starts")
    return dsn


def _say(found: migrations.Status) -> None:
    current = found.current or "(empty)"
    if not found.known:
        current += " (this program does not know it: the schema is of a newer one; update the program)"
    shown = ", ".join(found.pending) or ("none" if found.known else "unknown")
    say(
        {"current": found.current, "known": found.known, "head": found.head, "pending": list(found.pending)},
        facts({"current": current, "head": found.head, "pending": shown}),
    )
