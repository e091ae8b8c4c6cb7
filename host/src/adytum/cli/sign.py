"""`adytum sign`: sign with a key in the enclave."""

from __future__ import annotations

import base64
import sys
from typing import Any

import click
import msgspec

from adytum.cli.groups import Group
from adytum.cli.options import ClientOptions, client_options
from adytum.cli.output import facts, json_option, say
from adytum.client.checks import Answer
from adytum.client.conversation import Network
from adytum_wire import limits
from adytum_wire.results import SignResult


@click.group(cls=Group)
def sign() -> None:
    """Sign transactions with a key in the enclave. The answer is verified (receipt, signature, content) before you
    see it."""


@sign.command()
@client_options
@click.argument("key_id")
@click.argument("unsigned")
@click.option("--path", default="", help="For a seed: the path of the key that signs.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def ethereum(client: ClientOptions, key_id: str, unsigned: str, path: str, request_id: str) -> None:
    """Sign an Ethereum transaction.

    UNSIGNED is hex: 0x02||rlp(9 fields) (EIP-1559), or rlp(9 fields) with chain id, 0, 0 (EIP-155); "-" reads it from
    standard input. The enclave decodes it, and the policy decides over what was decoded.
    """
    with client.open() as adytum:
        _say(adytum.sign_ethereum(key_id, _hex(unsigned), path=path, request_id=request_id))


@sign.command()
@client_options
@click.argument("key_id")
@click.argument("psbt")
@click.option("--taproot", is_flag=True, help="Sign the P2TR inputs (BIP-340), not the others.")
@click.option(
    "--network",
    type=click.Choice(["mainnet", "testnet", "regtest"]),
    default="mainnet",
    show_default=True,
    help="The chain that addresses are of.",
)
@click.option("--path", default="", help="For a seed: the account, as in m/84'/0'/0'.")
@click.option("--request-id", default="", help="A name of your own for the request; never used before.")
@json_option
def bitcoin(
    client: ClientOptions,
    key_id: str,
    psbt: str,
    taproot: bool,
    network: Network,
    path: str,
    request_id: str,
) -> None:
    """Sign the inputs of a Bitcoin transaction (PSBT) that are the key's.

    PSBT is base64, version 0 or 2; "-" reads it from standard input. Every input must be the key's own, or with --path
    lie where the PSBT says; the enclave derives each key and compares.
    """
    with client.open() as adytum:
        _say(
            adytum.sign_psbt(key_id, _base64(psbt), taproot=taproot, network=network, path=path, request_id=request_id)
        )


def _say(answer: Answer) -> None:
    result: dict[str, Any] = msgspec.to_builtins(answer.result)
    encoded = answer.result.encoded if isinstance(answer.result, SignResult) else {}
    say(
        {"result": result, "receipt": answer.receipt_bytes.decode()},
        facts({**answer.receipt.receipt.summary, **encoded, "request_id": result["request_id"]}),
    )


def _read(text: str) -> str:
    return (sys.stdin.read(2 * limits.MAX_CONTENT + 16) if text == "-" else text).strip()


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(_read(text).removeprefix("0x"))
    except ValueError:
        raise click.BadParameter("want hex", param_hint="UNSIGNED") from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(_read(text), validate=True)
    except ValueError:
        raise click.BadParameter("want base64", param_hint="PSBT") from None
