"""`adytum policy`: validate, sign, push, show."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.client.policy import add_signature, read_policy, sign_policy
from adytum.client.signers import load_signer
from adytum_policy.document import Policy, open_policy, parse_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import parse_manifest
from adytum_wire.types import sha256


@click.group()
def policy() -> None:
    """A tenant's policy: who may use which keys for what. It holds once the quorum of the manifest has signed it."""


@policy.command()
@click.argument("file", type=FILE)
@json_option
def validate(file: Path) -> None:
    """Check a policy document (JSON, unsigned) as the enclave will. The path of the first fault is shown."""
    payload = file.read_bytes()
    found = _described(parse_policy(payload), payload)
    say(found, "The policy is valid.", facts(found))


@policy.command()
@click.argument("file", type=FILE)
@click.option(
    "--key", "keys", type=FILE, multiple=True, required=True, help="An admin's private key (PEM); may repeat."
)
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where to write.")
@json_option
def sign(file: Path, keys: tuple[Path, ...], out: Path) -> None:
    """Sign a policy document, or add signatures to an envelope that others signed before you.

    FILE is either. Read what you sign: `adytum policy validate`.
    """
    data = file.read_bytes()
    signers = [load_signer(path) for path in keys]
    if _is_envelope(data):
        envelope = data
        for signer in signers:
            envelope = add_signature(envelope, signer)
    else:
        envelope = sign_policy(data, signers)
    payload, parsed, signed = read_policy(envelope)
    out.write_bytes(envelope)
    found = _described(parsed, payload) | {"signatures": [key.hex() for key in signed]}
    say(found, facts(found), f"written to {out}")


@policy.command()
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


@policy.command()
@client_options
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the envelope here.")
@json_option
def show(client: ClientOptions, out: Path | None) -> None:
    """Show the newest policy that the host has, and whose signatures on it verify."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get_policy()
    payload, parsed, signed = read_policy(found.envelope)
    if out is not None:
        out.write_bytes(found.envelope)
    described = _described(parsed, payload) | {"signatures": [key.hex() for key in signed]}
    document = json.loads(payload)
    say(described | {"policy": document}, facts(described), json.dumps(document, indent=2))


def _described(parsed: Policy, payload: bytes) -> dict[str, Any]:
    return {
        "tenant": parsed.tenant,
        "version": parsed.version,
        "valid_until": datetime.fromtimestamp(parsed.valid_until / 1000, UTC).isoformat(timespec="seconds"),
        "rules": len(parsed.rules),
        "digest": sha256(payload).hex(),
    }


def _is_envelope(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and "payloadType" in found
