"""`adytum keys import`: bring files of keys in, many at a time, and say for each what became of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.progress import Progress

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import is_json, json_option, say, table
from adytum.client import Adytum, PendingError, RefusedError, UnreachableError
from adytum.client.imports import FORMATS, FileFormat, passphrase
from adytum.imports import candidates as files
from adytum.imports import raw_keys
from adytum.imports.candidates import Candidate
from adytum.imports.report import OPEN, Line, Report, foreseen, line_of
from adytum.imports.run import grouped, interruptible, run
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm

_ALGORITHMS = [a.value for a in Algorithm if a is not Algorithm.NONE]


@click.command("import")
@client_options
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, readable=False, path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True, help="Of the files."
)
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), default=None, help="Of keys in hex.")
@click.option("--expected", default="", help="The address or public key (hex) that the key must have; for one file.")
@click.option("--label", "labels", multiple=True, help="A label that the policy can name; may be given again.")
@click.option("--expected-from-filename", is_flag=True, help="An address in a file's name is what its key must have.")
@click.option("--password-file", type=FILE, help="The files' password, or a mnemonic's passphrase; one for all.")
@click.option("--dry-run", is_flag=True, help="Send nothing; say what would be sent, and what would be refused.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
@click.option("--workers", type=click.IntRange(1, 32), default=4, show_default=True, help="Requests at a time.")
@json_option
@click.pass_context
def import_keys(
    ctx: click.Context,
    client: ClientOptions,
    paths: tuple[Path, ...],
    kind: str,
    algorithm: str | None,
    expected: str,
    labels: tuple[str, ...],
    expected_from_filename: bool,
    password_file: Path | None,
    dry_run: bool,
    report_file: Path | None,
    workers: int,
) -> None:
    """Bring keys, seeds and shares in from files.

    PATHS are files, or folders that are searched. Keystores (scrypt or PBKDF2), mnemonics, MPC share files and keys in
    hex are told apart by themselves. Of which algorithm a key in hex is, --algorithm says, or the recovery envelope
    that lies beside it (KEY.recovery for KEY.hex), or an Ethereum address that is expected. Everything is sealed to the
    attested enclave before it leaves this process, and opened only there. A second run with the same files and labels
    finds what the first one did.

    Ctrl-C ends it after the requests that are under way; what was not reached is named. The report is written line by
    line. Passwords come from --password-file or are asked for, never from the command line or the environment.

    Exit status: 0 all are in, 1 some were refused, wait for approvals or were not reached, 2 wrong usage.
    """
    found = list(files.find(paths))
    if not found:
        raise click.UsageError("there is no file in these folders")
    if expected and (len(found) > 1 or not files.is_expectation(expected)):
        raise click.UsageError("--expected is an address or a public key in hex, of one file")
    chosen = Algorithm(algorithm or Algorithm.NONE)
    with Report(report_file) as report:
        candidates = [
            files.examine(path, kind, expect_name=expected_from_filename, expected=expected, algorithm=chosen)
            for path in found
        ]
        if dry_run:
            report.begin()
            for candidate in candidates:
                report.take(foreseen(candidate))
        else:
            password = _password(password_file, candidates)
            with client.open() as adytum:
                adytum.attestation()  # before a password is used: an enclave that is not proven gets nothing
            report.begin()
            with interruptible() as stop:
                _send_all(_Import(client, labels, password), candidates, report, workers, stop)
    _say(report)
    if any(line.outcome in OPEN for line in report.lines):
        ctx.exit(1)


def _send_all(
    work: _Import, candidates: Sequence[Candidate], report: Report, workers: int, stop: threading.Event
) -> None:
    with _progress(len(candidates)) as step:

        def take(line: Line) -> None:
            report.take(line)
            step()

        for candidate in candidates:
            if candidate.problem:
                take(line_of(candidate, "refused", reason=candidate.problem))
        groups = grouped([one for one in candidates if not one.problem], work.name)
        run(groups, work.send, take, workers=workers, stop=stop)


@dataclass(frozen=True, slots=True)
class _Import:
    """How one file is sent."""

    client: ClientOptions
    labels: Sequence[str]
    password: bytes

    def name(self, candidate: Candidate) -> str:
        return files.request_id(self.client.tenant, candidate, self.labels, self.password)

    def send(self, name: str, candidate: Candidate) -> Line:
        try:
            with self.client.open() as adytum:
                return self._send(adytum, name, candidate)
        except PendingError as error:
            return line_of(candidate, "waiting", request_id=name, code=error.code.value, reason=error.code.text)
        except UnreachableError as error:
            reason = f"{error.code.text} It may be in: run again."
            return line_of(candidate, "unanswered", request_id=name, code=error.code.value, reason=reason)
        except AdytumError as error:
            code, reason = error.code.value, f"{error.field}: {error.code.text}" if error.field else error.code.text
            return line_of(candidate, "refused", request_id=name, code=code, reason=reason)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or type(error).__name__}"
            return line_of(candidate, "refused", request_id=name, reason=reason)
        except ValueError as error:
            return line_of(candidate, "refused", request_id=name, reason=str(error))

    def _send(self, adytum: Adytum, name: str, candidate: Candidate) -> Line:
        before = adytum.made_before(name)
        if before is not None:
            return _found(candidate, name, before.key_id, before.public_key)
        if _waits(adytum, self.client.tenant, name):
            raise PendingError(name, body=b"")
        content = files.read(candidate)
        if candidate.format == "raw-hex":
            secret, public = bytes.fromhex(content.decode()), bytes.fromhex(candidate.public_key)
            answer = adytum.import_key(candidate.algorithm, secret, public, labels=self.labels, request_id=name)
        else:
            answer = adytum.import_file(
                cast("FileFormat", candidate.format),
                content,
                password=self.password,
                labels=self.labels,
                expected=candidate.expected,
                request_id=name,
            )
        result = answer.result
        public_key = str(getattr(result, "public_key", ""))
        return line_of(
            candidate,
            "imported",
            request_id=name,
            key_id=result.key_id,
            algorithm=_algorithm(candidate, public_key).value if public_key else "",
            public_key=public_key,
            address=str(getattr(result, "address", "")),
        )


def _found(candidate: Candidate, name: str, key_id: str, public_key: str) -> Line:
    """What an earlier run did, by its receipt. The key that it made may be another than is expected by now."""
    algorithm = _algorithm(candidate, public_key)
    known = {
        "request_id": name,
        "key_id": key_id,
        "algorithm": algorithm.value if public_key else "",
        "public_key": public_key,
        "address": raw_keys.address(algorithm, public_key),
    }
    if public_key and candidate.expected and not raw_keys.is_expected(algorithm, public_key, candidate.expected):
        return line_of(candidate, "refused", reason="it is in already, and is not the expected key", **known)
    return line_of(candidate, "found", **known)


def _algorithm(candidate: Candidate, public_key: str) -> Algorithm:
    """A keystore holds a key of secp256k1; seeds and shares have no public key."""
    if candidate.format == "raw-hex":
        return candidate.algorithm
    return Algorithm.SECP256K1 if public_key else Algorithm.NONE


def _waits(adytum: Adytum, tenant: str, name: str) -> bool:
    """True when an earlier run's request waits for approvals: another body under its id would be refused."""
    try:
        return bool(adytum.get(f"/v1/requests/{tenant}/{name}").get("state") == "pending")
    except RefusedError as error:
        if error.code is Code.NOT_FOUND:
            return False
        raise


def _password(path: Path | None, candidates: Sequence[Candidate]) -> bytes:
    formats = {candidate.format for candidate in candidates if candidate.format}
    if path is not None:
        with path.open("rb") as file:
            found = file.read(limits.MAX_PASSWORD + 2).rstrip(b"\r\n")
    elif any(candidate.needs_password and not candidate.problem for candidate in candidates):
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


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    if is_json() or not sys.stderr.isatty():
        yield lambda: None
        return
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("importing", total=total)
        yield lambda: progress.advance(task)


def _say(report: Report) -> None:
    rows = [
        (
            line.path,
            line.format or "?",
            line.outcome,
            line.key_id,
            line.address or line.public_key or line.expected,
            line.code,
            line.reason or (f"not checked: {line.unchecked}" if line.unchecked else ""),
        )
        for line in sorted(report.lines, key=lambda line: line.path)
    ]
    say(report.data(), table("FILE", "FORMAT", "OUTCOME", "KEY", "ADDRESS", "CODE", "REASON", rows=rows))
