"""`adytum policy sign`, `push` and `show`: a document gets its signatures, takes effect, and is read back."""

from __future__ import annotations

import json
from pathlib import Path

import click

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.cli.policy.described import described, is_envelope, limits_table, people_table, rules_table
from adytum.client.policy import add_signature, read_policy, sign_policy
from adytum.client.signers import load_signer
from adytum_policy.document import open_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import parse_manifest
from adytum_wire.types import sha256


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--key", "keys", type=FILE, multiple=True, required=True, help="An admin's private key (PEM); may repeat."
)
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where to write.")
@json_option
def sign(file: Path, keys: tuple[Path, ...], out: Path) -> None:
    """Sign a policy document, or add signatures to an envelope that others signed before you.

    FILE is either. Read what you sign: `adytum policy validate` and `adytum policy diff`.
    """
    data = file.read_bytes()
    signers = [load_signer(path) for path in keys]
    if is_envelope(data):
        envelope = data
        for signer in signers:
            envelope = add_signature(envelope, signer)
    else:
        envelope = sign_policy(data, signers)
    payload, parsed, signed = read_policy(envelope)
    out.write_bytes(envelope)
    found = described(parsed, payload) | {"signatures": [key.hex() for key in signed]}
    say(found, facts(found), f"written to {out}")


@click.command()
@client_options
@click.argument("envelope", type=FILE)
@json_option
def push(client: ClientOptions, envelope: Path) -> None:
    """Put a signed policy in force. With --manifest the quorum is counted here first, and who is missing is said."""
    data = envelope.read_bytes()
    payload, parsed, _ = read_policy(data)
    if client.tenant and client.tenant != parsed.tenant:
        raise AdytumError(Code.POLICY_INVALID, "$.tenant (not --tenant)")
    if client.manifest is not None:
        tenants = {t.id: t for t in parse_manifest(client.manifest.read_bytes()).tenants}
        if parsed.tenant not in tenants:
            raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
        open_policy(data, tenants[parsed.tenant])
    with client.for_tenant(parsed.tenant).open(needs_signer=False, needs_proof=False) as adytum:
        done = adytum.put_policy(data)
    if done.digest != sha256(payload).hex():
        raise AdytumError(Code.POLICY_INVALID, "digest")
    found = {"tenant": done.tenant, "version": done.version, "digest": done.digest}
    say(found, f"Version {done.version} of {done.tenant}'s policy is in force.")


@click.command()
@client_options
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the envelope here.")
@click.option("--document", is_flag=True, help="Print the JSON document instead of tables.")
@json_option
def show(client: ClientOptions, out: Path | None, document: bool) -> None:
    """Show the newest policy that the host has, and whose signatures on it verify."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get_policy()
    payload, parsed, signed = read_policy(found.envelope)
    if out is not None:
        out.write_bytes(found.envelope)
    about = described(parsed, payload) | {"signatures": [key.hex() for key in signed]}
    tree = json.loads(payload)
    if document:
        say(about | {"policy": tree}, json.dumps(tree, indent=2))
        return
    shape = parsed.document
    say(
        about | {"policy": tree},
        facts(about),
        "",
        people_table(shape),
        "",
        rules_table(shape),
        "",
        limits_table(shape) if shape.limits else "no limits",
        "",
        "Deny wins; of the allow rules that match, the first whose approvals and limits hold decides.",
    )
