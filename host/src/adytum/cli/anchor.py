"""`adytum usage seal-anchor` and `anchor-policies`: credentials of the anchor's table that only enclaves open."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from adytum.cli.options import FILE, ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.kms_policy.anchor import anchor_policies

_MAX_FILE = 64 * 1024


class _Key(msgspec.Struct, frozen=True):
    AccessKeyId: str
    SecretAccessKey: str


class _Created(msgspec.Struct, frozen=True):
    """What `aws iam create-access-key` prints."""

    AccessKey: _Key


@click.command("seal-anchor")
@client_options
@click.option("--file", type=FILE, help="The output of `aws iam create-access-key`; else both parts are asked for.")
@click.option("--label", "labels", multiple=True, help="A label of the record; may repeat.")
@json_option
def seal_anchor(client: ClientOptions, file: Path | None, labels: tuple[str, ...]) -> None:
    """Seal an access key of the anchor's table to the attested enclave. Destroy every other copy afterwards."""
    if file is None:
        key_id, secret = click.prompt("Access key id"), click.prompt("Secret access key", hide_input=True)
    else:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE)
        try:
            key = msgspec.json.decode(data, type=_Created).AccessKey
        except msgspec.DecodeError:  # its message could show what stands there
            raise click.ClickException(f"{file} is not the output of `aws iam create-access-key`") from None
        key_id, secret = key.AccessKeyId, key.SecretAccessKey
    with client.open() as adytum:
        answer = adytum.seal_anchor(key_id, secret.encode(), labels=labels)
    found = {"tenant": answer.result.tenant, "key_id": answer.result.key_id, "access_key_id": key_id}
    say(found, facts(found), "Sealed. Destroy the file and every other copy of the secret access key.")


@click.command("anchor-policies")
@click.option("--table", required=True, help="The table's ARN.")
@click.option("--user", required=True, help="The ARN of the IAM user whose access key is sealed.")
@click.option("--admin", required=True, help="The ARN of the one role that may change the table and its policy.")
@click.option("--deployment", required=True, help="The manifest's `deployment`.")
@click.option("--tenant", required=True, help="Whose limits.")
def render_anchor_policies(table: str, user: str, admin: str, deployment: str, tenant: str) -> None:
    """Print the user's inline policy and the table's resource policy as one JSON object: `user`, `table`."""
    of_user, of_table = anchor_policies(table=table, user=user, admin=admin, deployment=deployment, tenant=tenant)
    click.echo(json.dumps({"user": of_user, "table": of_table}, indent=2))
