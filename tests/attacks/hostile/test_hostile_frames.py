"""The host changes frames: their headers, their order, their number, their time; and who it lets speak."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from typing import Any

import pytest

from adytum.client.checks import check_answer
from adytum.enclave.client import Backoff, EnclaveClient
from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import UnixEndpoint
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site, signature_of
from adytum_sim.hostile.surface import FRAME_FIELDS
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import HEADER_SIZE, Kind
from adytum_wire.messages import Attest, AttestReply, Execute, ExecuteReply, Hello, Refusal
from adytum_wire.requests import parse_body

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-frames")]

HEADER = struct.Struct(">HBBHQII")
NAMES = ("magic", "version", "kind", "flags", "request_id", "deadline", "payload_length")


def reframed(frame: bytes, *, crc_holds: bool, **changes: int) -> bytes:
    """A frame with other header fields; with a CRC that holds, as a hostile host would send it, or the old one."""
    values = dict(zip(NAMES, HEADER.unpack(frame[: HEADER.size]), strict=True)) | changes
    head = HEADER.pack(*values.values())
    payload = frame[HEADER_SIZE:]
    crc = zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big") if crc_holds else frame[HEADER.size : HEADER_SIZE]
    return head + crc + payload


def spoilt(frame: bytes, field: str) -> list[bytes]:
    if field == "crc32":
        return [frame[:22] + bytes([frame[22] ^ 1]) + frame[23:], frame[:-1] + bytes([frame[-1] ^ 1])]
    value = dict(zip(NAMES, HEADER.unpack(frame[: HEADER.size]), strict=True))[field]
    others = {"payload_length": [limits.MAX_PAYLOAD + 1, 2**32 - 1], "request_id": [0], "deadline": [0]}
    found = [reframed(frame, crc_holds=True, **{field: other}) for other in others.get(field, [value ^ 1, value + 8])]
    return [*found, reframed(frame, crc_holds=False, **{field: value ^ 1})]


@pytest.mark.parametrize("field", FRAME_FIELDS)
async def test_a_changed_request_frame_is_refused(site: Site, field: str) -> None:
    """Each field of the header, with a right and with a wrong CRC: that connection ends, and nothing else."""
    for number in range(len(spoilt(whole_sample(), field))):

        async def hook(_port: int, frame: Any, number: int = number) -> list[bytes | None]:
            return [spoilt(whole(Kind.REQUEST, frame), field)[number]]

        seen = dict(site.ledger.codes)
        site.relay.on_request = hook
        with pytest.raises(AdytumError) as caught:
            await lone(site, Attest(b"n" * 32))
        assert caught.value.code.value in ("PEER_UNAVAILABLE", "DEADLINE_EXCEEDED", "FRAME_INVALID")
        changed = {code for code in site.ledger.codes if site.ledger.codes[code] != seen.get(code, 0)}
        assert changed in ({"FRAME_INVALID"}, {"DEADLINE_EXCEEDED"}), field
        site.relay.honest()


def whole_sample() -> bytes:
    return HEADER.pack(0xAD70, 1, 1, 0, 1, 1000, 1) + b"\0\0\0\0" + b"x"


async def lone(site: Site, message: Any) -> Any:
    """Ask on a connection of its own. A refusal is raised as the error that it is."""
    connection = await EnclaveConnection.open(UnixEndpoint(site.relay.front), limits.CONTROL_PORT)
    try:
        reply = await connection.call(message, timeout_s=0.5)
    finally:
        connection.close()
    if isinstance(reply, Refusal):
        raise AdytumError(Code(reply.code), reply.field)
    return reply


@pytest.mark.parametrize("field", FRAME_FIELDS)
async def test_a_changed_reply_frame_is_refused(site: Site, field: str) -> None:
    """The client ends the connection; what was in flight may be asked again."""
    for number in range(len(spoilt(whole_sample(), field))):
        if (field, number) == ("deadline", 0):
            continue  # 0 is right in a reply

        async def hook(_port: int, frame: Any, number: int = number) -> list[bytes | None]:
            return [spoilt(whole(Kind.REPLY, frame), field)[number]]

        site.relay.on_reply = hook
        with pytest.raises(AdytumError) as caught:
            await lone(site, Hello(1))
        assert caught.value.code.value in ("PEER_UNAVAILABLE", "MESSAGE_INVALID", "DEADLINE_EXCEEDED"), field
        site.relay.honest()


async def test_another_deadline_changes_no_answer(site: Site) -> None:
    """A longer one is cut to the limit, a shorter one refuses before anything is done."""
    for deadline in (1, 2**32 - 1):

        async def hook(_port: int, frame: Any, deadline: int = deadline) -> list[bytes | None]:
            return [reframed(whole(Kind.REQUEST, frame), crc_holds=True, deadline=deadline)]

        message = site.message("sign")
        site.relay.on_request = hook
        reply = await site.pass_on(message)
        assert isinstance(reply, ExecuteReply) or reply.code == "DEADLINE_EXCEEDED"
        assert isinstance(reply, ExecuteReply) or deadline == 1
        site.relay.honest()
        assert signature_of(await site.pass_on(message)) == site.signature


async def test_a_frame_cut_at_every_length_has_no_effect(site: Site) -> None:
    """And what follows on other connections is not disturbed."""
    message = site.message("generate_key")
    receipts = (await site.client.health()).receipts
    size = len(message.body)
    for length in {*range(HEADER_SIZE + 1), *range(HEADER_SIZE, size, 16), size}:

        async def hook(_port: int, frame: Any, length: int = length) -> list[bytes | None]:
            return [whole(Kind.REQUEST, frame)[:length], None]

        site.relay.on_request = hook
        client = a_client(site)
        with pytest.raises(AdytumError) as caught:
            await client.execute(message.body, message.stamp, message.record, timeout_s=0.3)
        # The connection ends, or the client's patience does while the enclave waits for the rest: whichever is first.
        assert caught.value.code.value in ("PEER_UNAVAILABLE", "DEADLINE_EXCEEDED")
        client.close()
        site.relay.honest()
    assert (await site.client.health()).receipts == receipts
    assert isinstance(await site.pass_on(message), ExecuteReply)


def a_client(site: Site) -> EnclaveClient:
    return EnclaveClient(UnixEndpoint(site.relay.front), backoff=Backoff(first=0.0, most=0.0))


async def test_an_answer_that_is_dropped_or_cut_can_be_had_again(site: Site) -> None:
    """The same request yields the same bytes; nothing was done twice."""
    for cut in (0, 1, HEADER_SIZE, HEADER_SIZE + 100):

        async def hook(_port: int, frame: Any, cut: int = cut) -> list[bytes | None]:
            return [whole(Kind.REPLY, frame)[:cut], None]

        message = site.message("generate_key")
        site.relay.on_reply = hook
        client = a_client(site)
        with pytest.raises(AdytumError) as caught:
            await client.execute(message.body, message.stamp, message.record, timeout_s=2)
        assert caught.value.code.value == "PEER_UNAVAILABLE"
        client.close()
        site.relay.honest()
        again = await site.pass_on(message)
        assert isinstance(again, ExecuteReply)
        assert again == await site.pass_on(message)


async def test_a_frame_sent_twice_has_one_effect(site: Site) -> None:
    """Replay under the same id ends the connection; under another id it yields the same bytes or is told to wait."""
    answers: list[bytes] = []

    async def double(_port: int, frame: Any) -> list[bytes | None]:
        twin = reframed(whole(Kind.REQUEST, frame), crc_holds=True, request_id=frame.request_id + 1000)
        return [whole(Kind.REQUEST, frame) + twin]

    async def collect(_port: int, frame: Any) -> list[bytes | None]:
        answers.append(frame.payload)
        return [whole(Kind.REPLY, frame)] if frame.request_id < 1000 else []

    site.relay.on_request, site.relay.on_reply = double, collect
    message = site.message("generate_key")
    reply = await site.pass_on(message)
    site.relay.honest()
    if isinstance(reply, Refusal):
        assert reply.code == "RESOURCE_EXHAUSTED"
        reply = await site.pass_on(message)
    assert isinstance(reply, ExecuteReply)
    assert reply == await site.pass_on(message)

    async def same_id(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REQUEST, frame) * 2]

    site.relay.on_request = same_id
    with pytest.raises(AdytumError):
        await lone(site, Attest(b"n" * 32))
    assert site.ledger.codes["FRAME_INVALID"] >= 1


async def test_frames_in_another_order_change_no_answer(site: Site) -> None:
    """Reorder: the host holds a request back until a later one has passed."""
    held: list[bytes] = []

    async def backwards(_port: int, frame: Any) -> list[bytes | None]:
        held.append(whole(Kind.REQUEST, frame))
        return list(reversed(held)) if len(held) == 2 else []

    first, second = site.message("sign"), site.message("sign", which=1)
    site.relay.on_request = backwards
    replies = await asyncio.gather(site.pass_on(first), site.pass_on(second))
    site.relay.honest()
    for message, reply in zip((first, second), replies, strict=True):
        assert isinstance(reply, ExecuteReply)
        check(site, message, reply)


async def test_swapped_answers_of_two_requests_are_noticed(site: Site) -> None:
    """Each client is given the other's genuine answer."""
    held: list[Any] = []

    async def swap(_port: int, frame: Any) -> list[bytes | None]:
        held.append(frame)
        if len(held) < 2:
            return []
        one, two = held
        return [whole(Kind.REPLY, one, two.payload), whole(Kind.REPLY, two, one.payload)]

    first, second = site.message("sign"), site.message("sign", which=1)
    site.relay.on_reply = swap
    replies = await asyncio.gather(site.pass_on(first), site.pass_on(second))
    site.relay.honest()
    for message, reply in zip((first, second), replies, strict=True):
        assert isinstance(reply, ExecuteReply)
        with pytest.raises(AdytumError) as caught:
            check(site, message, reply)
        assert caught.value.code.value == "RECEIPT_INVALID"


