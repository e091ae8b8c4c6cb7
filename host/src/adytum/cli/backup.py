"""`adytum backup`: a dump of the database and the manifest that later proves a restore whole."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from adytum.app import host_clock_ms
from adytum.backup.create import create as make
from adytum.cli.groups import Group
from adytum.cli.options import read_settings, settings_option
from adytum.cli.output import facts, json_option, say

pg_bin_option = click.option(
    "--pg-bin", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where pg_dump and pg_restore are."
)


@click.group(cls=Group)
def backup() -> None:
    """Backups of the database. They hold ciphertext and receipts, and no secret.

    \b
      adytum backup create -c adytum.yaml --out DIR      while the service runs
      adytum restore DIR --into DSN -c adytum.yaml       into an empty database, and checked
    """


@backup.command()
@settings_option
@click.option(
    "--dsn", envvar="ADYTUM_BACKUP_DSN", default="", help="Instead of database.dsn.  [env: ADYTUM_BACKUP_DSN]"
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The directory to make.")
@pg_bin_option
@json_option
def create(settings_file: Path | None, dsn: str, out: Path, pg_bin: Path | None) -> None:
    """Write DIR/database.dump (pg_dump's custom format) and DIR/manifest.json, both of one moment.

    Run it as a login that has `adytum_migrator`. The service goes on meanwhile.
    """
    dsn = dsn or read_settings(settings_file).database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty; name the database with --dsn")
    began = time.monotonic()
    manifest = asyncio.run(make(dsn, out, now_ms=host_clock_ms, pg_bin=pg_bin))
    shown = {
        "backup": str(out),
        "revision": manifest.revision,
        "rows": sum(manifest.rows.values()),
        "keys": manifest.rows.get("keys", 0),
        "chains": len(manifest.chains),
        "receipts": sum(head.receipts for head in manifest.chains),
        "bytes": manifest.size,
        "sha256": manifest.sha256,
        "seconds": round(time.monotonic() - began, 2),
    }
    say(shown, facts(shown))
