"""The SDK with a session: cheaper stamps, the same answers, and no trouble when the enclave forgets."""

from __future__ import annotations

from pathlib import Path

import pytest
from wallet import TRANSFER, allow_everything, unsigned

from adytum.client.errors import RefusedError
from adytum_sim.host import running_host
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import running_stack
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm


async def test_a_session_through_the_service(short_directory: Path) -> None:
    alice, mallory = Person.new("alice"), Person.new("mallory")
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False) as host,
        host.client(alice) as client,
        host.client(mallory) as other,
    ):
        rules = [allow_everything(), allow_everything("sessions", operations=["open_session"], labels="*")]
        people = [alice.as_principal("signer"), mallory.as_principal()]
        await client.put_policy(signed_policy(stack.policy(people, rules), *stack.admins))
        transaction = bytes.fromhex(unsigned(TRANSFER))
        opened = await client.open_session(ttl_seconds=600)
        assert opened.receipt.receipt.operation == "open_session"
        key = await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])
        content = {"type": "ethereum-transaction", "unsigned": transaction.hex()}
        fields = {"key_id": key.result.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": content}
        body = request_body("acme", "sign", stack.now_ms(), **fields)
        first = await client.repeat(body)
        with pytest.raises(RefusedError) as denied:
            await other.open_session()
        assert denied.value.code is Code.POLICY_DENIED

        # The enclave starts anew and knows no session: the client's own key stands in, and the answers stay.
        health = await stack.client.health()
        await stack.restart_enclave()
        await host.service.ready(60)
        again = await client.repeat(body)
        assert again.result_bytes == first.result_bytes
        second = await client.sign_ethereum(key.result.key_id, transaction)
        assert second.result.encoded == first.result.encoded
        assert second.receipt.receipt.chain != health.boot_id
        await client.open_session(ttl_seconds=600)
        third = await client.sign_ethereum(key.result.key_id, transaction)
        assert third.result.encoded == first.result.encoded