async def test_an_answer_of_an_earlier_request_is_noticed(site: Site) -> None:
    """Replay: the genuine answer to the same transfer, asked for before."""
    earlier = await site.send("sign")
    message = site.message("sign")
    assert isinstance(earlier, ExecuteReply)
    with pytest.raises(AdytumError) as caught:
        check(site, message, earlier)
    assert caught.value.code.value == "RECEIPT_INVALID"


def check(site: Site, message: Execute, reply: ExecuteReply) -> None:
    check_answer(message.body, parse_body(message.body), reply.result, reply.receipt, receipt_key=site.receipt_key)


async def test_a_request_held_back_beyond_its_deadline_is_dropped(site: Site) -> None:
    """Delay: the client has given up; whatever the enclave does later, the request has one effect."""

    async def late(_port: int, frame: Any) -> list[bytes | None]:
        await asyncio.sleep(0.4)
        return [whole(Kind.REQUEST, frame)]

    message = site.message("generate_key")
    site.relay.on_request = late
    client = a_client(site)
    with pytest.raises(AdytumError) as caught:
        await client.execute(message.body, message.stamp, message.record, timeout_s=0.2)
    assert caught.value.code.value == "DEADLINE_EXCEEDED"
    await asyncio.sleep(0.4)
    client.close()
    site.relay.honest()
    again = await site.pass_on(message)
    assert isinstance(again, ExecuteReply)
    assert again == await site.pass_on(message)


