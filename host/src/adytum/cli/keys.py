"""`adytum keys`: list, show, generate."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
import msgspec

from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say, table
from adytum_wire.types import Algorithm

_ALGORITHMS = [a.value for a in Algorithm if a is not Algorithm.NONE]


@click.group()
def keys() -> None:
    """Keys. Lists are the host's word; a generated key is proven by the enclave's receipt."""


@keys.command("list")
@client_options
@click.option("--after", default="", help="Go on after this key id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
def list_keys(client: ClientOptions, after: str, limit: int) -> None:
    """List a tenant's keys."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    path = f"/v1/keys?tenant={quote(client.tenant)}&after={quote(after)}&limit={limit}"
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get(path)
    rows = [
        (k["key_id"], k["algorithm"], k["kind"], k["status"], k["version"], ",".join(k["labels"]))
        for k in found["keys"]
    ]
    say(found, table("KEY", "ALGORITHM", "KIND", "STATUS", "VERSION", "LABELS", rows=rows))


@keys.command()
@client_options
@click.argument("key_id")
@json_option
def show(client: ClientOptions, key_id: str) -> None:
    """Show one key."""
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get(f"/v1/keys/{quote(key_id, safe='')}")
    say(found, facts(found))


@keys.command()
@client_options
@click.argument("algorithm", type=click.Choice(_ALGORITHMS))
@click.option("--label", "labels", multiple=True, help="A label that the policy can name; may be given again.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def generate(client: ClientOptions, algorithm: str, labels: tuple[str, ...], request_id: str) -> None:
    """Make a key inside the enclave."""
    with client.open() as adytum:
        answer = adytum.generate_key(Algorithm(algorithm), labels=labels, request_id=request_id)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    say(
        {"result": result, "receipt": answer.receipt_bytes.decode()},
        facts({name: result[name] for name in ("key_id", "algorithm", "public_key", "address", "request_id")}),
    )
