"""Session stamps: a session is its opener's hand, in one boot, for a time, and nothing more."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import Any

import pytest
from memory import found, require_readable
from wallet import Wallet, allow_everything, ethereum, refused

from adytum_sim.people import Person, request_body
from adytum_sim.sessions import OpenedSession, ask_for_session, open_session
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.pae import POLICY, pae
from adytum_wire.requests import SessionStamp


def policy(wallet: Wallet, version: int, alice: Person) -> dict[str, Any]:
    """`alice` may open sessions, besides what she may with keys."""
    sessions = allow_everything("sessions", operations=["open_session"], labels="*")
    principals = [alice.as_principal("signer"), wallet.mallory.as_principal()]
    return wallet.stack.policy(principals, [allow_everything(), sessions], version=version)


@pytest.fixture
async def wallet(wallet: Wallet) -> Wallet:
    await wallet.stack.put_policy(policy(wallet, 6, wallet.alice))
    return wallet


def sign_body(wallet: Wallet, **fields: Any) -> bytes:
    request = {"key_id": wallet.key.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": ethereum()} | fields
    return request_body("acme", "sign", request.pop("issued_at", wallet.stack.now_ms()), **request)


async def send(wallet: Wallet, body: bytes, stamp: Any) -> ExecuteReply | Refusal:
    return await wallet.stack.client.execute(body, stamp, wallet.key.record)


async def test_a_session_signs_what_its_opener_may_and_the_bytes_are_the_same(wallet: Wallet) -> None:
    session = await open_session(wallet.stack, wallet.alice)
    body = sign_body(wallet)
    by_session = await send(wallet, body, session.stamp(body))
    assert isinstance(by_session, ExecuteReply), by_session
    # One request, whoever of the opener's two hands sends it again.
    assert await send(wallet, body, wallet.alice.stamp(body)) == by_session


async def test_a_session_has_no_more_rights_than_its_opener(wallet: Wallet) -> None:
    reply, _ = await ask_for_session(wallet.stack, wallet.mallory)
    refused(reply, Code.POLICY_DENIED)


async def test_a_mac_that_was_changed_cut_or_made_with_another_key_is_refused(wallet: Wallet) -> None:
    session = await open_session(wallet.stack, wallet.alice)
    body = sign_body(wallet)
    good = session.stamp(body)
    before = await wallet.state()
    for at in range(0, 32, 5):
        mac = bytearray(good.mac)
        mac[at] ^= 1
        refused(
            await send(wallet, body, SessionStamp(good.session_id, bytes(mac))), Code.STAMP_INVALID, with_receipt=False
        )
    other = OpenedSession(session.session_id, secrets.token_bytes(32))
    refused(await send(wallet, body, other.stamp(body)), Code.STAMP_INVALID, with_receipt=False)
    elsewhere = SessionStamp(good.session_id, hmac.digest(session.key, pae(POLICY, body), "sha256"))
    refused(await send(wallet, body, elsewhere), Code.STAMP_INVALID, with_receipt=False)
    refused(await send(wallet, sign_body(wallet), good), Code.STAMP_INVALID, with_receipt=False)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_session_nobody_opened_is_refused(wallet: Wallet) -> None:
    body = sign_body(wallet)
    stamp = OpenedSession(bytes(16), bytes(32)).stamp(body)
    refused(await send(wallet, body, stamp), Code.SESSION_UNKNOWN, with_receipt=False)


async def test_the_stamp_of_one_session_under_the_id_of_another_is_refused(wallet: Wallet) -> None:
    first, second = await open_session(wallet.stack, wallet.alice), await open_session(wallet.stack, wallet.alice)
    body = sign_body(wallet)
    crossed = SessionStamp(first.session_id, second.stamp(body).mac)
    refused(await send(wallet, body, crossed), Code.STAMP_INVALID, with_receipt=False)


async def test_a_session_ends_when_it_said_it_would(wallet: Wallet) -> None:
    session = await open_session(wallet.stack, wallet.alice, ttl_ms=1_500)
    body = sign_body(wallet)
    assert isinstance(await send(wallet, body, session.stamp(body)), ExecuteReply)
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        late = sign_body(wallet)
        reply = await send(wallet, late, session.stamp(late))
        if isinstance(reply, Refusal) or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)
    refused(reply, Code.SESSION_EXPIRED, with_receipt=False)
    again = await send(wallet, body, session.stamp(body))
    refused(again, Code.SESSION_EXPIRED, with_receipt=False)


@pytest.mark.parametrize("ttl_ms", [-5_000, -3_600_000, 13 * 3_600_000])  # two clocks: none that is close
async def test_a_session_that_would_be_over_or_last_too_long_is_not_opened(wallet: Wallet, ttl_ms: int) -> None:
    reply, _ = await ask_for_session(wallet.stack, wallet.alice, ttl_ms=ttl_ms)
    assert refused(reply, Code.REQUEST_INVALID).field == "$.expires_at"


@pytest.mark.parametrize("size", [1, 31, 33, 64])
async def test_a_session_key_of_another_length_is_refused(wallet: Wallet, size: int) -> None:
    reply, _ = await ask_for_session(wallet.stack, wallet.alice, key=bytes(size))
    assert refused(reply, Code.REQUEST_INVALID).field == "$.sealed"


async def test_a_session_does_not_open_another_one_and_so_never_ends(wallet: Wallet) -> None:
    session = await open_session(wallet.stack, wallet.alice)
    now = wallet.stack.now_ms()
    body = request_body(
        "acme", "open_session", now, sealed={"enc": "00" * 32, "ciphertext": "00" * 48}, expires_at=now + 1000
    )
    refused(await wallet.stack.client.execute(body, session.stamp(body)), Code.STAMP_INVALID, with_receipt=False)


async def test_a_session_ends_with_the_key_that_opened_it(wallet: Wallet) -> None:
    """Revocation: a policy without the opener's key leaves the session with nobody behind it."""
    session = await open_session(wallet.stack, wallet.alice)
    body = sign_body(wallet)
    assert isinstance(await send(wallet, body, session.stamp(body)), ExecuteReply)
    successor = Person.new("alice")
    await wallet.stack.put_policy(policy(wallet, 7, successor))
    for request in (body, sign_body(wallet)):
        refused(await send(wallet, request, session.stamp(request)), Code.PRINCIPAL_UNKNOWN, with_receipt=False)
    fresh = sign_body(wallet)
    assert isinstance(await send(wallet, fresh, successor.stamp(fresh)), ExecuteReply)


