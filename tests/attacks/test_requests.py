"""What a host, or somebody without rights, may try with requests: forge, edit, replay, delay."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from wallet import Wallet, allow_everything, ethereum, refused

from adytum_sim.people import Person, request_body
from adytum_wire import receipts, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme, sha256


def sign_body(wallet: Wallet, **fields: Any) -> bytes:
    request = {"key_id": wallet.key.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": ethereum()} | fields
    issued_at = request.pop("issued_at", wallet.stack.now_ms())
    return request_body("acme", "sign", issued_at, **request)


async def send(wallet: Wallet, body: bytes, stamp: Stamp, **options: Any) -> ExecuteReply | Refusal:
    return await wallet.stack.client.execute(body, stamp, wallet.key.record, **options)


async def test_an_edited_body_is_refused(wallet: Wallet) -> None:
    body = sign_body(wallet)
    stamp = wallet.alice.stamp(body)
    before = await wallet.state()
    for edited in (body.replace(b"acme", b"acmf"), body + b" ", body.replace(b'"v": 1', b'"v":  1'), b""):
        refused(await send(wallet, edited, stamp), Code.STAMP_INVALID, with_receipt=False)
    assert await wallet.state() == before
    assert isinstance(await send(wallet, body, stamp), ExecuteReply)


async def test_a_stamp_by_an_unknown_key_is_refused(wallet: Wallet) -> None:
    body = sign_body(wallet)
    before = await wallet.state()
    for scheme in Scheme:
        stranger = Person.new("alice", scheme)
        refused(await send(wallet, body, stranger.stamp(body)), Code.PRINCIPAL_UNKNOWN, with_receipt=False)
    assert await wallet.state() == before
    # nobody has burnt the request id
    assert isinstance(await send(wallet, body, wallet.alice.stamp(body)), ExecuteReply)


async def test_a_stamp_under_another_name_or_scheme_is_refused(wallet: Wallet) -> None:
    body = sign_body(wallet)
    good = wallet.alice.stamp(body)
    for bad in (
        msgspec.structs.replace(good, public_key=wallet.mallory.public_key),
        msgspec.structs.replace(good, scheme=Scheme.P256),
        msgspec.structs.replace(good, signature=good.signature[:-1]),
        msgspec.structs.replace(good, signature=bytes(64)),
        msgspec.structs.replace(good, public_key=b""),
    ):
        refused(await send(wallet, body, bad), Code.STAMP_INVALID, with_receipt=False)


async def test_a_stamp_for_another_purpose_is_refused(wallet: Wallet) -> None:
    """A signature over the bare body, or over the body as a policy, is not a stamp."""
    from adytum_wire.pae import POLICY, pae

    body = sign_body(wallet)
    for message in (body, pae(POLICY, body)):
        stamp = Stamp(wallet.alice.scheme, wallet.alice.public_key, wallet.alice.sign(message))
        refused(await send(wallet, body, stamp), Code.STAMP_INVALID, with_receipt=False)


async def test_a_principal_without_a_rule_is_denied_and_that_is_recorded(wallet: Wallet) -> None:
    body = sign_body(wallet)
    before = await wallet.state()
    refused(await send(wallet, body, wallet.mallory.stamp(body)), Code.POLICY_DENIED)
    assert await wallet.state() == before


async def test_a_replayed_request_yields_the_same_bytes_and_no_second_receipt(wallet: Wallet) -> None:
    body = sign_body(wallet)
    stamp = wallet.alice.stamp(body)
    first = await send(wallet, body, stamp)
    receipts = (await wallet.stack.client.health()).receipts
    assert isinstance(first, ExecuteReply)
    for _ in range(3):
        assert await send(wallet, body, stamp) == first
    assert (await wallet.stack.client.health()).receipts == receipts


async def test_a_replayed_key_generation_makes_no_second_key(wallet: Wallet) -> None:
    body = request_body("acme", "generate_key", wallet.stack.now_ms(), algorithm="ed25519", labels=["treasury"])
    stamp = wallet.alice.stamp(body)
    first = await wallet.stack.client.execute(body, stamp)
    assert isinstance(first, ExecuteReply)
    assert await wallet.stack.client.execute(body, stamp) == first


async def test_a_request_replayed_after_its_window_is_refused(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet(bounds={"request_past_ms": 1500, "request_future_ms": 1000})
    body = sign_body(wallet)
    stamp = wallet.alice.stamp(body)
    assert isinstance(await send(wallet, body, stamp), ExecuteReply)
    await asyncio.sleep(2)
    refused(await send(wallet, body, stamp), Code.REQUEST_EXPIRED, with_receipt=False)


async def test_a_request_id_used_for_another_body_is_a_conflict(wallet: Wallet) -> None:
    now = wallet.stack.now_ms()
    first = sign_body(wallet, request_id="same-id-0001", issued_at=now)
    other = sign_body(wallet, request_id="same-id-0001", issued_at=now - 1)
    done = await send(wallet, first, wallet.alice.stamp(first))
    assert isinstance(done, ExecuteReply)
    before = await wallet.state()
    reply = refused(await send(wallet, other, wallet.alice.stamp(other)), Code.REQUEST_CONFLICT)
    receipt = receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode())
    assert (receipt.decision, receipt.principal, receipt.request_digest) == ("error", "alice", sha256(other).hex())
    assert await send(wallet, first, wallet.alice.stamp(first)) == done  # the first one's answer and receipt, once more
    assert await wallet.state() == before


async def test_a_request_sent_twice_at_once_has_one_effect(wallet: Wallet) -> None:
    body = request_body("acme", "generate_key", wallet.stack.now_ms(), algorithm="ed25519", labels=["treasury"])
    stamp = wallet.alice.stamp(body)
    wallet.stack.kms.faults.set(delay_ms=200)
    replies = await asyncio.gather(*(wallet.stack.client.execute(body, stamp) for _ in range(3)))
    done = [reply for reply in replies if isinstance(reply, ExecuteReply)]
    assert len(done) == 1
    for reply in replies:
        if isinstance(reply, Refusal):
            assert reply.code == Code.RESOURCE_EXHAUSTED.value
            assert reply.retry_after_ms > 0
            assert reply.receipt == b""  # a repeat is no decision
    assert await wallet.stack.client.execute(body, stamp) == done[0]


@pytest.mark.parametrize(("age_ms", "code"), [(301_000, Code.REQUEST_EXPIRED), (-62_000, Code.REQUEST_FROM_FUTURE)])
async def test_a_request_outside_the_window_is_refused(wallet: Wallet, age_ms: int, code: Code) -> None:
    body = sign_body(wallet, issued_at=wallet.stack.now_ms() - age_ms)
    refused(await send(wallet, body, wallet.alice.stamp(body)), code, with_receipt=False)
    await wallet.assert_still_signs()


async def test_a_request_that_nobody_waits_for_is_not_signed(wallet: Wallet) -> None:
    """The deadline passes while KMS works: dropped before the signing step, and no receipt says `allow`."""
    wallet.stack.kms.faults.set(delay_ms=600)
    body = sign_body(wallet)
    stamp = wallet.alice.stamp(body)
    try:  # whichever side's clock is first says it
        reply = await send(wallet, body, stamp, timeout_s=0.2)
    except AdytumError as error:
        assert error.code is Code.DEADLINE_EXCEEDED
    else:
        assert isinstance(reply, Refusal)
        assert reply.code == Code.DEADLINE_EXCEEDED.value
    await asyncio.sleep(0.8)
    counters = (await wallet.stack.client.health()).counters
    assert counters["executed"] == 1  # the fixture's key
    assert counters["error_DEADLINE_EXCEEDED"] == 1
    wallet.stack.kms.faults.reset()
    assert isinstance(await send(wallet, body, stamp), ExecuteReply)  # the same request may be tried again


async def test_raw_signing_is_not_implied_by_signing(wallet: Wallet) -> None:
    wallet.document["version"] += 1
    wallet.document["rules"] = [allow_everything(operations=["sign"])]
    await wallet.stack.put_policy(wallet.document)
    for content in ({"type": "raw-digest", "digest": "11" * 32}, {"type": "raw-message", "message": "00"}):
        refused(await wallet.sign(content=content), Code.POLICY_DENIED)
    await wallet.assert_still_signs()


async def test_content_that_does_not_decode_strictly_is_refused(wallet: Wallet) -> None:
    good = ethereum()["unsigned"]
    for bad in ("", "02", good + "00", "01" + good[2:], good[:-2], "02c0"):
        reply = await wallet.sign(content={"type": "ethereum-transaction", "unsigned": bad})
        refused(reply, Code.CONTENT_INVALID)
    await wallet.assert_still_signs()


async def test_another_tenant_is_refused(wallet: Wallet) -> None:
    body = request_body("umbrella", "generate_key", wallet.stack.now_ms(), algorithm="ed25519", labels=["treasury"])
    reply = await wallet.stack.client.execute(body, wallet.alice.stamp(body))
    refused(reply, Code.TENANT_UNKNOWN, with_receipt=False)


async def test_a_wrong_import_is_refused_and_nothing_is_stored(wallet: Wallet) -> None:
    """A blob sealed for another request, or to another key, does not open."""
    sealed = {"enc": "09" + "00" * 31, "ciphertext": "00" * 48}
    reply = await wallet.stack.ask(
        wallet.alice,
        "import_key",
        algorithm="secp256k1",
        labels=["treasury"],
        public_key=wallet.key.public_key,
        sealed=sealed,
    )
    assert isinstance(reply, Refusal)
    refused(reply, Code(reply.code))
    assert reply.code in (Code.REQUEST_INVALID.value, Code.RECORD_TAMPERED.value)


async def test_the_receipt_of_a_signature_names_what_was_signed(wallet: Wallet) -> None:
    from adytum_verify import verify_receipt

    reply = await wallet.sign()
    assert isinstance(reply, ExecuteReply)
    receipt = verify_receipt(reply.receipt).receipt
    assert receipt.decision == "allow"
    assert receipt.public_key == wallet.key.public_key
    assert isinstance(results.parse_result(reply.result), results.SignResult)
