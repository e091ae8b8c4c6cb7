"""`adytum requests`: how requests stand, and taking one back. Also what `adytum approve` shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import urlencode

import click
import msgspec
from rich.table import Table

from adytum.cli.groups import Group
from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import could, facts, json_option, say, table
from adytum.service.requests.shapes import RequestPage, RequestView
from adytum.storage.requests import MAX_PAGE
from adytum.storage.schema import REQUEST_STATES
from adytum_wire import limits
from adytum_wire.results import SignResult


@click.group(cls=Group)
def requests() -> None:
    """Requests: whether they wait for approvals, and what came of them. Lists are the host's word."""


@requests.command("list")
@client_options
@click.option("--after", default="", help="Go on after this request id.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=100, show_default=True, help="Requests a page.")
@click.option("--state", type=click.Choice(REQUEST_STATES), default=None, help="Only those in this state.")
@json_option
def list_requests(client: ClientOptions, after: str, limit: int, state: str | None) -> None:
    """List a tenant's requests in order of their ids, a page at a time."""
    asked = {"tenant": client.tenant, "state": state or "", "after": after, "limit": str(limit)}
    with open_reader(client) as adytum:
        came = adytum.get("/v1/requests?" + urlencode(asked))
    page = msgspec.json.decode(msgspec.json.encode(came), type=RequestPage)
    more = [f"more: --after {page.next_after}"] if page.next_after else []
    say({"requests": list(map(as_json, page.requests)), "next_after": page.next_after}, listed(page.requests), *more)


@requests.command()
@client_options
@click.argument("request_id")
@click.option("--wait", type=click.IntRange(0, 3600), default=0, help="Seconds to wait for its end.")
@json_option
def show(client: ClientOptions, request_id: str, wait: int) -> None:
    """Show how a request stands, and who approved it."""
    with open_reader(client) as adytum:
        view = adytum.requests.settled(request_id, timeout_s=wait)
    say(as_json(view), facts(standing(view)), *votes(view))


@requests.command()
@client_options
@click.argument("request_id")
@json_option
def cancel(client: ClientOptions, request_id: str) -> None:
    """Take back a request that your key stamped. Exit status 1 when it had ended otherwise before."""
    with client.open(needs_proof=False) as adytum:
        view = adytum.requests.cancel(request_id)
    say(as_json(view), facts(standing(view)))
    if view.state != "cancelled":
        click.get_current_context().exit(1)


@requests.command()
@client_options
@click.argument("body", type=click.File("rb"))
@click.option("--wait", type=click.IntRange(0, 86_400), default=0, help="Seconds to wait for its end.")
@json_option
def answer(client: ClientOptions, body: IO[bytes], wait: int) -> None:
    """Get the answer of a request that waited, verified.

    BODY is a file ("-": standard input) with the request as it was signed: `error.body` of what a command printed with
    --json when it was told to wait. Your key stamps it again, so take it from nobody else.
    """
    raw = body.read(limits.MAX_BODY + 1)
    with client.open() as adytum:
        found = adytum.requests.wait(raw, timeout_s=wait)
    result: dict[str, Any] = msgspec.to_builtins(found.result)
    receipt = found.receipt.receipt
    people = [f"{given.principal} ({given.outcome})" for given in receipt.approvals]
    encoded = found.result.encoded if isinstance(found.result, SignResult) else {}
    shown = {"request": receipt.request_id, **receipt.summary, **encoded, "approvals": ", ".join(people)}
    say({"result": result, "receipt": found.receipt_bytes.decode()}, facts(shown))


def open_reader(client: ClientOptions) -> Any:
    """A client for reads."""
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    return client.open(needs_signer=False, needs_proof=False)


def show_list(client: ClientOptions, state: str) -> None:
    """All requests in `state`, as a table."""
    with open_reader(client) as adytum:
        found = adytum.requests.list(state)
    say({"requests": [as_json(view) for view in found]}, listed(found))


def listed(views: Sequence[RequestView]) -> Table:
    """A line each, for people."""
    rows = [
        (view.request_id, view.operation, view.state, view.initiator, missing(view), _when(view.expires_at))
        for view in views
    ]
    return table("REQUEST", "OPERATION", "STATE", "BY", "WANTED", "UNTIL", rows=rows)


def as_json(view: RequestView) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(view))
    return made


def missing(view: RequestView) -> str:
    """What is still wanted, in a few words."""
    return "; ".join(
        f"{wanted.count - len(wanted.counted)} more of {wanted.role} ({could(wanted.missing, wanted.others)})"
        for wanted in view.wanted
    )


def standing(view: RequestView) -> dict[str, object]:
    """How it stands, for people."""
    shown: dict[str, object] = {"request": view.request_id, "operation": view.operation, "state": view.state}
    if view.code or view.last_code:
        shown["code"] = view.code or view.last_code
    if view.wanted:
        shown["wanted"] = missing(view)
    if view.expires_at:
        shown["until"] = _when(view.expires_at)
    return shown


def votes(view: RequestView) -> list[Table]:
    """Who has said what."""
    rows = [
        (given.principal, given.kind, given.decision, given.outcome, given.policy_version, _when(given.expires_at))
        for given in view.approvals
    ]
    return [table("PRINCIPAL", "WITH", "SAYS", "OUTCOME", "POLICY", "UNTIL", rows=rows)] if rows else []


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if ms else ""
