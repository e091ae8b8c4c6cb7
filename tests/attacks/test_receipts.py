"""What a host may try with the audit trail: edit, drop, reorder, duplicate, cut off, fork."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wallet import Wallet

from adytum_verify import verify_chain, verify_receipt
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply


async def history(wallet: Wallet, count: int = 6) -> tuple[list[bytes], bytes]:
    """(envelopes of one boot from its first receipt on, receipt key as attested)."""
    await wallet.stack.restart_enclave()
    await wallet.stack.configure()
    await wallet.stack.put_policy(wallet.document)
    binding = await wallet.binding()
    envelopes = []
    for _ in range(count):
        reply = await wallet.sign()
        assert isinstance(reply, ExecuteReply)
        envelopes.append(reply.receipt)
    return envelopes, bytes.fromhex(binding.receipt_key)


def edit(envelope: bytes, **changes: Any) -> bytes:
    outer = json.loads(envelope)
    outer["body"] = json.dumps(json.loads(outer["body"]) | changes, separators=(",", ":"))
    return json.dumps(outer).encode()


async def test_the_chain_as_it_is_verifies(wallet: Wallet) -> None:
    envelopes, key = await history(wallet)
    report = verify_chain(envelopes, receipt_key=key)
    report.require_intact()
    assert report.is_intact


@pytest.mark.parametrize(
    ("name", "attack", "first_bad"),
    [
        ("edited", lambda e: [*e[:2], edit(e[2], decision="deny"), *e[3:]], 3),
        ("edited summary", lambda e: [*e[:2], edit(e[2], summary={"to": "0x00"}), *e[3:]], 3),
        ("dropped", lambda e: [*e[:2], *e[3:]], 3),
        ("dropped first", lambda e: e[1:], 1),
        ("reordered", lambda e: [*e[:2], e[3], e[2], *e[4:]], 3),
        ("duplicated", lambda e: [*e[:3], e[2], *e[3:]], 4),
    ],
)
async def test_a_changed_trail_is_noticed_and_the_first_bad_record_named(
    wallet: Wallet, name: str, attack: Any, first_bad: int
) -> None:
    envelopes, key = await history(wallet)
    report = verify_chain(attack(envelopes), receipt_key=key)
    assert not report.is_intact, name
    assert report.problem is not None
    assert report.problem.sequence in (first_bad, first_bad - 1), report.problem
    with pytest.raises(AdytumError) as caught:
        report.require_intact()
    assert caught.value.code is Code.RECEIPT_INVALID


async def test_a_forged_receipt_is_refused(wallet: Wallet) -> None:
    envelopes, key = await history(wallet, 2)
    outer = json.loads(envelopes[0])
    for forged in (
        edit(envelopes[0], tenant="umbrella"),
        json.dumps(outer | {"signature": "00" * 64}).encode(),
        json.dumps(outer | {"key": wallet.alice.public_key.hex()}).encode(),
        json.dumps(outer | {"following": ["00" * 32]}).encode(),
        json.dumps(outer | {"body": json.loads(envelopes[1])["body"]}).encode(),
        b"{}",
    ):
        with pytest.raises(AdytumError) as caught:
            verify_receipt(forged, receipt_key=key)
        assert caught.value.code is Code.RECEIPT_INVALID


async def test_a_receipt_of_another_boot_does_not_continue_the_chain(wallet: Wallet) -> None:
    first, key = await history(wallet, 3)
    second, other_key = await history(wallet, 3)
    assert key != other_key
    assert not verify_chain([*first, *second], receipt_key=key).is_intact
