"""`adytum keys`: list, show, generate."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import click
import msgspec

from adytum.cli import key_states
from adytum.cli.groups import Group
from adytum.cli.keys_export import export_key, open_export
from adytum.cli.keys_import import import_keys
from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say, table
from adytum.storage.schema import KEY_STATES
from adytum_wire.types import Algorithm

_ALGORITHMS = [a.value for a in Algorithm if a is not Algorithm.NONE]


@click.group(cls=Group)
def keys() -> None:
    """Keys and seeds, from their making to their end. Lists are the host's word; what the enclave did is proven by its
    receipt before it is shown."""


@keys.command("list")
@client_options
@click.option("--after", default="", help="Go on after this key id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Keys a page.")
@click.option("--status", type=click.Choice(KEY_STATES), default=None, help="Only keys in this state.")
@click.option("--label", default="", help="Only keys with this label.")
@click.option("--named", default="", help="The key with this id, public key or address.")
@click.option("--due", is_flag=True, help="Only keys that can be destroyed: their waiting period is over.")
@json_option
def list_keys(
    client: ClientOptions, after: str, limit: int, status: str | None, label: str, named: str, due: bool
) -> None:
    """List a tenant's keys, a page at a time."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    asked = {"tenant": client.tenant, "after": after, "limit": str(limit), "status": status or "", "label": label}
    path = "/v1/keys?" + urlencode(asked | {"named": named, "due": "true" if due else ""})
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get(path)
    rows = [
        (k["key_id"], k["algorithm"], k["kind"], k["status"], k["version"], ",".join(k["labels"]))
        for k in found["keys"]
    ]
    more = [f"more: --after {found['next_after']}"] if found["next_after"] else []
    say(found, table("KEY", "ALGORITHM", "KIND", "STATUS", "VERSION", "LABELS", rows=rows), *more)


@keys.command()
@client_options
@click.argument("key_id")
@json_option
def show(client: ClientOptions, key_id: str) -> None:
    """Show one key: its state, labels, public key and address, as the host has them."""
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


@keys.command()
@client_options
@click.option("--label", "labels", multiple=True, help="A label that the policy can name; may be given again.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def seed(client: ClientOptions, labels: tuple[str, ...], request_id: str) -> None:
    """Make a seed inside the enclave, to derive keys from."""
    with client.open() as adytum:
        answer = adytum.generate_seed(labels=labels, request_id=request_id)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    say(
        {"result": result, "receipt": answer.receipt_bytes.decode()},
        facts({name: result[name] for name in ("key_id", "kind", "request_id")}),
    )


@keys.command()
@client_options
@click.argument("key_id")
@click.argument("path")
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), default="secp256k1", show_default=True, help="Of the key.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def derive(client: ClientOptions, key_id: str, path: str, algorithm: str, request_id: str) -> None:
    """Show the public key at PATH of a seed, and its addresses.

    PATH is m and up to ten indices, as in m/44'/60'/0'/0/0; secp256k1 by BIP-32, the others by SLIP-10.
    """
    with client.open() as adytum:
        answer = adytum.derive(key_id, path, Algorithm(algorithm), request_id=request_id)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    shown = {"path": result["path"], "public_key": result["public_key"], **result["addresses"]}
    say({"result": result, "receipt": answer.receipt_bytes.decode()}, facts(shown))


keys.add_command(import_keys)
keys.add_command(export_key)
keys.add_command(open_export)


key_states.add_to(keys)
