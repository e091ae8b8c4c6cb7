"""The enclave's port under an honest peer and under every trick that the host can play with bytes and time."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adytum_enclave.shell.server import Incoming
from adytum_wire import limits

_spec = importlib.util.spec_from_file_location("transport_raw_peer", Path(__file__).with_name("raw_peer.py"))
assert _spec is not None and _spec.loader is not None
raw_peer: Any = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, raw_peer)
_spec.loader.exec_module(raw_peer)
echo, keep, request, rig = raw_peer.echo, raw_peer.keep, raw_peer.request, raw_peer.rig

NO_SUCH_FAULT = [
    (b"\xad\x71" + request(5)[2:], "magic"),
    (request(5, version=2), "version"),
    (request(5, flags=1), "flags"),
    (request(0), "request_id"),
    (request(5, b"abc")[:-1] + b"d", "crc32"),
    (request(5)[:3] + b"\x02" + request(5)[4:], "kind"),
    (request(5)[:18] + (limits.MAX_PAYLOAD + 1).to_bytes(4, "big") + request(5)[22:], "payload_length"),
]


async def test_echo() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.send(request(9, b"hello"))
        assert await peer.reply() == (9, b"hello")
        assert made.port.in_flight == 0


async def test_frames_of_one_read_are_one_batch() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.send(b"".join(request(number, b"x") for number in range(1, 51)))
        assert [(await peer.reply())[0] for _ in range(50)] == list(range(1, 51))
        assert len(made.batches) == 1


async def test_answers_may_come_in_any_order() -> None:
    async with rig(keep) as made:
        peer = await made.peer()
        peer.send(request(1, b"a") + request(2, b"b") + request(3, b"c"))
        await made.until(lambda: len(made.taken) == 3)
        for index in (1, 2, 0):
            made.taken[index].reply(made.taken[index].payload)
        assert [await peer.reply() for _ in range(3)] == [(2, b"b"), (3, b"c"), (1, b"a")]


async def test_a_largest_request_and_reply_pass() -> None:
    async with rig() as made:
        peer = await made.peer()
        payload = bytes(range(256)) * (limits.MAX_PAYLOAD // 256)
        peer.send(request(1, payload))
        assert await peer.reply() == (1, payload)


# --- one connection cannot hurt another


async def test_silent_connection_does_not_delay_another() -> None:
    async with rig() as made:
        silent = await made.peer()
        silent.send(request(1, b"never ends")[:-1])
        peer = await made.peer()
        peer.send(request(1, b"hello"))
        assert await peer.reply(within_s=0.5) == (1, b"hello")


@pytest.mark.parametrize(("frame", "field"), NO_SUCH_FAULT, ids=[field for _, field in NO_SUCH_FAULT])
async def test_broken_frame_ends_only_its_connection(frame: bytes, field: str) -> None:
    async with rig() as made:
        other, peer = await made.peer(), await made.peer()
        peer.send(frame)
        request_id, refusal = await peer.refusal()
        assert (request_id, refusal["code"], refusal["field"]) == (0, "FRAME_INVALID", field)
        await peer.assert_closed()
        assert (made.taken, made.port.broken, made.port.in_flight) == ([], 1, 0)
        other.send(request(1, b"still here"))
        assert await other.reply() == (1, b"still here")


async def test_requests_before_a_broken_frame_are_answered() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.send(request(1, b"good") + request(2, version=7) + request(3, b"never"))
        assert await peer.reply() == (1, b"good")
        assert (await peer.refusal())[0] == 0
        await peer.assert_closed()
        assert len(made.taken) == 1


async def test_slow_loris_is_closed_although_it_drips() -> None:
    async with rig(frame_timeout_s=1.0) as made:
        peer = await made.peer()
        clock = asyncio.get_running_loop().time
        started = clock()
        for byte in request(1, b"x" * 4)[:8]:
            peer.send(bytes([byte]))
            await asyncio.sleep(0.06)
        request_id, refusal = await peer.refusal()
        assert (request_id, refusal["code"], refusal["field"]) == (0, "DEADLINE_EXCEEDED", "frame")
        assert 0.99 < clock() - started < 1.35  # counted from the first byte, not from the last
        await peer.assert_closed()
        assert (made.port.stalled, made.taken) == (1, [])


async def test_slow_loris_that_pads_with_whole_frames_is_served_and_not_closed() -> None:
    """The bound is per frame: a busy connection that is always in the middle of one is honest."""
    async with rig(frame_timeout_s=0.5) as made:
        peer = await made.peer()
        stream = b"".join(request(number, b"x" * 10) for number in range(1, 31))
        for position in range(0, len(stream), 30):  # never on the edge of a frame until the end
            peer.send(stream[position : position + 30])
            await asyncio.sleep(0.02)
        assert [(await peer.reply())[0] for _ in range(30)] == list(range(1, 31))
        assert made.port.stalled == 0


async def test_idle_connection_between_frames_is_kept() -> None:
    async with rig(frame_timeout_s=0.05) as made:
        peer = await made.peer()
        peer.send(request(1))
        await peer.reply()
        await asyncio.sleep(0.2)
        peer.send(request(2))
        assert (await peer.reply())[0] == 2


async def test_truncated_frame_and_end_of_stream() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.send(request(1, b"cut")[:-1])
        peer.writer.write_eof()
        await peer.assert_closed()
        assert (made.taken, made.port.connections) == ([], 0)


async def test_peer_that_does_not_read_is_paused_then_closed() -> None:
    async with rig(frame_timeout_s=0.3, max_in_flight=1024) as made:
        peer, other = await made.peer(), await made.peer()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        frames = 4 * limits.MAX_UNSENT // limits.MAX_PAYLOAD
        for number in range(1, frames + 1):
            peer.send(request(number, bytes(limits.MAX_PAYLOAD)))
        await made.until(lambda: made.port.stalled == 1)
        assert made.port.connections == 1
        # It was paused: what it could make the enclave hold is far below what it asked for.
        assert len(made.taken) * limits.MAX_PAYLOAD < limits.MAX_UNSENT
        other.send(request(1, b"hello"))
        assert await other.reply() == (1, b"hello")


async def test_peer_that_reads_again_gets_everything() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(1, 41):
            peer.send(request(number, bytes([number]) * limits.MAX_PAYLOAD))
        await asyncio.sleep(0.1)
        assert len(made.taken) < 40
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(1, 41):
            assert await peer.reply() == (number, bytes([number]) * limits.MAX_PAYLOAD)


async def test_answers_beyond_the_bound_to_a_peer_that_does_not_read_close_it() -> None:
    async with rig(keep, max_in_flight=64) as made:
        peer = await made.peer()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        peer.send(b"".join(request(number) for number in range(1, 65)))
        await made.until(lambda: len(made.taken) == 64)
        for incoming in made.taken:
            incoming.reply(bytes(limits.MAX_PAYLOAD))
            await asyncio.sleep(0)
        assert (made.port.stalled, made.port.connections, made.port.in_flight) == (1, 0, 0)


# --- flow


async def test_overflow_is_answered_at_once_with_a_hint() -> None:
    async with rig(keep, max_in_flight=2) as made:
        peer, other = await made.peer(), await made.peer()
        peer.send(request(1) + request(2) + request(3))
        request_id, refusal = await peer.refusal(within_s=0.5)
        assert (request_id, refusal["code"]) == (3, "RESOURCE_EXHAUSTED")
        assert refusal["retry_after_ms"] == limits.RETRY_AFTER_MS
        other.send(request(1))  # the bound holds over all connections
        assert (await other.refusal(within_s=0.5))[1]["code"] == "RESOURCE_EXHAUSTED"
        assert (len(made.taken), made.port.in_flight, made.port.exhausted) == (2, 2, 2)
        made.taken[0].reply(b"done")
        assert await peer.reply() == (1, b"done")
        other.send(request(2))
        await made.until(lambda: len(made.taken) == 3)


async def test_work_of_a_lost_connection_still_counts_until_it_is_answered() -> None:
    """Otherwise a host that reconnects quickly could pile up work without bound."""
    async with rig(keep, max_in_flight=1) as made:
        peer = await made.peer()
        peer.send(request(1))
        await made.until(lambda: len(made.taken) == 1)
        assert not made.taken[0].expired
        peer.close()
        await made.until(lambda: made.port.connections == 0)
        assert made.taken[0].expired
        assert made.port.in_flight == 1
        other = await made.peer()
        other.send(request(1))
        assert (await other.refusal())[1]["code"] == "RESOURCE_EXHAUSTED"
        made.taken[0].reply(b"nobody hears this")
        assert made.port.in_flight == 0
        other.send(request(2))
        await made.until(lambda: len(made.taken) == 2)


async def test_duplicate_of_an_id_in_flight_ends_the_connection() -> None:
    async with rig(keep) as made:
        peer = await made.peer()
        peer.send(request(1, b"first"))
        await made.until(lambda: len(made.taken) == 1)
        peer.send(request(1, b"second"))
        request_id, refusal = await peer.refusal()
        assert (request_id, refusal["code"], refusal["field"]) == (0, "FRAME_INVALID", "request_id")
        await peer.assert_closed()
        assert [incoming.payload for incoming in made.taken] == [b"first"]


async def test_an_id_may_come_again_after_its_answer() -> None:
    async with rig() as made:
        peer = await made.peer()
        for _ in range(2):
            peer.send(request(1, b"x"))
            assert await peer.reply() == (1, b"x")


async def test_a_deadline_that_has_passed_is_refused_without_work() -> None:
    async with rig() as made:
        peer = await made.peer()
        peer.send(request(1, deadline_ms=0))
        request_id, refusal = await peer.refusal()
        assert (request_id, refusal["code"]) == (1, "DEADLINE_EXCEEDED")
        assert (made.taken, made.port.too_late) == ([], 1)


async def test_a_deadline_is_relative_and_clamped() -> None:
    async with rig(keep) as made:
        peer = await made.peer()
        peer.send(request(1, deadline_ms=2**32 - 1) + request(2, deadline_ms=20))
        await made.until(lambda: len(made.taken) == 2)
        far, near = made.taken
        assert far.deadline - asyncio.get_running_loop().time() <= limits.MAX_DEADLINE_MS / 1000
        assert not far.expired
        await made.until(lambda: near.expired)


async def test_connections_over_the_bound_are_turned_away_with_a_word() -> None:
    async with rig(max_connections=1) as made:
        first = await made.peer()
        first.send(request(1))
        await first.reply()
        second = await made.peer()
        request_id, refusal = await second.refusal()
        assert (request_id, refusal["code"]) == (0, "RESOURCE_EXHAUSTED")
        await second.assert_closed()
        first.close()
        await made.until(lambda: made.port.connections == 0)
        third = await made.peer()
        third.send(request(1))
        await third.reply()
        assert (made.port.accepted, made.port.turned_away) == (2, 1)


# --- the handler


async def test_only_the_first_answer_counts() -> None:
    async with rig(keep) as made:
        peer = await made.peer()
        peer.send(request(1))
        await made.until(lambda: len(made.taken) == 1)
        made.taken[0].reply(b"first")
        made.taken[0].reply(b"second")
        assert await peer.reply() == (1, b"first")
        peer.send(request(2))
        await made.until(lambda: len(made.taken) == 2)
        made.taken[1].reply(b"third")
        assert await peer.reply() == (2, b"third")
        assert made.port.in_flight == 0


async def test_an_answer_that_is_too_large_becomes_internal() -> None:
    async with rig(lambda batch: batch[0].reply(bytes(limits.MAX_PAYLOAD + 1))) as made:
        peer = await made.peer()
        peer.send(request(1))
        assert (await peer.refusal())[1]["code"] == "INTERNAL"


async def test_a_handler_that_fails_leaves_nobody_waiting_and_is_reported() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def fail(batch: Sequence[Incoming]) -> None:
        batch[0].reply(b"before")
        raise RuntimeError("secret text")

    async with rig(fail) as made:
        peer = await made.peer()
        peer.send(request(1) + request(2))
        assert await peer.reply() == (1, b"before")
        request_id, payload = await peer.reply()
        assert request_id == 2
        assert msgspec.msgpack.decode(payload)["code"] == "INTERNAL"
        assert b"secret" not in payload
        assert (made.port.in_flight, made.port.handler_failures, len(reported)) == (0, 1, 1)


# --- the end


async def test_graceful_close_answers_what_is_in_flight() -> None:
    async with rig(keep) as made:
        peer, idle = await made.peer(), await made.peer()
        idle.send(request(1, deadline_ms=0))
        await idle.reply()
        peer.send(request(1))
        await made.until(lambda: len(made.taken) == 1)
        made.server.close()
        await idle.assert_closed()
        with pytest.raises(OSError):
            await made.peer()
        peer.send(request(2))
        await asyncio.sleep(0.02)
        assert len(made.taken) == 1
        made.taken[0].reply(b"last")
        assert await peer.reply() == (1, b"last")
        await asyncio.wait_for(made.server.wait_closed(), 1)
        await peer.assert_closed()


# --- sends


class RecordingSocket(socket.socket):
    """A real socket that notes the size of each send and knows no other way to send."""

    sizes: list[int] = []  # noqa: RUF012 (one test uses it, and clears it)

    def send(self, data: Any, *_: Any) -> int:
        count = super().send(data)
        self.sizes.append(len(data))
        return count

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("another way to send")

    sendall = sendmsg = sendto = sendfile = _refuse


class RecordingListener(socket.socket):
    def accept(self) -> tuple[socket.socket, Any]:
        sock, address = super().accept()
        return RecordingSocket(fileno=sock.detach()), address


async def test_no_send_is_larger_than_a_slice_and_small_answers_share_one() -> None:
    RecordingSocket.sizes.clear()
    async with rig(listener_class=RecordingListener, max_in_flight=128) as made:
        peer = await made.peer()
        peer.send(b"".join(request(number, b"x" * 20) for number in range(1, 101)))
        for _ in range(100):
            await peer.reply()
        assert RecordingSocket.sizes == [100 * 46]
        for number in range(1, 6):
            peer.send(request(number, bytes(limits.MAX_PAYLOAD)))
        for _ in range(5):
            await peer.reply()
        assert max(RecordingSocket.sizes) == limits.SLICE
        assert sum(RecordingSocket.sizes) >= 5 * limits.MAX_PAYLOAD


async def test_answers_given_later_in_one_turn_of_the_loop_share_a_send() -> None:
    RecordingSocket.sizes.clear()
    async with rig(keep, listener_class=RecordingListener) as made:
        peer = await made.peer()
        peer.send(b"".join(request(number) for number in range(1, 21)))
        await made.until(lambda: len(made.taken) == 20)
        for incoming in made.taken:
            incoming.reply(b"")
        for _ in range(20):
            await peer.reply()
        assert RecordingSocket.sizes == [20 * 26]
