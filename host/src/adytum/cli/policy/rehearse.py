"""`adytum policy simulate` and `preview`: what a policy answers, before anybody asks the enclave."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import msgspec

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say, table
from adytum.cli.policy.described import read_either
from adytum.client.policy import read_policy
from adytum.policies.records import read_records
from adytum.policies.simulate import ALLOWED, Answer, Recorded, Window, outcome_of
from adytum.policies.simulate import simulate as rehearse
from adytum_policy.decide import Decision
from adytum_policy.document import Policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import operation_of, parse_body
from adytum_wire.types import Algorithm

_EXIT_DIFFERS = 3


@click.command()
@click.argument("draft", type=FILE)
@click.argument("requests", type=FILE)
@click.option("--against", type=FILE, help="Compare with what this policy answers, instead of what was recorded.")
@click.option("--receipts", type=FILE, help="Exported receipts: who asked, when, and what came of it.")
@click.option("--keys", type=FILE, help="What `adytum keys list --json` printed: labels and algorithms.")
@click.option("--all", "everything", is_flag=True, help="Show what does not change too.")
@json_option
@click.pass_context
def simulate(
    ctx: click.Context,
    draft: Path,
    requests: Path,
    against: Path | None,
    receipts: Path | None,
    keys: Path | None,
    everything: bool,
) -> None:
    """Say what DRAFT would have answered to recorded REQUESTS, and what it changes.

    REQUESTS is a file of JSON lines: {"body": "...", "principal": "...", "labels": [...], "algorithm": "...",
    "time": ms, "outcome": "allowed" or a code, "approved": [...]}. The service does not keep bodies of what is done:
    keep them where you make them. What --receipts and --keys know need not be in the lines. Limits begin at nothing.

    Exit status: 0 when no outcome changes, 3 when one does or cannot be told.
    """
    _, parsed = read_either(draft)
    with requests.open("rb") as lines:
        records = read_records(
            lines,
            receipts=[] if receipts is None else receipts.read_bytes().splitlines(),
            keys=b"" if keys is None else keys.read_bytes(),
        )
    answers = rehearse(parsed, records, against=None if against is None else read_either(against)[1])
    shown = [answer for answer in answers if everything or answer.changed or not answer.after]
    rows = [
        (a.request_id, a.principal, a.operation, a.before or "?", a.after or "?", a.why or _said(a.decision))
        for a in shown
    ]
    changed = sum(1 for answer in answers if answer.changed or not answer.after)
    counts = Counter(answer.after or "unknown" for answer in answers)
    say(
        {"requests": len(answers), "changed": changed, "outcomes": counts, "answers": [_answer(a) for a in shown]},
        *([table("REQUEST", "WHO", "OPERATION", "BEFORE", "AFTER", "RULES", rows=rows)] if shown else []),
        f"{changed} of {len(answers)} requests would be answered otherwise. "
        + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())),
    )
    if changed:
        ctx.exit(_EXIT_DIFFERS)


@click.command()
@client_options
@click.argument("body", type=FILE)
@click.option("--principal", required=True, help="Who asks, as the policy names it.")
@click.option("--policy", "file", type=FILE, help="A draft or envelope; else the policy that the host has.")
@click.option("--label", "labels", multiple=True, help="A label of the key; may repeat. Else the host is asked.")
@click.option("--algorithm", type=click.Choice([a.value for a in Algorithm]), help="Of the key.")
@click.option("--approved", multiple=True, help="A principal who approved it; may repeat.")
@json_option
@click.pass_context
def preview(
    ctx: click.Context,
    client: ClientOptions,
    body: Path,
    principal: str,
    file: Path | None,
    labels: tuple[str, ...],
    algorithm: str | None,
    approved: tuple[str, ...],
) -> None:
    """Say what a policy answers to one request BODY now, and why. Nothing is sent to the enclave.

    Limits are taken to be unused. Only the enclave's answer counts.

    Exit status: 0 it would be allowed, 3 it would not.
    """
    text = body.read_bytes()
    parsed = parse_body(text)
    key: dict[str, Any] = {"labels": list(labels), "algorithm": algorithm, "public_key": ""}
    if algorithm is None and (key_id := getattr(parsed, "key_id", "")):
        key |= _key(client, key_id)
    record = Recorded(
        body=text.decode(),
        principal=principal,
        approved=list(approved),
        time=int(time.time() * 1000),
        algorithm=None if key["algorithm"] is None else Algorithm(key["algorithm"]),
        labels=key["labels"],
        public_key=key["public_key"],
    )
    outcome, decision, why = outcome_of(_policy(client, file, parsed.tenant), record, parsed, Window())
    if not outcome:
        raise AdytumError(Code.REQUEST_INVALID, why)
    found = {"operation": operation_of(parsed), "outcome": outcome, "rule": decision.rule if decision else ""}
    rules = [] if decision is None else [(one.rule, one.outcome) for one in decision.rules]
    say(
        found | {"decision": None if decision is None else msgspec.to_builtins(decision)},
        facts(found),
        *([table("RULE", "SAYS", rows=rules)] if rules else []),
        *_wanted(decision),
    )
    if outcome != ALLOWED:
        ctx.exit(_EXIT_DIFFERS)


def _policy(client: ClientOptions, file: Path | None, tenant: str) -> Policy:
    if file is not None:
        return read_either(file)[1]
    with client.for_tenant(tenant).open(needs_signer=False, needs_proof=False) as adytum:
        return read_policy(adytum.get_policy().envelope)[1]


def _key(client: ClientOptions, key_id: str) -> dict[str, Any]:
    with client.open(needs_signer=False, needs_proof=False) as adytum:
        found = adytum.get(f"/v1/keys/{key_id}")
    return {name: found[name] for name in ("labels", "algorithm", "public_key")}


def _wanted(decision: Decision | None) -> list[str]:
    if decision is None:
        return []
    lines = [
        f"{one.rule} asks {one.count} with the role {one.role!r}; counted: {', '.join(one.counted) or 'nobody'}; "
        f"could: {', '.join(one.missing) or 'nobody'}{f' and {one.others} others' if one.others else ''}"
        for one in decision.wanted
    ]
    for blocked in decision.blocked:
        charge = blocked.charge
        state = "cannot be measured" if charge is None else f"would count {charge.amount}, at most {charge.max}"
        lines.append(f"{blocked.rule}: limit {blocked.limit!r} {state}")
    return lines


def _said(decision: Decision | None) -> str:
    return "" if decision is None else ", ".join(f"{one.rule}={one.outcome}" for one in decision.rules)


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "request_id": answer.request_id,
        "operation": answer.operation,
        "principal": answer.principal,
        "before": answer.before,
        "after": answer.after,
        "why": answer.why,
        "rules": [] if answer.decision is None else msgspec.to_builtins(answer.decision.rules),
    }
