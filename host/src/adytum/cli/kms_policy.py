"""`adytum kms-policy`: render, lint, explain."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from adytum.cli.groups import Group
from adytum.cli.options import FILE
from adytum.cli.output import is_json, json_option, say
from adytum.kms_policy import Finding, KmsPolicyError, Principal, has_errors, parse, parse_deployment
from adytum.kms_policy import lint as find
from adytum.kms_policy.evaluate import StatementResult
from adytum.kms_policy.explain import Explanation, described, operation
from adytum.kms_policy.explain import explain as decide_and_say
from adytum.kms_policy.render import render as render_all
from adytum.kms_policy.render import to_json
from adytum_verify import AWS_ANCHOR, anchor_from_pem, authenticate_document, parse_unverified

_POLICY = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_MAX_FILE = 1024 * 1024  # bytes; each parser has its own, smaller limit
_UNVERIFIED = "THE DOCUMENT WAS NOT AUTHENTICATED: anybody can write one. Give --root aws, or a root's PEM file."


@click.group("kms-policy", cls=Group)
def kms_policy() -> None:
    """Key policies under which only attested enclaves use a KMS key."""


@kms_policy.command()
@click.argument("deployment", type=FILE)
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Write the files into this folder.")
@json_option
def render(deployment: Path, out: Path | None) -> None:
    """Write the key policy and the IAM policies of a DEPLOYMENT file (see docs/reference/kms-policy.md).

    Without --out all of them are printed as one JSON object. Put the key policy as the break-glass role: KMS refuses a
    policy under which its caller could not call PutKeyPolicy again.
    """
    with _refusals():
        made = render_all(parse_deployment(_read(deployment), read_file=lambda name: _read(deployment.parent / name)))
    if out is None:
        click.echo(json.dumps(made, indent=2))
        return
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"{name}.json" for name in made}
    for name, path in files.items():
        path.write_text(to_json(made[name]))
    say({"files": {name: str(path) for name, path in files.items()}}, *(f"written to {p}" for p in files.values()))


@kms_policy.command()
@click.argument("file", type=_POLICY)
@click.option("--kind", type=click.Choice(["key", "identity"]), help="Default: a key policy if it has principals.")
@json_option
def lint(file: Path, kind: Any) -> None:
    """Find the traps in a key policy or identity policy FILE (`-` reads standard input).

    Also takes what `aws kms get-key-policy` prints. Exit status 1: there is a finding of severity error.
    """
    with _refusals():
        findings = find(_policy_text(file), kind=kind)
    counts = {level: sum(f.severity == level for f in findings) for level in ("error", "warning", "note")}
    ok = not has_errors(findings)
    summary = ", ".join(f"{count} {level}(s)" for level, count in counts.items() if count) or "nothing found"
    say({"ok": ok, **counts, "findings": [asdict(f) for f in findings]}, *map(_shown, findings), summary)
    if not ok:
        click.get_current_context().exit(1)


@kms_policy.command()
@click.option("--policy", type=_POLICY, required=True, help="The key policy.")
@click.option("--iam", type=FILE, multiple=True, help="An identity policy of the principal; may repeat.")
@click.option("--action", required=True, metavar="kms:OPERATION", help="What is asked for.")
@click.option("--principal", required=True, metavar="ARN", help="Who asks: a role, role session, user or account root.")
@click.option("--key", metavar="ARN", help="The key, where a policy names one.")
@click.option("--document", type=FILE, help="The attestation document of the request (binary).")
@click.option("--root", help="Authenticate the document under this root: a PEM file, or `aws`.")
@click.option("--at-document-time", is_flag=True, help="Authenticate it at its own time; KMS does so at its present.")
@click.option("--pcr", "pcrs", multiple=True, metavar="N=HEX", help="What the document would show; may repeat.")
@click.option("--context", multiple=True, metavar="K=V", help="A pair of the EncryptionContext; may repeat.")
@json_option
def explain(
    policy: Path,
    iam: tuple[Path, ...],
    action: str,
    principal: str,
    key: str | None,
    document: Path | None,
    root: str | None,
    at_document_time: bool,
    pcrs: tuple[str, ...],
    context: tuple[str, ...],
) -> None:
    """Say what KMS would answer to one request, which statement decided, and why each other one did not.

    Exit status 0: allowed, 1: denied.
    """
    if document is not None and pcrs:
        raise click.UsageError("--document and --pcr exclude each other")
    if root and document is None:
        raise click.UsageError("--root is for --document")
    try:
        who = Principal.from_arn(principal)
        operation(action)
    except KmsPolicyError as error:
        raise click.UsageError(error.sentence) from None
    shown = _document_pcrs(document, root, at_document_time) if document else _given_pcrs(pcrs)
    with _refusals():
        who = who.with_policies(*(parse(_policy_text(path), kind="identity", unknown_keys_absent=True) for path in iam))
        answer = decide_and_say(
            key_policy=parse(_policy_text(policy), kind="key", unknown_keys_absent=True),
            principal=who,
            action=action,
            key=key,
            pcrs=shown,
            context=dict(_pair(item, "--context") for item in context),
        )
    loud = (_UNVERIFIED,) if document and not root else ()
    _report(answer, loud)
    if not answer.decision.allowed:
        click.get_current_context().exit(1)


def _report(answer: Explanation, loud: tuple[str, ...]) -> None:
    decision = answer.decision
    data = {
        "allowed": decision.allowed,
        "verdict": decision.verdict,
        "text": answer.sentence,
        "remarks": [*loud, *answer.remarks],
        "decided_by": described(decision.decided_by),
        "others": described(answer.others),
    }
    lines = [*loud, answer.sentence, *(f"note: {remark}" for remark in answer.remarks)]
    lines += ["decided by:", *(_statement(s) for s in decision.decided_by)] if decision.decided_by else []
    lines += ["did not decide:", *(_statement(s) for s in answer.others)] if answer.others else []
    say(data, *map(_clean, lines))


def _statement(result: StatementResult) -> str:
    where = "key policy" if result.policy == "key" else f"identity policy {result.number}"
    name = f" ({result.sid})" if result.sid else ""
    matched = " matches" if result.matches else ""
    lines = [f"  {where}, statement {result.index}{name}, {result.effect}{matched}"]
    return "\n".join([*lines, *(f"    {reason}" for reason in result.reasons)])


def _shown(finding: Finding) -> str:
    place = "policy" if finding.statement is None else f"statement {finding.statement}"
    sid = f" ({finding.sid})" if finding.sid else ""
    return f"{finding.severity} {finding.code}: {place}{sid}\n  {finding.sentence}\n  mend: {finding.mend}"


def _clean(line: str) -> str:
    """Names come from files, and a terminal obeys control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in line)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise KmsPolicyError("A file is too long.")
    return data


