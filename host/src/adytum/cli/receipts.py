"""`adytum receipts export`: everything that an auditor needs, in one directory, as the enclave wrote it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import json_option, say
from adytum.client import UntrustedError
from adytum_wire.errors import AdytumError, Code


@click.group()
def receipts() -> None:
    """Receipts: what each enclave decided, signed and chained."""


@receipts.command()
@client_options
@click.option("--chain", default="", help="The chain (boot id) to export; by default all that the host knows.")
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory to write."
)
@json_option
def export(client: ClientOptions, chain: str, out: Path) -> None:
    """Write receipts, one JSON object a line, and the attestation that vouches for their key.

    Nothing is verified here: `adytum-verify audit` does that, on a machine of the auditor's, without the service.
    """
    written: list[dict[str, Any]] = []
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        chains = [chain] if chain else [c["chain"] for c in adytum.get("/v1/chains")["chains"]]
        if not chains:
            raise AdytumError(Code.NOT_FOUND, "chains")
        for name in chains:
            found = adytum.get(f"/v1/chains/{name}")
            folder = out / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "attestation.bin").write_bytes(_bytes(found, "document"))
            (folder / "binding.json").write_bytes(_bytes(found, "binding"))
            count = 0
            with (folder / "receipts.jsonl").open("wb") as file:
                for envelope in adytum.receipts(name):
                    file.write(envelope + b"\n")
                    count += 1
            written.append({"chain": name, "receipts": count, "directory": str(folder)})
    lines = [f"{w['receipts']} receipts of {w['chain']} in {w['directory']}" for w in written]
    say(
        {"chains": written},
        *lines,
        "verify, in that directory, with:",
        "  adytum-verify audit receipts.jsonl --attestation attestation.bin --binding binding.json --pcr ...",
    )


def _bytes(found: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise UntrustedError(Code.MESSAGE_INVALID, name) from None
