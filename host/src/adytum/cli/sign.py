"""`adytum sign`: sign with a key in the enclave."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum_wire import limits
from adytum_wire.results import SignResult


@click.group()
def sign() -> None:
    """Sign with a key in the enclave. The answer is verified (receipt, signature, content) before it is shown."""


@sign.command()
@client_options
@click.argument("key_id")
@click.argument("unsigned")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def ethereum(client: ClientOptions, key_id: str, unsigned: str, request_id: str) -> None:
    """Sign an Ethereum transaction.

    UNSIGNED is hex: 0x02||rlp(9 fields) (EIP-1559), or rlp(9 fields) with chain id, 0, 0 (EIP-155); "-" reads it from
    standard input. The enclave decodes it, and the policy decides over what was decoded.
    """
    with client.open() as adytum:
        answer = adytum.sign_ethereum(key_id, _hex(unsigned), request_id=request_id)
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    encoded = answer.result.encoded if isinstance(answer.result, SignResult) else {}
    say(
        {"result": result, "receipt": answer.receipt_bytes.decode()},
        facts({**answer.receipt.receipt.summary, **encoded, "request_id": result["request_id"]}),
    )


def _hex(text: str) -> bytes:
    if text == "-":
        text = sys.stdin.read(2 * limits.MAX_CONTENT + 16)
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise click.BadParameter("want hex", param_hint="UNSIGNED") from None
