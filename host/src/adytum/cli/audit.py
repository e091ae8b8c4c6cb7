"""`adytum audit`: the chains of receipts, for whoever has to show them or to believe them."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adytum.audit import export as export_file
from adytum.cli.groups import Group
from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import is_json, json_option, say, table
from adytum.client import Adytum, UnreachableError, UntrustedError
from adytum_verify import (
    AWS_ANCHOR,
    AllowList,
    AuditHeader,
    ChainReport,
    ChainVerifier,
    VerifiedEnclave,
    anchor_from_pem,
    checkpoint_line,
    verify_archived_enclave,
)
from adytum_verify import render as shown
from adytum_verify.commands import UsageError, held_checkpoints
from adytum_verify.receipts import read_envelope, read_receipt
from adytum_wire import strict_json
from adytum_wire.checkpoints import CheckpointEnvelope, parse_checkpoint, parse_checkpoint_envelope
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash, parse_manifest

PATIENCE_S = 15.0  # how long a receipt may come later than the one after it: a lost answer's is fetched after 5 s


@click.group(cls=Group)
def audit() -> None:
    """The chains of receipts: what each enclave decided, signed and linked. One chain a boot.

    \b
      adytum audit chains                          which are there?
      adytum audit export --chain ID --out FILE    for an auditor, who needs us no more
      adytum audit verify --chain ID --pcr ...     verify here, straight from the service
      adytum audit watch --pcr ...                 verify what comes, as it comes
    """


@audit.command()
@client_options
@json_option
def chains(client: ClientOptions) -> None:
    """List the chains that the service has."""
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get("/v1/chains")["chains"]
    rows = [(c["chain"], c["receipts"], c["build"], c["first_seen"][:19], c["last_seen"][:19]) for c in found]
    say({"chains": found}, table("chain", "receipts", "build", "first seen", "last seen", rows=rows))


@audit.command()
@client_options
@click.option("--chain", default="", help="The chain (boot id); may be left out when there is only one.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--resume", is_flag=True, help="Go on with a file that an interrupted export left, or an older one.")
@json_option
def export(client: ClientOptions, chain: str, out: Path, resume: bool) -> None:
    """Write a chain as an audit file: receipts, checkpoints, and the attestation that vouches for their key.

    Nothing is verified here: `adytum-verify audit` does that, on a machine of the auditor's, without the service.
    """
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        name, total = _chosen(adytum, chain)
        header = _header(adytum, name)
        with _progress(total) as progress:
            try:
                done = export_file.write(
                    out,
                    header,
                    receipts=lambda after: adytum.receipts(name, after=after),
                    checkpoints=lambda after: _checkpoints(adytum, name, after),
                    resume=resume,
                    progress=progress,
                )
            except export_file.ExportError as error:
                raise click.ClickException(str(error)) from None
    data = {"chain": name, "file": str(out), "receipts": done.receipts, "last": done.last}
    say(
        data | {"checkpoints": done.checkpoints},
        f"{done.receipts} receipts (up to {done.last}) and {done.checkpoints} checkpoints of {name} in {out}",
        "verify it, on another machine, with:",
        f"  adytum-verify audit {out} --measurements release.json --manifest manifest.json",
    )


_checkpoint_files = click.option(
    "--checkpoints", "files", type=FILE, multiple=True, help="Checkpoints that you hold from elsewhere; may repeat."
)


@audit.command()
@client_options
@click.option("--chain", default="", help="The chain (boot id); may be left out when there is only one.")
@_checkpoint_files
@json_option
@click.pass_context
def verify(ctx: click.Context, client: ClientOptions, chain: str, files: tuple[Path, ...]) -> None:
    """Verify a chain straight from the service. Names the first record that does not fit, and exits with 1."""
    with client.open(needs_signer=False) as adytum:
        name, total = _chosen(adytum, chain)
        verifier, _ = _verifier(adytum, client, name)
        held = _hold(verifier, files)
        problem = verifier.report().problem
        position = 0
        # Those that are kept by now cover stored receipts; what comes later might not, for a moment.
        marks = list(_checkpoints(adytum, name, 0))
        with _progress(total) as progress:
            rest = adytum.receipts(name)
            for position, envelope in enumerate(rest, 1):
                problem = problem or verifier.take(envelope, position)
                if problem is not None:
                    verifier.look_ahead(rest)
                    break
                progress(position)
        for number, (_, mark) in enumerate(marks, position + 1):
            problem = problem or verifier.take(checkpoint_line(mark), number)
    _conclude(ctx, verifier.finish(), held=held)


@audit.command()
@client_options
@click.option("--chain", default="", help="The chain (boot id); by default the newest.")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Stop when everything that is there has been verified.")
@_checkpoint_files
@json_option
@click.pass_context
def watch(
    ctx: click.Context, client: ClientOptions, chain: str, interval: float, once: bool, files: tuple[Path, ...]
) -> None:
    """Verify receipts and checkpoints as they come, one line each. Exits with 1 at the first that does not fit."""
    with client.open(needs_signer=False) as adytum:
        name, _ = _chosen(adytum, chain, newest=True)
        verifier, _ = _verifier(adytum, client, name)
        held = _hold(verifier, files)
        tail = _Tail(adytum, name, verifier)
        with contextlib.suppress(KeyboardInterrupt):
            while tail.follow():
                if once and tail.is_done():
                    break
                time.sleep(interval)
        report = verifier.finish() if once else verifier.report()
    _conclude(ctx, report, held=held)


class _Tail:
    """Follows one chain. Receipts that the service stores out of order are waited for."""

    def __init__(self, adytum: Adytum, chain: str, verifier: ChainVerifier) -> None:
        self._adytum = adytum
        self._chain = chain
        self._verifier = verifier
        self._position = 0
        self._marked = 0
        self._gap_since: float | None = None

    def follow(self) -> bool:
        """Take what is new. False when something does not fit. A service that is away is waited for."""
        try:
            marks = list(_checkpoints(self._adytum, self._chain, self._marked))
            return self._receipts() and self._checkpoints(marks)
        except UnreachableError:
            click.echo("adytum: the service does not answer; trying again", err=True)
            return True

    def is_done(self) -> bool:
        return self._gap_since is None

    def _receipts(self) -> bool:
        for envelope in self._adytum.receipts(self._chain, after=self._verifier.next_sequence - 1):
            try:
                body = read_receipt(read_envelope(envelope).body.encode())
            except AdytumError:  # the verifier says it better
                return self._verifier.take(envelope, self._position + 1) is None
            if body.sequence > self._verifier.next_sequence and self._is_early():
                return True
            self._position += 1
            if self._verifier.take(envelope, self._position) is not None:
                return False
            self._gap_since = None
            data = {"sequence": body.sequence, "time": shown.time_text(body.time), "tenant": body.tenant}
            data |= {"principal": body.principal, "operation": body.operation, "decision": body.decision}
            data |= {"code": body.code, "key_id": body.key_id}
            _line(data, " ".join(str(value) for value in data.values() if value != ""))
        return True

    def _is_early(self) -> bool:
        now = time.monotonic()
        self._gap_since = self._gap_since or now
        return now - self._gap_since < PATIENCE_S

    def _checkpoints(self, marks: list[tuple[int, bytes]]) -> bool:
        for sequence, mark in marks:
            if sequence >= self._verifier.next_sequence:
                return True  # its receipts first
            self._position += 1
            if self._verifier.take(checkpoint_line(mark), self._position) is not None:
                return False
            self._marked = sequence
            _line({"checkpoint": sequence}, f"{sequence} checkpoint holds")
        return True


def _line(data: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(data) if is_json() else text)


def _conclude(ctx: click.Context, report: ChainReport, *, held: bool) -> None:
    result = shown.audit(report, head_given=held, attested=True)
    click.echo(shown.to_json(result) if is_json() else shown.to_text(result), nl=False)
    if not report.is_intact:
        ctx.exit(1)


def _hold(verifier: ChainVerifier, files: tuple[Path, ...]) -> bool:
    try:
        envelopes, ignored = held_checkpoints([str(path) for path in files])
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    if ignored:
        click.echo(f"adytum: {ignored} lines of the second copies are no checkpoints", err=True)
    for envelope in envelopes:
        verifier.hold(envelope)
    return bool(envelopes)


def _verifier(adytum: Adytum, client: ClientOptions, chain: str) -> tuple[ChainVerifier, VerifiedEnclave]:
    """A verifier with the attested key of the chain. Errors: AttestationError, UntrustedError."""
    header = _header(adytum, chain)
    enclave = verify_archived_enclave(
        header.document,
        header.binding,
        expected=AllowList.parse(client.pcrs),
        anchors=(AWS_ANCHOR,) if client.roots is None else (anchor_from_pem(client.roots.read_bytes()),),
        manifest_hash=_manifest_hash(client.manifest),
    )
    if enclave.binding.boot_id != chain:
        raise UntrustedError(Code.RECEIPT_INVALID, "$.chain")
    return ChainVerifier(receipt_key=bytes.fromhex(enclave.binding.receipt_key), chain=chain), enclave


def _manifest_hash(path: Path | None) -> bytes | None:
    if path is None:
        return None
    data = path.read_bytes()
    parse_manifest(data)
    return manifest_hash(data)


def _chosen(adytum: Adytum, chain: str, *, newest: bool = False) -> tuple[str, int]:
    """The chain that is meant, and how many receipts the service says that it has."""
    found = {c["chain"]: int(c["receipts"]) for c in adytum.get("/v1/chains")["chains"]}
    if chain:
        if chain not in found:
            raise AdytumError(Code.NOT_FOUND, "chain")
        return chain, found[chain]
    if not found:
        raise AdytumError(Code.NOT_FOUND, "chains")
    if len(found) > 1 and not newest:
        raise click.UsageError(f"there are {len(found)} chains: name one with --chain (see `adytum audit chains`)")
    return list(found.items())[-1]


def _header(adytum: Adytum, chain: str) -> AuditHeader:
    found = adytum.get(f"/v1/chains/{chain}")
    return AuditHeader(chain=chain, document=_bytes(found, "document"), binding=_bytes(found, "binding"))


def _checkpoints(adytum: Adytum, chain: str, after: int) -> Iterator[tuple[int, bytes]]:
    """(sequence, envelope) of the checkpoints after number `after`, in order. Errors: UntrustedError."""
    position: int | None = after
    while position is not None:
        page = adytum.get(f"/v1/checkpoints?chain={chain}&after={position}&limit=500")
        try:
            for row in page["checkpoints"]:
                envelope = strict_json.encode(
                    CheckpointEnvelope(body=row["body"], key=row["key"], signature=row["signature"])
                )
                yield parse_checkpoint(parse_checkpoint_envelope(envelope).body.encode()).sequence, envelope
            position = page["next_after"]
        except (AdytumError, KeyError, TypeError):
            raise UntrustedError(Code.MESSAGE_INVALID, "checkpoints") from None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal's error stream; nothing where nobody looks."""
    if is_json() or not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("receipts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda number: bar.update(task, completed=number)


def _bytes(found: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise UntrustedError(Code.MESSAGE_INVALID, name) from None
