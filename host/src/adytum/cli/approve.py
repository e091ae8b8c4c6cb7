"""`adytum approve`: look into what others ask for, and sign for or against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from adytum.cli.groups import Group
from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, is_json, json_option, say
from adytum.cli.requests import as_json, show_list, standing, votes
from adytum.client import Adytum, KeyApprover, RefusedError, Review, read_policy
from adytum.client.approvals import Approver
from adytum.client.device import DeviceApprover, passkeys_of
from adytum.service.requests.shapes import RequestView
from adytum_wire.limits import MAX_APPROVAL_MS
from adytum_wire.requests import operation_of

_HOUR_MS = 3_600_000


@click.group(cls=Group)
def approve() -> None:
    """Approve or reject requests that wait. What you sign is decoded here, from its bytes: the service is not
    believed."""


@approve.command("list")
@client_options
@json_option
def list_waiting(client: ClientOptions) -> None:
    """List the requests that wait (the host's word)."""
    show_list(client, "pending")


@approve.command()
@client_options
@click.argument("request_id")
@json_option
def show(client: ClientOptions, request_id: str) -> None:
    """Show what a request asks for, decoded and proven by the enclave's receipt."""
    with client.open(needs_signer=False) as adytum:
        review = adytum.approvals.review(request_id)
    say(_as_json(review), _shown(review), *votes(review.view))


def _decide(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--yes", is_flag=True, help="Do not ask."),
            click.option(
                "--hours",
                type=click.IntRange(1, MAX_APPROVAL_MS // _HOUR_MS),
                default=24,
                show_default=True,
                help="How long your word counts.",
            ),
            click.option("--fido2", "principal", default="", help="Sign with this principal's security key (USB)."),
            click.option("--origin", default="", help="With --fido2: a page that the policy names; else its first."),
            click.option("--policy-version", type=click.IntRange(1), help="Refuse unless this version is in force."),
        )
    ):
        command = option(command)
    return command


@approve.command()
@client_options
@click.argument("request_ids", nargs=-1, required=True, metavar="REQUEST_ID...")
@_decide
@json_option
def sign(
    client: ClientOptions,
    request_ids: Sequence[str],
    yes: bool,
    hours: int,
    principal: str,
    origin: str,
    policy_version: int | None,
) -> None:
    """Approve. Several requests are approved by one signature over all of them."""
    with _open(client, principal) as adytum:
        reviews = _reviewed(adytum, request_ids, policy_version)
        _confirm(reviews, "Approve", yes)
        approver = _approver(client, adytum, principal, origin)
        if len(reviews) > 1:
            found = adytum.approvals.approve_batch(reviews, approver, valid_ms=hours * _HOUR_MS)
        else:
            view = adytum.approvals.approve(reviews[0], approver, valid_ms=hours * _HOUR_MS)
            found = {reviews[0].request_id: view}
    _report(found)


@approve.command()
@client_options
@click.argument("request_id")
@_decide
@json_option
def reject(
    client: ClientOptions,
    request_id: str,
    yes: bool,
    hours: int,
    principal: str,
    origin: str,
    policy_version: int | None,
) -> None:
    """Reject: one rejection by somebody who is asked ends the request."""
    with _open(client, principal) as adytum:
        reviews = _reviewed(adytum, [request_id], policy_version)
        _confirm(reviews, "Reject", yes)
        approver = _approver(client, adytum, principal, origin)
        view = adytum.approvals.reject(reviews[0], approver, valid_ms=hours * _HOUR_MS)
    _report({request_id: view})


def _open(client: ClientOptions, principal: str) -> Adytum:
    if not client.tenant:
        raise click.UsageError("--tenant is needed")
    return client.open(needs_signer=not principal)


def _reviewed(adytum: Adytum, request_ids: Sequence[str], policy_version: int | None) -> list[Review]:
    reviews = [adytum.approvals.review(request_id) for request_id in dict.fromkeys(request_ids)]
    versions = {review.policy_version for review in reviews}
    if policy_version is not None and versions != {policy_version}:
        raise click.ClickException(f"the service says that policy version {max(versions)} is in force")
    return reviews


def _confirm(reviews: Sequence[Review], verb: str, yes: bool) -> None:
    if yes:
        return
    if is_json():
        raise click.UsageError("--json asks nothing: give --yes as well")
    for review in reviews:
        click.echo(_shown(review))
        click.echo("")
    what = "this request" if len(reviews) == 1 else f"these {len(reviews)} requests"
    click.confirm(f"{verb} {what}?", abort=True)


def _approver(client: ClientOptions, adytum: Adytum, principal: str, origin: str) -> Approver:
    if not principal:
        return KeyApprover(client.signer())
    _, policy, _ = read_policy(adytum.get_policy().envelope)
    rp_id, origins, credentials = passkeys_of(policy, principal)
    if origin and origin not in origins:
        raise click.UsageError(f"--origin is not one of the policy's: {', '.join(origins)}")
    return DeviceApprover(
        rp_id=rp_id,
        origin=origin or origins[0],
        credentials=credentials,
        tell=lambda text: click.echo(text, err=True),
        ask_pin=lambda: str(click.prompt("PIN of the security key", hide_input=True, err=True)),
    )


def _report(found: dict[str, RequestView] | dict[str, RequestView | RefusedError]) -> None:
    shown: list[str] = []
    data: list[dict[str, Any]] = []
    failed = False
    for request_id, given in found.items():
        if isinstance(given, RefusedError):
            failed = True
            data.append({"request_id": request_id, "error": {"code": given.code.value, "text": given.code.text}})
            shown.append(f"{request_id}  refused: {given}")
        else:
            data.append(as_json(given))
            shown.append(facts(standing(given)))
    say({"requests": data}, "\n\n".join(shown))
    if failed:
        click.get_current_context().exit(1)


def _shown(review: Review) -> str:
    """What is signed, as far as it is known here: nothing of it is the host's word but the last lines."""
    then = review.receipt.receipt.policy_version
    policy = f"{review.policy_version}" + ("" if review.policy_version == then else f" (asked under {then})")
    pairs: dict[str, object] = {
        "request": review.request_id,
        "digest": review.digest.hex(),
        "asked by": review.initiator,
        "operation": operation_of(review.body),
    }
    key_id = getattr(review.body, "key_id", "")
    if key_id:
        pairs["key"] = key_id
    if getattr(review.body, "path", ""):
        pairs["path"] = getattr(review.body, "path", "")
    pairs |= {f"  {name}": value for name, value in review.summary.items()}
    pairs["policy"] = policy
    return facts(pairs) + "\n" + facts({"wanted": standing(review.view).get("wanted", "nothing more")})


def _as_json(review: Review) -> dict[str, Any]:
    return {
        "request_id": review.request_id,
        "digest": review.digest.hex(),
        "initiator": review.initiator,
        "operation": operation_of(review.body),
        "body": review.raw.decode(),
        "summary": dict(review.summary),
        "policy_version": review.policy_version,
        "asked_under": review.receipt.receipt.policy_version,
        "host": as_json(review.view),
    }
