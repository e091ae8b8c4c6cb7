"""`python -m adytum_sim.bench.signing CONFIG.json`: clients that sign while something else goes on, as a process.

It prints {"ready": true} after the first proven signature and, after SIGTERM, `Summary`. Of each proven signature,
`Heard` is a line of the evidence file: the judge looks for its receipt in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import IO, Final

import click
import msgspec
from msgspec import Struct

from adytum.client import AsyncAdytum
from adytum.client.checks import Answer
from adytum.client.signers import load_signer
from adytum_sim.rotating import PATIENT, Traffic
from adytum_verify import AllowList, anchor_from_pem
from adytum_wire.manifest import manifest_hash
from adytum_wire.receipts import parse_envelope
from adytum_wire.types import sha256

_MAX_SHOWN: Final = 20


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`keys`: a file with the public key (hex) of each key id. `evidence`: the file to write. `clients`: how many sign,
    each with one request under way."""

    url: str
    tenant: str
    signer: str
    keys: str
    allowed_pcrs: list[str]
    roots: str
    manifest: str
    evidence: str
    clients: int


class Heard(Struct, frozen=True, array_like=True):
    """A proven signature: the key, and which receipt proved it. `body`: SHA-256 of the receipt's body, hex."""

    key_id: str
    chain: str
    sequence: int
    body: str


class Summary(Struct, frozen=True, kw_only=True):
    """`signed`: proven. `wrong`: answers that prove something else. `failed`: no answer. `problems`: some of both."""

    signed: int
    wrong: int
    failed: int
    problems: list[str]


def heard_of(key_id: str, answer: Answer) -> Heard:
    receipt = answer.receipt.receipt
    body = sha256(parse_envelope(answer.receipt_bytes).body.encode()).hex()
    return Heard(key_id, receipt.chain, receipt.sequence, body)


def read_evidence(path: Path) -> list[Heard]:
    return [msgspec.json.decode(line, type=Heard) for line in path.read_bytes().splitlines()]


def client_of(config: Config) -> AsyncAdytum:
    return AsyncAdytum(
        config.url,
        config.tenant,
        load_signer(Path(config.signer)),
        expected=AllowList.parse(config.allowed_pcrs),
        anchors=(anchor_from_pem(Path(config.roots).read_bytes()),),
        manifest_hash=manifest_hash(Path(config.manifest).read_bytes()),
        retries=PATIENT,
    )


async def run(config: Config, evidence: IO[bytes]) -> Summary:
    """Until SIGTERM; what is under way then is finished."""
    public_keys = msgspec.json.decode(Path(config.keys).read_bytes(), type=dict[str, str])

    def heard(key_id: str, answer: Answer) -> None:
        evidence.write(msgspec.json.encode(heard_of(key_id, answer)) + b"\n")

    traffic = Traffic(list(public_keys), public_keys=public_keys, heard=heard)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as cleanup:
        clients = [await cleanup.enter_async_context(client_of(config)) for _ in range(config.clients)]
        tasks = [asyncio.create_task(traffic.run(client, number)) for number, client in enumerate(clients)]
        await traffic.more(1)
        click.echo('{"ready": true}')
        await stop.wait()
        traffic.stopped = True
        await asyncio.gather(*tasks)
    problems = [*traffic.wrong, *traffic.failed][:_MAX_SHOWN]
    return Summary(signed=traffic.count, wrong=len(traffic.wrong), failed=len(traffic.failed), problems=problems)


def main(file: Path) -> None:
    config = msgspec.json.decode(file.read_bytes(), type=Config)
    with Path(config.evidence).open("wb") as evidence:
        summary = asyncio.run(run(config, evidence))
    click.echo(msgspec.json.encode(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
