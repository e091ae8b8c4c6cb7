"""`adytum keys enable|disable|delete|cancel-deletion|destroy`: the life of a key, each step a signed request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.client.checks import Answer

_request_id = click.option("--request-id", default="", help="A name of your own for the request; never used before.")
Decorator = Callable[[Any], Any]


def _step(name: str, *options: Decorator) -> Callable[[Callable[..., None]], click.Command]:
    """A command on one key: `options` are its own, between what all of them take."""
    decorators: list[Decorator] = [
        json_option,
        _request_id,
        *reversed(options),
        click.argument("key_id"),
        client_options,
    ]

    def make(function: Callable[..., None]) -> click.Command:
        for decorate in decorators:
            function = decorate(function)
        return click.command(name)(function)

    return make


def add_to(group: click.Group) -> None:
    for command in (enable, disable, delete, cancel_deletion, destroy):
        group.add_command(command)


@_step("enable")
def enable(client: ClientOptions, key_id: str, request_id: str) -> None:
    """Make a disabled key active again."""
    _carry_out(client, lambda adytum: adytum.enable_key(key_id, request_id=request_id))


@_step("disable")
def disable(client: ClientOptions, key_id: str, request_id: str) -> None:
    """Let the enclave use the key for nothing until it is enabled again."""
    _carry_out(client, lambda adytum: adytum.disable_key(key_id, request_id=request_id))


@_step(
    "delete",
    click.option(
        "--days", type=click.IntRange(7, 30), default=30, show_default=True, help="Until it can be destroyed."
    ),
)
def delete(client: ClientOptions, key_id: str, days: int, request_id: str) -> None:
    """Begin the waiting period of a deletion. The key is used for nothing from now on; `cancel-deletion` undoes it."""
    _carry_out(client, lambda adytum: adytum.schedule_deletion(key_id, days, request_id=request_id))


@_step("cancel-deletion")
def cancel_deletion(client: ClientOptions, key_id: str, request_id: str) -> None:
    """Keep a key whose deletion is pending. It is disabled then; `enable` makes it active."""
    _carry_out(client, lambda adytum: adytum.cancel_deletion(key_id, request_id=request_id))


@_step(
    "destroy",
    click.option(
        "--yes-destroy", is_flag=True, help="Needed: the key cannot be had again, but from a recovery envelope."
    ),
)
def destroy(client: ClientOptions, key_id: str, yes_destroy: bool, request_id: str) -> None:
    """Delete a key for good, after its waiting period: its sealed record and recovery envelope are destroyed.

    `adytum keys list --due` names the keys whose waiting period is over. Backups keep what they hold: let them expire.
    """
    if not yes_destroy:
        raise click.UsageError("a destroyed key cannot be had again; add --yes-destroy")
    with client.open() as adytum:
        answer = adytum.delete_key(key_id, request_id=request_id)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    shown = {"key_id": key_id, "state": "deleted", "record_version": result["record_version"]}
    say({"result": result, "receipt": answer.receipt_bytes.decode()}, facts(shown))


def _carry_out(client: ClientOptions, ask: Callable[[Any], Answer]) -> None:
    with client.open() as adytum:
        answer = ask(adytum)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    shown = {name: result[name] for name in ("key_id", "state", "record_version")}
    if result["delete_after"]:
        shown["can be destroyed after"] = _moment(result["delete_after"])
    say({"result": result, "receipt": answer.receipt_bytes.decode()}, facts(shown))


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="minutes")
