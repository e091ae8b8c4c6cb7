"""`adytum usage`: show what is used of limits; write, sign and push a reset after a start without a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from adytum.cli.anchor import render_anchor_policies, seal_anchor
from adytum.cli.groups import Group
from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say, table
from adytum.client.signers import load_signer
from adytum.client.usage import draft_reset, read_reset, sign_reset
from adytum_policy.quorum import QuorumError, count_signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import parse_manifest
from adytum_wire.pae import USAGE_RESET


@click.group(cls=Group)
def usage() -> None:
    """Limits: what is used of them, how admins open them after a start that knows nothing of before, and the access of
    the anchor that keeps the count."""


@usage.command()
@client_options
@json_option
def show(client: ClientOptions) -> None:
    """Show what of the tenant's limits is used and held, as the enclave counts it."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get_usage()
    rows = [(e["limit"], e["scope"], e["window_ms"] // 1000, e["used"], e["held"]) for e in found["entries"]]
    said = {"tenant": found["tenant"], "boot_id": found["boot_id"], "snapshot": found["version"]}
    known = "What was used before this start is known." if found["is_known"] else _CLOSED
    say(found, facts(said), known, table("LIMIT", "SCOPE", "WINDOW (S)", "USED", "HELD", rows=rows))


usage.add_command(seal_anchor)
usage.add_command(render_anchor_policies)

_CLOSED = (
    "What was used before this start is not known: each limit is closed until its window has passed, the newest "
    "snapshot comes, or admins reset it (adytum usage sign, adytum usage reset)."
)


@usage.command()
@click.argument("file", type=FILE, required=False)
@click.option("--tenant", envvar="ADYTUM_TENANT", default="", help="Whose limits.  [env: ADYTUM_TENANT]")
@click.option("--boot-id", default="", help="Of the enclave, as `adytum usage show` says it.")
@click.option("--limit", "limits", multiple=True, help="The id of a limit to open; may repeat.")
@click.option("--all", "is_all", is_flag=True, help="Open every limit of the tenant.")
@click.option(
    "--key", "keys", type=FILE, multiple=True, required=True, help="An admin's private key (PEM); may repeat."
)
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where to write.")
@json_option
def sign(
    file: Path | None,
    tenant: str,
    boot_id: str,
    limits: tuple[str, ...],
    is_all: bool,
    keys: tuple[Path, ...],
    out: Path,
) -> None:
    """Write and sign a reset, or add signatures to FILE, which others signed before you.

    A reset says that what was used before that start counts as nothing. It holds for one boot of one enclave.
    """
    if file is not None:
        data = file.read_bytes()
    elif not (tenant and boot_id and (bool(limits) != is_all)):
        raise click.UsageError("want FILE, or --tenant, --boot-id, and --limit or --all")
    else:
        data = draft_reset(tenant, boot_id, "*" if is_all else list(limits))
    envelope = sign_reset(data, [load_signer(path) for path in keys])
    out.write_bytes(envelope)
    reset = read_reset(envelope)
    found = {"tenant": reset.tenant, "boot_id": reset.boot_id, "limits": reset.limits}
    say(found, facts(found), f"written to {out}")


@usage.command()
@client_options
@click.argument("envelope", type=FILE)
@json_option
def reset(client: ClientOptions, envelope: Path) -> None:
    """Push a signed reset. With --manifest the quorum is counted here first, and who is missing is said."""
    data = envelope.read_bytes()
    asked = read_reset(data)
    if client.tenant and client.tenant != asked.tenant:
        raise AdytumError(Code.USAGE_INVALID, "$.tenant (not --tenant)")
    if client.manifest is not None:
        tenants = {t.id: t for t in parse_manifest(client.manifest.read_bytes()).tenants}
        if asked.tenant not in tenants:
            raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
        _, quorum = count_signatures(data, tenants[asked.tenant], payload_type=USAGE_RESET, code=Code.USAGE_INVALID)
        if not quorum.reached:
            raise QuorumError(quorum)
    with client.for_tenant(asked.tenant).open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.reset_usage(data)
    say(found, f"The limits of {asked.tenant} count from the start of {asked.boot_id}.")