@pytest.mark.parametrize("operation", ["generate_key", "import_key", "sign", "seal", "unseal", "reseal"])
async def test_a_request_stamped_by_somebody_else_is_refused(site: Site, operation: str) -> None:
    """Forge: the host stamps Alice's body with a key of its own, and has an insider without rights stamp it."""
    honest = site.message(operation)
    by_host = Execute(honest.body, site.stranger.stamp(honest.body), honest.record)
    reply = await site.pass_on(by_host)
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.receipt) == ("PRINCIPAL_UNKNOWN", b"")
    other = site.message(operation, by=site.mallory)
    denied = await site.pass_on(other)
    assert isinstance(denied, Refusal)
    assert denied.code == "POLICY_DENIED"
    assert json.loads(json.loads(denied.receipt)["body"])["principal"] == "mallory"


async def test_an_insider_does_not_get_the_answer_to_somebody_elses_request(site: Site) -> None:
    """Replay by another principal: the memory of answers knows who asked."""
    for operation in ("sign", "generate_key", "unseal"):
        honest = site.message(operation)
        answer = await site.pass_on(honest)
        assert isinstance(answer, ExecuteReply)
        stolen = await site.pass_on(Execute(honest.body, site.mallory.stamp(honest.body), honest.record))
        assert isinstance(stolen, Refusal)
        assert stolen.code == "REQUEST_CONFLICT"
        assert await site.pass_on(honest) == answer


async def test_a_sealed_import_lifted_into_another_request_does_not_open(site: Site) -> None:
    """Relocate: an insider with rights puts a captured blob into a request of its own, also under the captured id."""
    captured = json.loads(site.body("import_key"))
    sealed, name = captured["sealed"], captured["request_id"]
    changes: list[tuple[str, dict[str, Any]]] = [
        ("seal", {}),
        ("import_key", {"public_key": captured["public_key"]}),
        ("seal", {"request_id": name}),
        ("import_file", {"request_id": name}),
        ("open_session", {"request_id": name}),
    ]
    for operation, more in changes:
        reply = await site.send(operation, sealed=sealed, **more)
        assert isinstance(reply, Refusal)
        assert (reply.code, reply.field) == ("REQUEST_INVALID", "$.sealed"), reply


async def test_an_attestation_for_another_nonce_is_not_taken(site: Site) -> None:
    """Replay: two clients ask at once, each is given the other's document."""
    held: list[Any] = []

    async def swap(_port: int, frame: Any) -> list[bytes | None]:
        held.append(frame)
        if len(held) < 2:
            return []
        one, two = held
        return [whole(Kind.REPLY, one, two.payload), whole(Kind.REPLY, two, one.payload)]

    site.relay.on_reply = swap
    first, second = await asyncio.gather(site.client.attest(b"1" * 32), site.client.attest(b"2" * 32))
    assert isinstance(first, AttestReply)
    assert b"2" * 32 in first.document
    assert b"1" * 32 in second.document