def _policy_text(path: Path) -> str:
    """A policy, or the answer of GetKeyPolicy that holds one as a string."""
    data = sys.stdin.buffer.read(_MAX_FILE) if str(path) == "-" else _read(path)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise KmsPolicyError("The policy is not UTF-8.") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    inner = found.get("Policy") if isinstance(found, dict) else None
    return inner if isinstance(inner, str) else text


def _document_pcrs(path: Path, root: str | None, at_document_time: bool) -> dict[int, bytes]:
    """Errors: AttestationError, which the command line reports."""
    document = path.read_bytes()
    found = parse_unverified(document)
    if root:
        anchor = AWS_ANCHOR if root == "aws" else anchor_from_pem(Path(root).read_bytes())
        now_ms = found.timestamp_ms if at_document_time else time.time_ns() // 1_000_000
        found = authenticate_document(document, anchors=(anchor,), now_ms=now_ms)
    return dict(found.pcrs)


def _given_pcrs(entries: tuple[str, ...]) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    for entry in entries:
        index, value = _pair(entry, "--pcr")
        try:
            number, pcr = int(index.upper().removeprefix("PCR")), bytes.fromhex(value)
        except ValueError:
            raise click.UsageError("--pcr takes N=HEX") from None
        if not 0 <= number < 32 or len(pcr) != 48 or number in found:
            raise click.UsageError("--pcr takes an index from 0 to 31, once, and 96 hexadecimal digits")
        found[number] = pcr
    return found or None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} takes NAME=VALUE")
    return name, value


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except KmsPolicyError as error:
        _fail(error)


def _fail(error: KmsPolicyError) -> NoReturn:
    sentence = _clean(error.sentence)
    if is_json():
        click.echo(json.dumps({"error": {"code": error.code, "text": sentence}}))
    else:
        click.echo(f"adytum: refused: {sentence}", err=True)
    raise click.exceptions.Exit(1)
