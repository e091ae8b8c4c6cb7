"""`adytum restore`: into an empty database, checked against the manifest, and opened in an enclave for proof."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adytum.app import anchors_of
from adytum.backup import drill as drills
from adytum.backup.chains import Trust
from adytum.backup.drill import Opened
from adytum.backup.errors import BackupError
from adytum.backup.manifest import MANIFEST, read
from adytum.backup.restore import Report
from adytum.backup.restore import check as look
from adytum.backup.restore import restore as bring
from adytum.cli.backup import pg_bin_option
from adytum.cli.groups import Group
from adytum.cli.options import FILE, read_settings, settings_option
from adytum.cli.output import facts, json_option, say, table
from adytum.client.signers import SignerError
from adytum.settings import Settings
from adytum_verify import AllowList, AttestationError
from adytum_verify.commands import UsageError, held_checkpoints
from adytum_wire.errors import AdytumError

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


class _Restore(Group):
    """`adytum restore DIR` is `adytum restore run DIR`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Restore)
def restore() -> None:
    """Restore a backup, check that it is whole, and name what is missing.

    \b
      adytum restore DIR --into DSN -c adytum.yaml            restore and check
      adytum restore DIR --into DSN -c drill.yaml --drill     and open a sample in another enclave
      adytum restore check -c adytum.yaml --checkpoints FILE  look at a database that is there

    Exit status: 0 whole, 1 refused, or something is missing (it is named), 2 wrong usage.
    """


sample_option = click.option(
    "--sample", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Records that the drill opens."
)
signer_option = click.option(
    "--key", "signer_file", type=FILE, help="Who may reseal (PEM); default: rotation.signerFile."
)
into_option = click.option("--into", "dsn", required=True, envvar="ADYTUM_RESTORE_DSN",
                           help="The database.  [env: ADYTUM_RESTORE_DSN]")  # fmt: skip
images_option = click.option(
    "--pcr", "pcrs", multiple=True, help="A further image that receipts are believed from, such as a retired one."
)


@restore.command()
@click.argument("source", type=DIRECTORY)
@into_option
@settings_option
@images_option
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Load in parallel.")
@click.option("--drill", "drilled", is_flag=True, help="Open a sample in the enclave of the settings. Writes.")
@sample_option
@signer_option
@pg_bin_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    source: Path,
    dsn: str,
    settings_file: Path | None,
    pcrs: tuple[str, ...],
    jobs: int,
    drilled: bool,
    sample: int,
    signer_file: Path | None,
    pg_bin: Path | None,
) -> None:
    """Restore the backup in SOURCE into an empty database, and check that everything is there.

    With --drill a service of its own runs on the restored database, with the enclave of the settings, and a random
    sample of records is resealed: that writes, so restore into a scratch database, and never name an enclave that
    serves production. Whether there is such an enclave is looked at first. When the drill itself cannot be held, what
    the restore found is reported nevertheless.
    """
    settings = read_settings(settings_file)

    async def work() -> tuple[Report, list[Opened], Exception | None]:
        if drilled:
            await drills.require_ready(settings, signer_file, boots=read(source / MANIFEST).boots)
        report, manifest = await bring(source, dsn, trust=_trust(settings, pcrs), pg_bin=pg_bin, jobs=jobs)
        if not drilled:
            return report, [], None
        try:
            with report.phase("drill"):
                async with (
                    drills.service_on(settings, dsn) as url,
                    drills.clients(settings, url, signer_file) as client_for,
                ):
                    return report, await drills.drill(dsn, client_for, boots=manifest.boots, sample=sample), None
        except (AdytumError, AttestationError, BackupError, SignerError, OSError) as error:
            return report, [], error

    report, opened, failure = asyncio.run(work())
    _conclude(ctx, report, opened, drilled=drilled, failure=failure)


@restore.command("drill")
@click.argument("source", type=DIRECTORY)
@into_option
@settings_option
@click.option("--url", required=True, help="A service on the restored database, with an enclave of its own.")
@sample_option
@signer_option
@json_option
@click.pass_context
def drill_command(
    ctx: click.Context,
    source: Path,
    dsn: str,
    settings_file: Path | None,
    url: str,
    sample: int,
    signer_file: Path | None,
) -> None:
    """Open a sample of a restored database's records through a service that runs on it. Writes."""
    settings, manifest, report = read_settings(settings_file), read(source / MANIFEST), Report()

    async def work() -> list[Opened]:
        with report.phase("drill"):
            async with drills.clients(settings, url, signer_file) as client_for:
                return await drills.drill(dsn, client_for, boots=manifest.boots, sample=sample)

    opened = asyncio.run(work())
    _say_drill(ctx, {"drill": _drill(opened)}, opened)


