"""What a host may try with checkpoints: forge one, show an old one as the newest, show another boot's, and cut the
chain behind the newest that anybody holds. A checkpoint proves what it says and nothing else.
"""

from __future__ import annotations

import json

import pytest
from wallet import Wallet

from adytum_verify import Head, checkpoint_line, verify_chain, verify_checkpoint
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply


async def trail(wallet: Wallet, count: int) -> list[bytes]:
    for _ in range(count):
        assert isinstance(await wallet.sign(), ExecuteReply)
    found: list[bytes] = []
    while more := await wallet.stack.client.get_receipts(len(found) + 1):
        found += more
    return found


async def receipt_key(wallet: Wallet) -> bytes:
    return bytes.fromhex((await wallet.binding()).receipt_key)


async def test_a_checkpoint_says_where_the_chain_stands(wallet: Wallet) -> None:
    key, envelopes = await receipt_key(wallet), await trail(wallet, 3)
    found = verify_checkpoint(await wallet.stack.client.checkpoint(), receipt_key=key)
    report = verify_chain(envelopes, receipt_key=key)
    assert report.head == Head(sequence=found.sequence, link=found.link)
    assert (found.chain, found.sequence) == (report.chain, len(envelopes))
    assert found.time_ms >= report.last_time_ms


async def test_a_forged_checkpoint_is_refused(wallet: Wallet) -> None:
    key, envelopes = await receipt_key(wallet), await trail(wallet, 2)
    before = await wallet.state()
    outer = json.loads(await wallet.stack.client.checkpoint())
    body = json.loads(outer["body"])
    for changes in ({"sequence": 1}, {"sequence": 99}, {"head": "00" * 32}, {"time": 0}, {"chain": "00" * 16}):
        forged = json.dumps(outer | {"body": json.dumps(body | changes)}).encode()
        with pytest.raises(AdytumError) as caught:
            verify_checkpoint(forged, receipt_key=key)
        assert caught.value.code is Code.RECEIPT_INVALID
        report = verify_chain([*envelopes, checkpoint_line(forged)], receipt_key=key)
        assert report.problem is not None
        assert (report.problem.defect.value, report.problem.subject) == ("forged", "checkpoint")
    assert await wallet.state() == before


async def test_an_older_checkpoint_shown_as_the_newest_hides_nothing_from_who_holds_a_newer(wallet: Wallet) -> None:
    key, first = await receipt_key(wallet), await trail(wallet, 2)
    older = await wallet.stack.client.checkpoint()
    whole = await trail(wallet, 3)
    newer = await wallet.stack.client.checkpoint()
    cut = whole[: len(first)]
    shown = verify_chain([*cut, checkpoint_line(older)], receipt_key=key)
    shown.require_intact()  # it was true then,
    assert shown.newest_checkpoint is not None
    assert shown.newest_checkpoint.sequence == len(first)  # and says itself up to where
    assert shown.newest_checkpoint.time_ms < verify_checkpoint(newer, receipt_key=key).time_ms
    for chain in (cut, [*cut, checkpoint_line(older)]):
        report = verify_chain(chain, receipt_key=key, checkpoints=[newer])
        assert report.problem is not None
        assert (report.problem.defect.value, report.problem.sequence) == ("truncated", len(first) + 1)
    verify_chain(whole, receipt_key=key, checkpoints=[older, newer]).require_intact()


async def test_a_checkpoint_of_another_boot_says_nothing_about_this_one(wallet: Wallet) -> None:
    await trail(wallet, 2)
    earlier, old_key = await wallet.stack.client.checkpoint(), await receipt_key(wallet)
    await wallet.stack.restart_enclave()
    await wallet.stack.configure()
    await wallet.stack.put_policy(wallet.document)
    key, envelopes = await receipt_key(wallet), await trail(wallet, 1)
    assert key != old_key
    with pytest.raises(AdytumError) as caught:
        verify_checkpoint(earlier, receipt_key=key)
    assert caught.value.code is Code.RECEIPT_INVALID
    report = verify_chain([*envelopes, checkpoint_line(earlier)], receipt_key=key)
    assert report.problem is not None
    assert report.problem.defect.value == "unattested"
    chain = verify_chain(envelopes, receipt_key=key).chain
    held = verify_chain(envelopes, receipt_key=key, chain=chain, checkpoints=[earlier])  # a copy of many boots
    held.require_intact()
    assert held.checkpoints == 0


async def test_an_enclave_without_a_manifest_gives_no_checkpoint(wallet: Wallet) -> None:
    """Its receipt key is bound by no document yet."""
    await wallet.stack.restart_enclave()
    with pytest.raises(AdytumError) as caught:
        await wallet.stack.client.checkpoint()
    assert caught.value.code is Code.PHASE_INVALID
