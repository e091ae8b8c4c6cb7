"""`adytum release`: plan, add, promote, retire, status, canary. See docs/how-to/release.md."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from adytum.app import anchors_of, endpoint_of, host_clock_ms, read_manifest
from adytum.cli.groups import Group
from adytum.cli.options import FILE, ClientOptions, client_options, read_settings, settings_option
from adytum.cli.output import is_json, json_option, say, table
from adytum.enclave import EnclaveClient
from adytum.kms_policy.deployment import Deployment, parse_deployment
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.render import to_json
from adytum.releases import key_policy, rollover, store
from adytum.releases.canary import Verdict
from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.images import Images
from adytum.releases.measurements import read_measurements
from adytum.releases.release import Release
from adytum.releases.wiring import make_canary
from adytum.service.credentials import static_credentials
from adytum.settings import Settings
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.lookup import Lookup
from adytum_verify import AllowList

T = TypeVar("T")
_RUNNING = ("active", "promoted", "retiring")
_deployment = click.option(
    "--deployment",
    type=FILE,
    help="Deployment file of `adytum kms-policy`: whose key, which roles. For the key policy.",
)
_current = click.option("--current-policy", type=FILE, help="The key policy in force (JSON); the difference is shown.")
_out = click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the key policy here.")


@click.group(cls=Group)
def release() -> None:
    """Let a new image take over from an old one, without a failed request, and prove that the old one is refused.

    plan, add, promote, retire, in this order. The KMS key policy is written for you and put by you: the host may not.
    """


@release.command()
@settings_option
@click.argument("name")
@click.argument("measurements", type=FILE)
@_deployment
@_current
@_out
@click.option("--dry-run", is_flag=True, help="Write nothing down.")
@json_option
def plan(
    settings_file: Path | None,
    name: str,
    measurements: Path,
    deployment: Path | None,
    current_policy: Path | None,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Write a release down, and show what a rollover to it will change.

    MEASUREMENTS is what the build left: measurements (nitro-cli's form) or the provenance that holds them. With
    --deployment you get the KMS key policy of the overlap: the images that run now, and this one.
    """
    settings = read_settings(settings_file)
    wanted = _read_release(name, measurements)

    known = _run(settings, store.load)
    before = [r for r in known if r.state in _RUNNING and r.name != name]
    if settings.tee.allowedPCRs:
        key_policy.require_known(AllowList.parse(settings.tee.allowedPCRs).images, [*before, wanted])
    policy = _policy(deployment, [*before, wanted], current_policy, out)
    planned = wanted if dry_run else _run(settings, lambda database: rollover.plan(database, wanted))
    steps = _steps(name, [r.name for r in before], deployment is not None)
    say(
        {"release": _described(planned), "steps": steps, **policy},
        *_policy_lines(policy, out),
        f"Release {name} ({planned.state}), PCR0 {planned.pcrs[0].hex()}",
        *(f"  {number}. {step}" for number, step in enumerate(steps, start=1)),
    )


@release.command()
@settings_option
@click.argument("name")
@click.argument("measurements", type=FILE, required=False)
@click.option("--again", is_flag=True, help="Let a retired release run once more.")
@json_option
def add(settings_file: Path | None, name: str, measurements: Path | None, again: bool) -> None:
    """Let the gates accept a release that was planned, or whose MEASUREMENTS are given. It gets no traffic yet.

    Put the key policy of the overlap first: enclaves of the release could not open a key without it.
    """
    wanted = None if measurements is None else _read_release(name, measurements)
    done = _run(read_settings(settings_file), lambda database: rollover.add(database, name, wanted, again=again))
    say({"release": _described(done)}, f"Release {name} is {done.state}.")


@release.command()
@settings_option
@click.argument("name")
@json_option
def promote(settings_file: Path | None, name: str) -> None:
    """Give a release the traffic. Refused until an enclave of it has proven itself."""
    done = _run(read_settings(settings_file), lambda database: rollover.promote(database, name))
    say({"release": _described(done)}, f"Release {name} is {done.state}: new requests go to its enclaves.")


@release.command()
@settings_option
@click.argument("name")
@_deployment
@_current
@_out
@json_option
def retire(
    settings_file: Path | None, name: str, deployment: Path | None, current_policy: Path | None, out: Path | None
) -> None:
    """Take a release out: its enclaves finish what is under way, then every gate refuses them.

    Refused while no other release is proven. With --deployment you get the KMS key policy without it: put it, and run
    `adytum release canary`, which proves that the old image is refused.
    """
    settings = read_settings(settings_file)

    left = [r for r in _run(settings, store.load) if r.state in _RUNNING and r.name != name]
    policy = _policy(deployment, left, current_policy, out)
    done = _run(settings, lambda database: rollover.retire(database, name))
    say(
        {"release": _described(done), **policy},
        *_policy_lines(policy, out),
        f"Release {name} is {done.state}. Put the key policy without it, then: adytum release canary",
    )


