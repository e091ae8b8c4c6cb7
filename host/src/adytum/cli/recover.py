"""`adytum recover`: the second envelopes, offline. docs/how-to/recover.md says who should run what, and where."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum import recovery
from adytum.cli.groups import Group
from adytum.cli.options import FILE, read_settings, settings_option
from adytum.cli.output import facts, json_option, say, table
from adytum.cli.secret_files import load_x25519, sync_folder, write_secret, write_whole
from adytum.client import hpke
from adytum.imports.raw_keys import SUFFIX
from adytum.storage import recovery as stored
from adytum_policy.x25519 import is_x25519
from adytum_wire.errors import AdytumError
from adytum_wire.record import Header, parse_header
from adytum_wire.recovery import RecoveryEnvelope, parse_recovery

_SEAL_INFO = b"adytum/recovered/v1\0"


@click.group(cls=Group)
def recover() -> None:
    """Recovery without KMS and without an enclave: what the policy's recovery holders can open together.

    Whoever has enough of the holders' keys has every secret of the tenant. Keep them apart, and drill.
    """


@recover.command("export-envelopes")
@settings_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder; made if absent."
)
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
def export_envelopes(settings_file: Path | None, out: Path, tenant: str) -> None:
    """Copy the newest recovery envelope of every record out of the database. They are ciphertext: a backup."""
    dsn = read_settings(settings_file).database.dsn.get_secret_value()
    if not dsn:
        raise click.UsageError("database.dsn is empty: the embedded PostgreSQL is not for production")
    written, without = asyncio.run(_export(dsn, out, tenant))
    say({"written": written, "without": without}, facts({"written": written, "records without one": without}))
    if without:
        click.echo("records without an envelope: reseal them under a policy with recovery", err=True)


async def _export(dsn: str, out: Path, tenant: str) -> tuple[int, int]:
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    async with stored.opened(dsn) as database:
        async for key_id, version, envelope in stored.newest(database, tenant):
            write_whole(out / f"{key_id}.{version}{SUFFIX}", envelope)
            written += 1
        sync_folder(out)
        return written, await stored.count_without(database, tenant)


@recover.command("open")
@click.option("--envelope", "file", type=FILE, required=True, help="One that export-envelopes wrote.")
@click.option("--key", "key_files", type=FILE, multiple=True, required=True, help="A holder's key (PEM); may repeat.")
@click.option("--recipient", default="", help="X25519 key in hex: the secret is written sealed to it.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the secret goes.")
@click.option("--write-the-secret-in-the-clear", "clear", is_flag=True, help="Needed for --out without --recipient.")
@click.option("--hex", "in_hex", is_flag=True, help="Write the secret in hex, as `adytum keys import` takes a key.")
@json_option
def open_one(
    file: Path, key_files: tuple[Path, ...], recipient: str, out: Path | None, clear: bool, in_hex: bool
) -> None:
    """Open one envelope. Without --out nothing secret is shown or written: a drill.

    With --recipient the file is HPKE (RFC 9180, X25519, HKDF-SHA256, AES-256-GCM; info "adytum/recovered/v1", a zero
    byte, the key id): 32 bytes of encapsulated key, then the ciphertext.

    A signing key goes back in with `adytum keys import`: write it with --hex beside its envelope, as KEY.hex beside
    KEY.recovery, which names its algorithm and its public key.
    """
    if out is not None and not recipient and not clear:
        raise click.UsageError(
            "--out writes the key itself; add --write-the-secret-in-the-clear, or name a --recipient"
        )
    envelope = _read(file)
    header = parse_header(envelope.header)
    secret, problem = _open(envelope, header, _load(key_files))
    if problem:
        raise click.ClickException(problem)
    if out is not None:
        _write(out, secret.hex().encode() if in_hex else secret, recipient, header)
    found = _described(header, envelope, recovery.is_proven(header, secret))
    say(found | {"written": str(out or "")}, facts(found))


@recover.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--key", "key_files", type=FILE, multiple=True, required=True, help="A holder's key (PEM); may repeat.")
@click.option("--sample", type=click.IntRange(1), default=10, show_default=True, help="How many, chosen by chance.")
@json_option
@click.pass_context
def drill(ctx: click.Context, folder: Path, key_files: tuple[Path, ...], sample: int) -> None:
    """Open a sample of the envelopes in FOLDER and compare public keys. Nothing secret is shown or written.

    Exit status: 0 all opened, 1 some did not.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise click.UsageError(f"there is no *{SUFFIX} in this folder")
    chosen = sorted(random.SystemRandom().sample(files, min(sample, len(files))))
    lines = [_drilled(path, keys) for keys in [_load(key_files)] for path in chosen]
    rows = [(line["file"], line["kind"], line["public_key"], line["outcome"]) for line in lines]
    data = {"envelopes": len(files), "opened": lines}
    say(data, table("FILE", "KIND", "PUBLIC KEY", "OUTCOME", rows=rows), f"{len(chosen)} of {len(files)} envelopes")
    if any(line["failed"] for line in lines):
        ctx.exit(1)


def _drilled(path: Path, keys: Sequence[X25519PrivateKey]) -> dict[str, Any]:
    line: dict[str, Any] = {"file": path.name, "kind": "", "public_key": "", "outcome": "", "failed": True}
    try:
        envelope = parse_recovery(path.read_bytes())
        header = parse_header(envelope.header)
    except AdytumError:
        return line | {"outcome": "not a recovery envelope"}
    line |= {"kind": header.kind.value, "public_key": header.public_key}
    secret, problem = _open(envelope, header, keys)
    if problem:
        return line | {"outcome": problem}
    proven = recovery.is_proven(header, secret)
    return line | {"outcome": "opened, and the public key is its own" if proven else "opened", "failed": False}


def _open(envelope: RecoveryEnvelope, header: Header, keys: Sequence[X25519PrivateKey]) -> tuple[bytes, str]:
    """(secret, "") or (b"", what is wrong)."""
    try:
        secret = recovery.open_recovery(envelope, keys)
    except recovery.RecoveryError as error:
        return b"", str(error)
    if recovery.is_proven(header, secret) is False:
        return b"", "it opens, but the public key is another one: somebody put this envelope together"
    return secret, ""


def _write(out: Path, secret: bytes, recipient: str, header: Header) -> None:
    if not recipient:
        write_secret(out, secret)
        return
    try:
        public = bytes.fromhex(recipient)
    except ValueError:
        public = b""
    if not is_x25519(public):
        raise click.BadParameter("want an X25519 public key, 64 hex digits", param_hint="--recipient")
    write_secret(out, b"".join(hpke.seal(public, secret, info=_SEAL_INFO + header.key_id.encode())))


def _described(header: Header, envelope: RecoveryEnvelope, proven: bool | None) -> dict[str, Any]:
    words = {
        True: "the public key is its own",
        False: "",
        None: "a kind without a public key: it opens, no more is proven",
    }
    return {
        "key_id": header.key_id,
        "version": header.version,
        "kind": header.kind.value,
        "algorithm": header.algorithm.value,
        "public_key": header.public_key,
        "holders": recovery.describe(envelope),
        "opened": words[proven],
    }


def _read(path: Path) -> RecoveryEnvelope:
    return parse_recovery(path.read_bytes())


def _load(paths: Sequence[Path]) -> list[X25519PrivateKey]:
    return [load_x25519(path) for path in paths]
