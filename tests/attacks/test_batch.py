"""What a host or a client may try with a batch: lend a stamp to another request, mix stamps and bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from wallet import allow_everything

from adytum.client import RefusedError
from adytum.client.checks import Answer
from adytum.service.admit import format_stamp
from adytum.service.batch import write_batch
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import Stack, running_stack
from adytum_wire.errors import Code


def generate(stack: Stack, **fields: Any) -> bytes:
    request = {"algorithm": "secp256k1", "labels": ["treasury"]} | fields
    return request_body("acme", "generate_key", stack.now_ms(), **request)


async def send(host: Host, items: list[tuple[bytes, str]]) -> list[str]:
    """The code of each answer, "" for a success."""
    async with httpx.AsyncClient(base_url=host.service.base_url, timeout=60, trust_env=False) as http:
        came = await http.post("/v1/batch", content=write_batch(items))
    assert came.status_code == 200
    return [one["answer"].get("error", {}).get("code", "") for one in came.json()["answers"]]


def stamped(person: Person, raw: bytes) -> str:
    return format_stamp(person.stamp(raw))


async def test_an_item_of_a_batch_cannot_borrow_another_items_stamp(short_directory: Path) -> None:
    """Only the body that was stamped passes, under the rights of who stamped it, whatever stands beside it."""
    alice, mallory = Person.new("alice"), Person.new("mallory")
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False) as host,
        host.client(alice) as client,
    ):
        sessions = allow_everything("sessions", operations=["open_session"], labels="*")
        people = [alice.as_principal("signer"), mallory.as_principal()]
        await client.put_policy(signed_policy(stack.policy(people, [allow_everything(), sessions]), *stack.admins))
        invalid, denied = Code.STAMP_INVALID.value, Code.POLICY_DENIED.value

        # swapped between two good requests; lent to a third; the third alone with its own stamp
        first, second, third = (generate(stack) for _ in range(3))
        good, other = stamped(alice, first), stamped(alice, second)
        assert await send(host, [(first, other), (second, good), (third, good)]) == [invalid] * 3
        # a stranger's request between two of Alice's, under their stamps and under its own
        theirs = generate(stack)
        items = [(first, good), (theirs, good), (theirs, stamped(mallory, theirs)), (second, other)]
        assert await send(host, items) == ["", invalid, denied, ""]
        # a body with other bytes and the same meaning; two bodies in one item
        spaced = third.replace(b",", b", ", 1)
        assert await send(host, [(spaced, stamped(alice, third)), (third + third, stamped(alice, third))]) == [
            invalid,
            Code.REQUEST_INVALID.value,
        ]
        assert len(await host.records()) == 2

        # by a session the same, and an enclave that has forgotten it gets the client's own stamp for each
        await client.open_session(ttl_seconds=600)
        under_session = [generate(stack) for _ in range(3)]
        assert all(isinstance(one, Answer) for one in await client.batch(under_session))
        await stack.restart_enclave()
        await host.service.ready(60)
        after = [generate(stack) for _ in range(3)]
        found = await client.batch([*after, under_session[0]])
        assert all(isinstance(one, Answer) for one in found), found
        async with host.client(mallory) as stranger:
            refused = await stranger.batch([generate(stack), generate(stack)])
        assert all(isinstance(one, RefusedError) and one.code is Code.POLICY_DENIED for one in refused)
        assert len(await host.records()) == 8