async def test_a_session_does_not_survive_its_boot(wallet: Wallet) -> None:
    session = await open_session(wallet.stack, wallet.alice)
    await wallet.stack.restart_enclave()
    await wallet.stack.configure()
    await wallet.stack.put_policy(policy(wallet, 6, wallet.alice))
    body = sign_body(wallet)
    refused(await send(wallet, body, session.stamp(body)), Code.SESSION_UNKNOWN, with_receipt=False)


async def test_a_sealed_session_key_lifted_into_another_request_does_not_open(wallet: Wallet) -> None:
    now = wallet.stack.now_ms()
    sealed = await wallet.seal("open_session", "s-original-0001", secrets.token_bytes(32))
    body = request_body(
        "acme", "open_session", now, request_id="s-another-00001", sealed=sealed, expires_at=now + 60_000
    )
    refused(await wallet.stack.client.execute(body, wallet.alice.stamp(body)), Code.REQUEST_INVALID)


async def test_an_insider_with_own_session_does_not_get_anothers_answer(wallet: Wallet) -> None:
    body = sign_body(wallet)
    assert isinstance(await send(wallet, body, wallet.alice.stamp(body)), ExecuteReply)
    refused(await send(wallet, body, wallet.mallory.stamp(body)), Code.REQUEST_CONFLICT)


async def test_many_sessions_of_one_key_push_out_their_own_oldest_only(wallet: Wallet) -> None:
    first = await open_session(wallet.stack, wallet.alice)
    sessions = [await open_session(wallet.stack, wallet.alice) for _ in range(64)]
    body = sign_body(wallet)
    refused(await send(wallet, body, first.stamp(body)), Code.SESSION_UNKNOWN, with_receipt=False)
    for session in (sessions[0], sessions[-1]):
        request = sign_body(wallet)
        assert isinstance(await send(wallet, request, session.stamp(request)), ExecuteReply)


async def test_a_session_key_lies_in_the_arena_only_and_leaves_it(wallet: Wallet) -> None:
    """Read the enclave's memory after the session was used, refused and has expired: no copy of its HMAC key."""
    require_readable(wallet)
    session = await open_session(wallet.stack, wallet.alice, ttl_ms=2_000)
    for stamp in (session.stamp, OpenedSession(session.session_id, bytes(32)).stamp):
        body = sign_body(wallet)
        await send(wallet, body, stamp(body))
    # What is kept are the padded blocks: neither the key nor an exclusive-or of it is found outside the arena.
    pads = {name: bytes(byte ^ pad for byte in session.key) for name, pad in (("inner", 0x36), ("outer", 0x5C))}
    assert found(wallet, {"session key": session.key}) == []
    arena = {hit.address // (8 << 20) for hit in found(wallet, pads)}
    assert len(arena) <= 2  # one mapping of 8 MiB, or none where memfd_secret hides it
    assert len({hit.address // 4096 for hit in found(wallet, pads)}) <= 1
    await wallet.stack.restart_enclave()
    assert found(wallet, pads | {"session key": session.key}) == []
