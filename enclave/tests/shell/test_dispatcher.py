"""The dispatcher where things go wrong inside: the host learns a code, and a broken invariant ends the boot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adytum_enclave.core.chain import Draft
from adytum_enclave.core.enclave import Enclave
from adytum_enclave.core.outcome import Outcome
from adytum_enclave.core.phases import Phase
from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell import entropy
from adytum_enclave.shell.dispatcher import Dispatcher
from adytum_enclave.shell.program import _every
from adytum_wire import messages
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Attest, Health, HealthReply, Hello, HelloReply, Refusal


class Asked:
    """A request and its answer."""

    expired = False
    peer_cid = None
    deadline = 1e12

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.answers: list[Any] = []

    def reply(self, payload: bytes) -> None:
        self.answers.append(messages.decode_reply(payload))


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena(64 * 1024)


def dispatcher(arena: Arena, perform: Any = None) -> tuple[Enclave, Dispatcher]:
    enclave = Enclave(arena=arena, now_ms=lambda: 1_795_000_000_000, fill=entropy.fill, build="test")
    return enclave, Dispatcher(enclave, perform, drift_ms=lambda: 0)


def ask(message: Any) -> Asked:
    return Asked(messages.encode(message))


def test_a_message_that_is_not_one_is_refused_and_the_next_is_answered(arena: Arena) -> None:
    _, dispatch = dispatcher(arena)
    bad, good = Asked(b"\xc1"), ask(Hello(messages.PROTOCOL_VERSION))
    dispatch.control([bad, good])
    assert [reply.code for reply in bad.answers] == [Code.MESSAGE_INVALID.value]
    assert isinstance(good.answers[0], HelloReply)
    assert good.answers[0].phase == "awaiting-manifest"


def test_a_message_out_of_phase_is_refused(arena: Arena) -> None:
    _, dispatch = dispatcher(arena)
    attest, health = ask(Attest(b"n" * 32)), ask(Health())
    dispatch.control([attest, health])
    assert attest.answers[0].code == Code.PHASE_INVALID.value
    assert isinstance(health.answers[0], HealthReply)


def test_a_chain_that_cannot_be_signed_ends_the_boot_and_no_answer_leaves(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    enclave, dispatch = dispatcher(arena)
    enclave.phases.step(Phase.MEASURING)
    enclave.phases.step(Phase.READY)

    def broken() -> None:
        raise AdytumError(Code.INTERNAL)

    monkeypatch.setattr(enclave.receipts, "seal", broken)
    waiting = [Asked(b""), Asked(b"")]
    dispatch._ready = [(asked, Outcome(ticket=None, result=b"a signature")) for asked in waiting]  # type: ignore[misc]
    dispatch._flush()
    for asked in waiting:
        assert [reply.code for reply in asked.answers] == [Code.INTERNAL.value]
    assert enclave.phases.now is Phase.TERMINAL


async def test_a_defect_while_an_effect_is_performed_shows_a_code_and_nothing_else(arena: Arena) -> None:
    async def perform(_effect: Any, _deadline: float) -> bytes:
        raise RuntimeError("a secret that must not leave")

    _, dispatch = dispatcher(arena, perform)
    configure = ask(messages.Configure(MANIFEST))
    dispatch.control([configure])
    await asyncio.wait_for(dispatch.drain(), 5)
    assert isinstance(configure.answers[0], Refusal)
    assert configure.answers[0].code == Code.INTERNAL.value
    assert b"secret" not in messages.encode(configure.answers[0])


MANIFEST = (
    b'{"v":1,"deployment":"d","epoch":1,"debug":false,"node_id":"n","kms":{"region":"us-east-1","account":"111122223333",'
    b'"keys":["arn:aws:kms:us-east-1:111122223333:key/k"],"host":"kms.us-east-1.amazonaws.com","port":8000,"roots":["x"],'
    b'"credentials":"pushed"},'
    b'"tenants":[{"id":"acme","kms_key":"arn:aws:kms:us-east-1:111122223333:key/k","threshold":1,"admins":[{"id":"a",'
    b'"scheme":"ed25519","public_key":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}]}],'
    b'"bounds":{"request_past_ms":300000,"request_future_ms":60000,"approval_past_ms":86400000,"key_ttl_seconds":60,"key_max_uses":10,'
    b'"max_warm_keys":10},"anchor":{"kind":"none"}}'
)


def test_what_was_under_way_when_the_boot_ended_is_not_answered_either(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that waited for KMS ends after the chain broke: its receipt hangs on decisions that nobody can see."""
    enclave, dispatch = dispatcher(arena)
    for phase in (Phase.MEASURING, Phase.READY, Phase.TERMINAL):
        enclave.phases.step(phase)
    sealed: list[bool] = []
    monkeypatch.setattr(enclave.receipts, "seal", lambda: sealed.append(True))
    late, stranger = Asked(b""), Asked(b"")
    draft = Draft(tenant="acme", principal="alice", request_id="r", operation="sign", request_digest=bytes(32))
    ticket = enclave.receipts.append(draft, time_ms=1, decision="allow", code="", result_digest="")
    dispatch._ready = [
        (late, Outcome(ticket=ticket, result=b"a signature")),  # type: ignore[list-item]
        (stranger, Outcome(ticket=None, error=AdytumError(Code.PHASE_INVALID))),  # type: ignore[list-item]
    ]
    dispatch._flush()
    assert [reply.code for reply in late.answers] == [Code.INTERNAL.value]
    assert [reply.code for reply in stranger.answers] == [Code.PHASE_INVALID.value]
    assert not sealed


async def test_a_defect_at_one_turn_does_not_end_the_expiry_of_keys() -> None:
    turns = 0
    told: list[str] = []
    third = asyncio.Event()

    def chore() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise RuntimeError("a defect")
        if turns == 3:
            third.set()

    task = asyncio.create_task(_every(0, chore, told.append))
    await asyncio.wait_for(third.wait(), 5)
    task.cancel()
    assert told == ["internal-error"]
