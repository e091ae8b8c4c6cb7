"""`adytum keys import`: bring files of keys in, many at a time, and say for each what became of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.progress import Progress

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import is_json, json_option, say, table
from adytum.client import Adytum, PendingError, RefusedError
from adytum.client.imports import FORMATS, Candidate, FileFormat, examine, find, passphrase, raw_key, request_id
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One file of the report. `outcome`: imported, found (an earlier run did it), waiting (for approvals),
    refused, or would-import."""

    path: str
    format: str
    bytes: int
    expected: str
    outcome: str
    request_id: str = ""
    key_id: str = ""
    address: str = ""
    code: str = ""
    reason: str = ""


@click.command("import")
@client_options
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--format", "kind", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True)
@click.option("--label", "labels", multiple=True, help="A label that the policy can name; may be given again.")
@click.option("--expected-from-filename", is_flag=True, help="An address in a file's name is what its key must have.")
@click.option("--password-file", type=FILE, help="The files' password, or a mnemonic's passphrase; one for all.")
@click.option("--dry-run", is_flag=True, help="Send nothing; say what would be sent, and what would be refused.")
@click.option("--report", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write JSON here.")
@click.option("--workers", type=click.IntRange(1, 32), default=4, show_default=True, help="Requests at a time.")
@json_option
@click.pass_context
def import_keys(
    ctx: click.Context,
    client: ClientOptions,
    paths: tuple[Path, ...],
    kind: str,
    labels: tuple[str, ...],
    expected_from_filename: bool,
    password_file: Path | None,
    dry_run: bool,
    report: Path | None,
    workers: int,
) -> None:
    """Bring keys, seeds and shares in from files.

    PATHS are files, or folders that are searched. Keystores (scrypt or PBKDF2), mnemonics, MPC share files and keys in
    hex are told apart by themselves. Everything is sealed to the attested enclave before it leaves this process, and
    opened only there. A second run with the same files and labels finds what the first one did.

    Passwords come from --password-file or are asked for, never from the command line or the environment.

    Exit status: 0 all are in, 1 some were refused or wait for approvals, 2 wrong usage.
    """
    candidates = [examine(path, kind, expect_name=expected_from_filename) for path in find(paths)]
    if not candidates:
        raise click.UsageError("there is no file in these folders")
    if dry_run:
        lines = [_foreseen(candidate) for candidate in candidates]
    else:
        password = _password(password_file, candidates)
        with client.open() as adytum:
            adytum.attestation()  # before a password is used: an enclave that is not proven gets nothing
        lines = _run(client, candidates, labels, password, workers)
    _say(lines, report)
    if any(line.outcome in ("refused", "waiting") for line in lines):
        ctx.exit(1)


def _foreseen(candidate: Candidate) -> Line:
    outcome = "refused" if candidate.problem else "would-import"
    return _line(candidate, outcome, reason=candidate.problem)


def _run(
    client: ClientOptions, candidates: Sequence[Candidate], labels: Sequence[str], password: bytes, workers: int
) -> list[Line]:
    def one(candidate: Candidate) -> Line:
        if candidate.problem:
            return _line(candidate, "refused", reason=candidate.problem)
        name = request_id(client.tenant, candidate, labels, password)
        try:
            with client.open() as adytum:
                return _import(adytum, client.tenant, candidate, labels, password, name)
        except PendingError as error:
            return _line(candidate, "waiting", request_id=name, code=error.code.value, reason=error.code.text)
        except AdytumError as error:
            code, reason = error.code.value, f"{error.field}: {error.code.text}" if error.field else error.code.text
            return _line(candidate, "refused", request_id=name, code=code, reason=reason)
        except ValueError as error:
            return _line(candidate, "refused", request_id=name, reason=str(error))

    with _progress(len(candidates)) as step, ThreadPoolExecutor(workers) as pool:
        lines = []
        for line in pool.map(one, candidates):
            lines.append(line)
            step()
        return lines


def _import(
    adytum: Adytum, tenant: str, candidate: Candidate, labels: Sequence[str], password: bytes, name: str
) -> Line:
    known = adytum.made_before(name)
    if known:
        return _line(candidate, "found", request_id=name, key_id=known)
    if _waits(adytum, tenant, name):
        raise PendingError(name, body=b"")
    if candidate.format == "raw-hex":
        secret = raw_key(candidate)
        answer = adytum.import_key(Algorithm.SECP256K1, secret, _public(secret), labels=labels, request_id=name)
    else:
        answer = adytum.import_file(
            cast("FileFormat", candidate.format),
            candidate.file,
            password=password,
            labels=labels,
            expected=candidate.expected,
            request_id=name,
        )
    address = str(getattr(answer.result, "address", ""))
    return _line(candidate, "imported", request_id=name, key_id=answer.result.key_id, address=address)


def _waits(adytum: Adytum, tenant: str, name: str) -> bool:
    """True when an earlier run's request waits for approvals: another body under its id would be refused."""
    try:
        return bool(adytum.get(f"/v1/requests/{tenant}/{name}").get("state") == "pending")
    except RefusedError as error:
        if error.code is Code.NOT_FOUND:
            return False
        raise


def _public(secret: bytes) -> bytes:
    number = int.from_bytes(secret, "big")
    if not 0 < number < _ORDER:
        raise ValueError("not a private key of secp256k1")
    key = ec.derive_private_key(number, ec.SECP256K1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _password(path: Path | None, candidates: Sequence[Candidate]) -> bytes:
    formats = {candidate.format for candidate in candidates}
    if path is not None:
        with path.open("rb") as file:
            found = file.read(limits.MAX_PASSWORD + 2).rstrip(b"\r\n")
    elif any(candidate.needs_password for candidate in candidates):
        if not sys.stdin.isatty():
            raise click.UsageError("the files have a password; name a file that holds it with --password-file")
        found = click.prompt("Password of the files", hide_input=True, default="", show_default=False).encode()
    else:
        return b""
    if len(found) > limits.MAX_PASSWORD:
        raise click.UsageError(f"a password has at most {limits.MAX_PASSWORD} bytes")
    if "bip39" not in formats:
        return bytes(found)
    if len(formats) > 1:
        raise click.UsageError("import mnemonics by themselves: their passphrase is not the others' password")
    try:
        return passphrase(found.decode())
    except UnicodeDecodeError:
        raise click.UsageError("a mnemonic's passphrase is UTF-8") from None


def _line(candidate: Candidate, outcome: str, **more: str) -> Line:
    return Line(
        path=str(candidate.path),
        format=candidate.format,
        bytes=len(candidate.file),
        expected=candidate.expected,
        outcome=outcome,
        **more,
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    if is_json() or not sys.stderr.isatty():
        yield lambda: None
        return
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("importing", total=total)
        yield lambda: progress.advance(task)


def _say(lines: Sequence[Line], report: Path | None) -> None:
    counts = {outcome: sum(line.outcome == outcome for line in lines) for outcome in {line.outcome for line in lines}}
    data: dict[str, Any] = {"counts": counts, "files": [asdict(line) for line in lines]}
    if report is not None:
        report.write_text(json.dumps(data, indent=1) + "\n")
    rows = [
        (
            line.path,
            line.format or "?",
            line.outcome,
            line.key_id,
            line.address or line.expected,
            line.code,
            line.reason,
        )
        for line in lines
    ]
    say(data, table("FILE", "FORMAT", "OUTCOME", "KEY", "ADDRESS", "CODE", "REASON", rows=rows))