@release.command()
@settings_option
@json_option
def status(settings_file: Path | None) -> None:
    """Show the releases, and how many enclaves of each are proven on the hosts that run now."""

    async def work(database: Database) -> tuple[list[Release], list[store.Report]]:
        return await store.load(database), await store.reports(database)

    releases, reports = _run(read_settings(settings_file), work)
    found = store.summary(releases, reports)
    rows = [
        (r["name"], r["state"], r["pcr0"][:16] + "...", r["proven"], r["serving"], _time(r["certificate_until"]))
        for r in found["releases"]
    ]
    others = [r for r in reports if not r.release]
    lines = [f"{r.host}/{r.enclave}: {r.state} {r.reason or '(allowed by the settings alone)'}" for r in others]
    say(found, table("RELEASE", "STATE", "PCR0", "PROVEN", "SERVING", "CERTIFICATE UNTIL", rows=rows), *lines)


@release.command()
@settings_option
@click.pass_context
@json_option
def canary(ctx: click.Context, settings_file: Path | None) -> None:
    """Prove now that KMS refuses an unattested Decrypt, and every retired image that still answers.

    Exit status 1 for anything but the expected refusals, also when it could not be found out.
    """
    verdict = asyncio.run(_canary(read_settings(settings_file)))
    lines = [f"unattested Decrypt: {verdict.unattested or 'ALLOWED'}" if verdict.problem == "" else "not found out"]
    lines += [f"retired {name}: {said or 'ALLOWED'}" for name, said in verdict.retired.items()]
    lines.append("The canary is well." if verdict.ok else f"{verdict.alert.value} {verdict.problem}".rstrip())
    say(verdict.as_json(), *lines)
    if not verdict.ok:
        ctx.exit(1)


@release.command("canary-secret")
@client_options
@click.option("--label", "labels", multiple=True, default=("canary",), show_default=True, help="May repeat.")
@json_option
def canary_secret(client: ClientOptions, labels: tuple[str, ...]) -> None:
    """Make the secret that the canary asks for: 32 random bytes that protect nothing.

    Allow a key of its own to unseal records with this label, and nothing else; it is what `canary.signerFile` holds.
    """
    with client.open() as adytum:
        answer = adytum.seal(secrets.token_bytes(32), labels=list(labels))
    found = {"canary": {"tenant": client.tenant, "keyId": answer.result.key_id}}
    say(found, f"canary.tenant: {client.tenant}", f"canary.keyId: {answer.result.key_id}")


# --- helpers


def _run(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _database(settings) as database:
            return await work(database)

    return asyncio.run(run())


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    dsn = settings.database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty: releases are kept in the database that the service uses")
    database = Database(dsn, pool_size=4)
    try:
        yield database
    finally:
        await database.close()


async def _canary(settings: Settings) -> Verdict:
    async with _database(settings) as database:
        releases = tuple(await store.load(database))
        enclaves = {a.name: EnclaveClient(endpoint_of(a)) for a in settings.tee.addresses}
        lookup, batcher = Lookup(database), AuditBatcher(database)
        try:
            return await make_canary(
                settings,
                manifest=read_manifest(settings.tee.manifestFile),
                enclaves=enclaves,
                images=lambda: Images(releases=releases),
                lookup=lookup,
                batcher=batcher,
                anchors=anchors_of(settings.tee.attestationRootsFile),
                credentials=static_credentials(settings.aws),
                now_ms=host_clock_ms,
                random_bytes=secrets.token_bytes,
            ).run()
        finally:
            await lookup.close()
            await batcher.close()
            for enclave in enclaves.values():
                enclave.close()


def _read_release(name: str, path: Path) -> Release:
    pcrs, provenance = read_measurements(path.read_bytes())
    return Release(name=name, pcrs=pcrs, provenance=provenance)


def _policy(file: Path | None, releases: list[Release], current: Path | None, out: Path | None) -> dict[str, Any]:
    """ "key_policy" and "difference", as far as they can be said. Writes `out`."""
    if file is None:
        return {}
    wanted = key_policy.policy_for(_deployment_of(file), releases)
    if out is not None:
        out.write_text(to_json(wanted))
    found: dict[str, Any] = {"key_policy": wanted}
    if current is not None:
        found["difference"] = key_policy.difference(current.read_text(errors="replace"), wanted)
    return found


def _deployment_of(file: Path) -> Deployment:
    try:
        return parse_deployment(file.read_bytes(), read_file=lambda name: (file.parent / name).read_bytes())
    except KmsPolicyError as error:
        raise ReleaseError(ReleaseCode.KEY_POLICY, error.sentence) from None


def _policy_lines(found: dict[str, Any], out: Path | None) -> list[str]:
    if "difference" in found:
        return [found["difference"] or "The key policy in force is the wanted one."]
    if out is not None and found:
        return [f"The key policy is written to {out}"]
    return [to_json(found["key_policy"])] if found and not is_json() else []


def _steps(name: str, before: list[str], has_policy: bool) -> list[str]:
    written = "the key policy above" if has_policy else "the key policy of the overlap (plan with --deployment)"
    return [
        f"put {written}, as the break-glass role: aws kms put-key-policy --key-id ... --policy file://...",
        f"adytum release add {name}",
        f"start an enclave of {name}, and name it in tee.enclaves; adytum release status says when it is proven",
        f"adytum release promote {name}",
        *(f"adytum release retire {old}, and put the key policy that it prints" for old in before),
        "adytum release canary",
    ]


def _described(found: Release) -> dict[str, Any]:
    pcrs = {f"PCR{index}": value.hex() for index, value in sorted(found.pcrs.items())}
    return {"name": found.name, "state": found.state, "pcrs": pcrs, "provenance": dict(found.provenance)}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else ""
