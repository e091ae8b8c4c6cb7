"""`adytum attest`: verify the enclave that serves now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say


@click.command()
@client_options
@json_option
def attest(client: ClientOptions) -> None:
    """Ask the enclave for an attestation document with a fresh challenge, and verify it here.

    Exit status 0 means: AWS's root vouches that an image you allow (--pcr) runs now, and these keys are its keys.
    """
    with client.open(needs_signer=False) as adytum:
        verified = adytum.attestation()
    document, binding = verified.document, verified.binding
    found: dict[str, Any] = {
        "module_id": document.module_id,
        "boot_id": binding.boot_id,
        "build": binding.build,
        "manifest_hash": binding.manifest_hash,
        "receipt_key": binding.receipt_key,
        "hpke_key": binding.hpke_key,
        "time": _time(document.timestamp_ms),
        "certificate_until": _time(document.valid_until_ms),
    }
    pcrs = {f"PCR{index}": value.hex() for index, value in sorted(document.pcrs.items()) if any(value)}
    say({**found, "pcrs": pcrs}, "The enclave has proven itself.", facts({**found, **pcrs}))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
