"""The enclave fetches its AWS credentials itself: nothing is pushed, the metadata service of the parent gives them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from wallet import allow_everything

from adytum_enclave.shell.imds import Imds, ImdsError
from adytum_sim.kms.http1 import HttpAnswer, HttpServer
from adytum_sim.people import Person
from adytum_sim.stack import running_stack
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply


async def test_the_enclave_makes_a_key_with_credentials_that_nobody_pushed(short_directory: Path) -> None:
    async with running_stack(short_directory, imds=True) as stack:
        alice = Person.new("alice")
        await stack.put_policy(stack.policy([alice.as_principal("signer")], [allow_everything()]))
        async with asyncio.timeout(30):
            while True:  # as a client does: KMS_UNAVAILABLE says that the same may succeed later
                reply = await stack.ask(alice, "generate_key", algorithm="ed25519", labels=["treasury"])
                if isinstance(reply, ExecuteReply):
                    break
                assert (reply.code, reply.field) == (Code.KMS_UNAVAILABLE.value, "credentials")
                await asyncio.sleep(0.1)
        [made] = [entry for entry in stack.kms.trail if entry["eventName"] == "GenerateDataKey"]
        assert made["userIdentity"]["type"] == "AssumedRole"


@pytest.mark.parametrize(
    "answers",
    [
        [HttpAnswer(status=403, body=b"")],
        [HttpAnswer(status=200, body=b"token"), HttpAnswer(status=404, body=b"")],
        [HttpAnswer(status=200, body=b"token"), HttpAnswer(status=200, body=b"role/../x")],
        [
            HttpAnswer(status=200, body=b"token"),
            HttpAnswer(status=200, body=b"role"),
            HttpAnswer(status=200, body=b"{"),
        ],
        [HttpAnswer(status=200, body=b"token"), HttpAnswer(status=200, body=b"r"), HttpAnswer(status=200, body=b"{}")],
        [HttpAnswer(status=200, body=b"t\r\nX: y")],
        [HttpAnswer(status=200, body=b"\xff")],
        [HttpAnswer(status=200, body=b"x" * 20_000)],
    ],
)
async def test_what_is_no_credential_is_refused_in_one_way(answers: list[HttpAnswer]) -> None:
    left = list(answers)

    async def handle(_request: Any) -> HttpAnswer:
        return left.pop(0)

    server = HttpServer(handle)
    port = await server.start(0)
    try:
        with pytest.raises(ImdsError):
            await Imds(lambda: connected(port)).credentials()
    finally:
        await server.stop()
    assert left == []


async def connected(port: int) -> Any:
    line = socket.socket()
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
    return line
