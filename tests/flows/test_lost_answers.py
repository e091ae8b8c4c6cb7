"""Answers get lost: the enclave was signing when the host went away. The trail has no hole all the same."""

from __future__ import annotations

import asyncio
import contextlib

from wallet import Wallet

from adytum_verify import verify_chain, verify_receipt
from adytum_wire.errors import AdytumError
from adytum_wire.messages import ExecuteReply


async def whole_trail(wallet: Wallet) -> list[bytes]:
    """Everything that the enclave remembers, as a host that lost all would fetch it."""
    found: list[bytes] = []
    while more := await wallet.stack.client.get_receipts(len(found) + 1):
        found += more
    return found


async def test_receipts_of_lost_answers_can_be_fetched(wallet: Wallet) -> None:
    answered = [(await wallet.sign()).receipt]
    wallet.stack.kms.faults.set(delay_ms=500)
    cold = await wallet.make()
    lost = asyncio.create_task(wallet.sign(cold))
    await asyncio.sleep(0.1)
    lost.cancel()
    with contextlib.suppress(asyncio.CancelledError, AdytumError):
        await lost
    wallet.stack.client.close()
    await asyncio.sleep(1)
    wallet.stack.kms.faults.reset()
    wallet.stack.reconnect()
    answered.append((await wallet.sign()).receipt)
    trail = await whole_trail(wallet)
    key = bytes.fromhex(verify_receipt(trail[0]).key.hex())
    verify_chain(trail, receipt_key=key).require_intact()
    assert len(trail) == (await wallet.stack.client.health()).receipts
    assert set(answered) <= set(trail)
    assert any(verify_receipt(r).receipt.code == "DEADLINE_EXCEEDED" for r in trail)  # nobody waited: nothing signed


async def test_a_repeat_after_a_lost_answer_has_the_same_bytes(wallet: Wallet) -> None:
    from adytum_sim.people import request_body

    body = request_body("acme", "generate_key", wallet.stack.now_ms(), algorithm="ed25519", labels=["treasury"])
    stamp = wallet.alice.stamp(body)
    first = await wallet.stack.client.execute(body, stamp)
    wallet.stack.client.close()
    wallet.stack.reconnect()
    assert isinstance(first, ExecuteReply)
    assert await wallet.stack.client.execute(body, stamp) == first


async def test_past_the_end_there_is_nothing(wallet: Wallet) -> None:
    count = (await wallet.stack.client.health()).receipts
    assert await wallet.stack.client.get_receipts(count + 1) == []
    assert len(await wallet.stack.client.get_receipts(count)) == 1