@restore.command()
@click.option("--dsn", envvar="ADYTUM_RESTORE_DSN", default="", help="Instead of database.dsn.")
@settings_option
@images_option
@click.option(
    "--checkpoints",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="A second copy: a file, or a directory of *.jsonl; may repeat.",
)
@click.option("--backup", "source", type=DIRECTORY, help="A backup that the database must not lack anything of.")
@click.option("--usage", multiple=True, metavar="TENANT=VERSION", help="What the anchor has; may repeat.")
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    dsn: str,
    settings_file: Path | None,
    pcrs: tuple[str, ...],
    checkpoints: tuple[Path, ...],
    source: Path | None,
    usage: tuple[str, ...],
) -> None:
    """Compare a database with itself, with the second copy's checkpoints, a backup's manifest and the anchor.

    Changes nothing. Names each chain that is short or missing and by how many receipts, and each policy, record and
    usage snapshot that is older than it should be.
    """
    settings = read_settings(settings_file)
    dsn = dsn or settings.database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty; name the database with --dsn")
    held, ignored = _held(checkpoints)
    report = asyncio.run(
        look(
            dsn,
            trust=_trust(settings, pcrs),
            manifest=None if source is None else read(source / MANIFEST),
            held=held,
            usage=_versions(usage),
        )
    )
    if ignored:
        click.echo(f"adytum: {ignored} lines of the second copies are no checkpoints", err=True)
    _conclude(ctx, report, [], drilled=False)


def _trust(settings: Settings, more: Sequence[str]) -> Trust | None:
    """The images of the settings and those that were named. None when there are none at all."""
    images = [*settings.tee.allowedPCRs, *more]
    if not images:
        return None
    return Trust(expected=AllowList.parse(images), anchors=anchors_of(settings.tee.attestationRootsFile))


def _held(places: Sequence[Path]) -> tuple[list[bytes], int]:
    files: list[str] = []
    for place in places:
        files += [str(one) for one in sorted(place.glob("*.jsonl"))] if place.is_dir() else [str(place)]
    if places and not files:
        raise click.UsageError("no *.jsonl file is there")
    try:
        return held_checkpoints(files)
    except UsageError as error:
        raise click.UsageError(str(error)) from None


def _versions(given: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in given:
        tenant, _, version = text.partition("=")
        if not tenant or not version.isascii() or not version.isdigit() or len(version) > 16:
            raise click.UsageError("--usage must look like acme=42")
        found[tenant] = int(version)
    return found


def _drill(opened: Sequence[Opened]) -> dict[str, Any]:
    failed = drills.failures(opened)
    return {"sampled": len(opened), "opened": len(opened) - len(failed), "records": [one.shown() for one in opened]}


def _conclude(
    ctx: click.Context, report: Report, opened: Sequence[Opened], *, drilled: bool, failure: Exception | None = None
) -> None:
    """`failure`: why no drill was held."""
    shown = report.shown()
    pairs = {
        "schema": report.revision,
        "rows": report.rows,
        "keys": report.keys,
        "receipts": f"{report.receipts} verified in {report.chains} chains"
        + ("" if report.attested else ", NOT attested: name the images (settings or --pcr)"),
    }
    pairs |= {f"{name}, s": f"{value:.2f}" for name, value in report.seconds.items()}
    lines: list[Any] = [facts(pairs)]
    if report.findings:
        rows = [(f.lack.value, f.subject, f.count, f.expected, f.found, f.detail) for f in report.findings]
        lines.append(table("missing or wrong", "of", "count", "expected", "found", "", rows=rows))
    lines.append("WHOLE" if not report.findings else "NOT WHOLE")
    if failure is not None:
        code = getattr(failure, "code", None)
        shown["drill"] = {"error": {"code": getattr(code, "value", "SYSTEM"), "text": str(failure)}}
        say(shown, *lines, f"NO DRILL: {failure or type(failure).__name__}")
        ctx.exit(1)
    if drilled:
        shown["drill"] = _drill(opened)
        _say_drill(ctx, shown, opened, *lines, failed=bool(report.findings))
        return
    say(shown, *lines)
    if report.findings:
        ctx.exit(1)


def _say_drill(
    ctx: click.Context, shown: dict[str, Any], opened: Sequence[Opened], *lines: Any, failed: bool = False
) -> None:
    bad = drills.failures(opened)
    more: list[Any] = [f"{len(opened) - len(bad)} of {len(opened)} sampled records opened in the enclave"]
    if bad:
        more.append(
            table("record", "kind", "version", "code", rows=[(o.key_id, o.kind, o.version, o.code) for o in bad])
        )
    say(shown, *lines, *more)
    if bad or failed:
        ctx.exit(1)
