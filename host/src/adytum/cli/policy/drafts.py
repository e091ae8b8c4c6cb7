"""`adytum policy init`, `validate` and `diff`: writing a document, without a service and without a key."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from adytum.cli.options import FILE
from adytum.cli.output import facts, is_json, json_option, say, table
from adytum.cli.policy.described import described, read_either
from adytum.client.signers import MAX_KEY_FILE, SignerError, load_signer
from adytum.policies import diff as differences
from adytum.policies.lint import lint
from adytum.policies.reasons import DraftError, parse_draft
from adytum.policies.start import GUIDANCE, ROLES, Person, start

_CURVES = {"secp256r1": "p256", "secp256k1": "secp256k1"}
_EXIT_DIFFERS = 3


@click.command()
@click.option("--tenant", envvar="ADYTUM_TENANT", required=True, help="The tenant.  [env: ADYTUM_TENANT]")
@click.option(
    "--principal",
    "people",
    multiple=True,
    metavar="ROLE:NAME=KEY",
    help=f"ROLE is {', '.join(ROLES)}; KEY a PEM file (public or private) or scheme:hex. May repeat.",
)
@click.option("--valid-days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long it holds.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write; else printed.")
def init(tenant: str, people: tuple[str, ...], valid_days: int, out: Path | None) -> None:
    """Write a policy to begin with. Operators may make keys; nobody can sign until you add a rule.

    The administrators who will sign it stand in the manifest, not here.
    """
    valid_until = (int(time.time()) + valid_days * 86_400) * 1000
    text = json.dumps(start(tenant, [_person(one) for one in people], valid_until=valid_until), indent=2) + "\n"
    parse_draft(text.encode())
    if out is None:
        click.echo(text, nl=False)
    else:
        with out.open("x") as file:  # a policy that somebody has worked on is not overwritten
            file.write(text)
    click.echo(GUIDANCE, err=True)


@click.command()
@click.argument("file", type=FILE)
@click.option("--strict", is_flag=True, help="Exit with 3 when there are warnings.")
@json_option
@click.pass_context
def validate(ctx: click.Context, file: Path, strict: bool) -> None:
    """Check a policy (a draft or a signed envelope) as the enclave will, and warn of what is probably not meant.

    Exit status: 0 valid, 1 not valid, 3 valid with warnings under --strict.
    """
    try:
        payload, parsed = read_either(file)
    except DraftError as error:
        if not is_json():
            raise
        fault = {"code": error.code.value, "field": error.field, "text": error.code.text, "reason": error.reason}
        click.echo(json.dumps({"error": fault}))
        ctx.exit(1)
    found = lint(parsed.document, int(time.time() * 1000))
    about = described(parsed, payload)
    say(
        about | {"warnings": [one._asdict() for one in found]},
        "The policy is valid." + ("" if not found else f" {len(found)} warning{'s' * (len(found) > 1)}:"),
        *(f"  {one.kind:<6} {one.path}: {one.text}" for one in found),
        facts(about),
    )
    if strict and found:
        ctx.exit(_EXIT_DIFFERS)


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@json_option
@click.pass_context
def diff(ctx: click.Context, old: Path, new: Path) -> None:
    """Say what NEW changes against OLD (drafts or signed envelopes), and whether it may allow more.

    Exit status: 0 when nothing is allowed that was not before, 3 when something may be.
    """
    changes = differences.diff(read_either(old)[1].document, read_either(new)[1].document)
    more = differences.may_allow_more(changes)
    rows = [(change.effect, change.where, change.text) for change in changes]
    verdict = "It may allow more than before." if more else "It allows nothing that was not allowed before."
    say(
        {"changes": [change._asdict() for change in changes], "may_allow_more": more},
        *([table("ALLOWS", "WHERE", "CHANGE", rows=rows), verdict] if changes else ["No difference."]),
    )
    if more:
        ctx.exit(_EXIT_DIFFERS)


def _person(text: str) -> Person:
    role, colon, rest = text.partition(":")
    name, equals, key = rest.partition("=")
    if not colon or not equals or role not in ROLES:
        raise click.BadParameter(f"{text!r}: want ROLE:NAME=KEY", param_hint="--principal")
    scheme, colon, hexed = key.partition(":")
    if colon and scheme in ("ed25519", "p256", "secp256k1"):
        return Person(name, role, scheme, hexed)
    return Person(name, role, *_public_key(Path(key)))


def _public_key(path: Path) -> tuple[str, str]:
    """(scheme, hex) of a PEM file with a public or a private key. Errors: SignerError."""
    if not path.exists():
        raise SignerError(f"{path}: there is no such file")
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE)
    if b"PRIVATE KEY" in data:
        signer = load_signer(path)
        return signer.scheme.value, signer.public_key.hex()
    try:
        key = load_pem_public_key(data)
    except ValueError:
        raise SignerError(f"{path} is not a key in PEM") from None
    if isinstance(key, Ed25519PublicKey):
        return "ed25519", key.public_bytes_raw().hex()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name], key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()
    raise SignerError(f"{path}: want an Ed25519, P-256 or secp256k1 key")
