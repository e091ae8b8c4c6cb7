"""`adytum keys export` and `open-export`: key material for a recipient that the policy names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.cli.secret_files import load_x25519, write_secret
from adytum.client.imports import open_export as opened
from adytum_wire.results import ExportResult, parse_result


@click.command("export")
@client_options
@click.argument("key_id")
@click.argument("recipient")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the answer goes.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def export_key(client: ClientOptions, key_id: str, recipient: str, out: Path, request_id: str) -> None:
    """Export a key, seed or share to RECIPIENT, whom the policy names.

    Nothing allows this unless the policy does, and a rule that allows it must ask for approvals. What is written is
    sealed to the recipient's key; only its owner reads it, with `adytum keys open-export`.
    """
    with client.open() as adytum:
        answer = adytum.export(key_id, recipient, request_id=request_id)
    out.write_bytes(answer.result_bytes)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    shown = {name: result[name] for name in ("key_id", "recipient", "kind", "request_id")}
    say({"result": result, "receipt": answer.receipt_bytes.decode()}, facts(shown | {"written": out}))


@click.command("open-export")
@click.argument("file", type=FILE)
@click.option("--key", "key_file", type=FILE, required=True, help="The recipient's private key (PEM, X25519).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the secret goes.")
@json_option
def open_export(file: Path, key_file: Path, out: Path) -> None:
    """Open an export as its recipient, offline. The secret is written as it is: to a file of yours, mode 0600.

    FILE is what `adytum keys export` wrote, or what `adytum requests answer --json` printed.
    """
    result = parse_result(_result_in(file.read_bytes()))
    if not isinstance(result, ExportResult):
        raise click.ClickException("this is not an export")
    try:
        secret = opened(result, load_x25519(key_file))
    except ValueError:
        raise click.ClickException("the export does not open with this key") from None
    write_secret(out, secret)
    data = {"key_id": result.key_id, "kind": result.kind.value, "bytes": len(secret), "written": str(out)}
    say(data, f"{result.kind.value}, {len(secret)} bytes: {out}")


def _result_in(data: bytes) -> bytes:
    """The result itself, also out of what a command printed with --json."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    inner = value.get("result") if isinstance(value, dict) else None
    return data if inner is None else json.dumps(inner).encode()
