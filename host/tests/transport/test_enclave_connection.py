"""The host's connection against an enclave that the test plays by hand, byte for byte."""

from __future__ import annotations

import asyncio
import socket
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adytum.enclave import EnclaveConnection, UnixEndpoint
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Attest, AttestReply, Done, Execute, Health, Refusal, encode
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme

DONE = encode(Done())


def reply(request_id: int, payload: bytes = DONE, *, kind: int = 2) -> bytes:
    head = struct.pack(">HBBHQII", 0xAD70, 1, kind, 0, request_id, 0, len(payload))
    return head + struct.pack(">I", zlib.crc32(head + payload)) + payload


class PlayedEnclave:
    """Accepts one connection; the test reads requests and writes whatever it likes."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = UnixEndpoint(folder)
        self._connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._folder = folder
        self._server: Any = None
        self._reader: Any = None
        self._writer: Any = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            lambda r, w: self._connected.put_nowait((r, w)), self._folder / "enclave_5001.sock", limit=2**22
        )

    async def open(self, **options: Any) -> EnclaveConnection:
        connection = await EnclaveConnection.open(self.endpoint, 5001, **options)
        self._reader, self._writer = await asyncio.wait_for(self._connected.get(), 1)
        return connection

    async def request(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(2):
            head = await self._reader.readexactly(26)
            magic, version, kind, flags, request_id, deadline_ms, length, crc = struct.unpack(">HBBHQIII", head)
            assert (magic, version, kind, flags) == (0xAD70, 1, 1, 0)
            payload = await self._reader.readexactly(length)
            assert zlib.crc32(head[:22] + payload) == crc
            return request_id, deadline_ms, payload

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def hang_up(self) -> None:
        self._writer.close()

    def pause(self) -> None:
        self._reader._transport.pause_reading()

    def resume(self) -> None:
        self._reader._transport.resume_reading()

    async def stop(self) -> None:
        self._server.close()
        while not self._connected.empty():
            self._connected.get_nowait()[1].close()
        if self._writer is not None:
            self._writer.close()


@pytest.fixture
async def enclave() -> AsyncIterator[PlayedEnclave]:
    with tempfile.TemporaryDirectory(prefix="adytum-") as folder:
        played = PlayedEnclave(Path(folder))
        await played.start()
        yield played
        await played.stop()


def ask(connection: EnclaveConnection, timeout_s: float = 2.0) -> asyncio.Task[Any]:
    return asyncio.ensure_future(connection.call(Health(), timeout_s=timeout_s))


async def fails(task: asyncio.Task[Any], code: Code) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        await asyncio.wait_for(task, 2)
    assert caught.value.code is code
    return caught.value


async def test_a_call_and_its_answer(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    task = asyncio.ensure_future(connection.call(Attest(b"n" * 32), timeout_s=1.5))
    request_id, deadline_ms, payload = await enclave.request()
    assert (request_id, deadline_ms) == (1, 1500)
    assert msgspec.msgpack.decode(payload) == {"type": "attest", "nonce": b"n" * 32}
    enclave.send(reply(1, encode(AttestReply(b"doc", b"{}"))))
    assert await task == AttestReply(b"doc", b"{}")
    assert (connection.in_flight, connection.answers) == (0, 1)
    connection.close()


async def test_answers_find_their_calls_in_any_order(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    tasks = [ask(connection) for _ in range(20)]
    ids = [(await enclave.request())[0] for _ in tasks]
    assert ids == list(range(1, 21))
    for request_id in reversed(ids):
        enclave.send(reply(request_id, encode(AttestReply(b"%d" % request_id, b""))))
    answers = await asyncio.gather(*tasks)
    assert [answer.document for answer in answers] == [b"%d" % request_id for request_id in ids]
    connection.close()


async def test_a_refusal_is_a_value(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    task = ask(connection)
    await enclave.request()
    enclave.send(reply(1, encode(Refusal("POLICY_DENIED", receipt=b"{}"))))
    assert await task == Refusal("POLICY_DENIED", receipt=b"{}")
    connection.close()


async def test_a_late_answer_is_dropped_and_disturbs_nobody(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    late, other = ask(connection, 0.05), ask(connection)
    await enclave.request()
    await fails(late, Code.DEADLINE_EXCEEDED)
    enclave.send(reply(1) + reply(2))
    assert await other == Done()
    assert connection.error is None
    connection.close()


async def test_a_shorter_deadline_after_a_longer_one_is_kept(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    long, short = ask(connection, 60), ask(connection, 0.05)
    await fails(short, Code.DEADLINE_EXCEEDED)
    assert not long.done()
    middle = ask(connection, 0.1)
    await fails(middle, Code.DEADLINE_EXCEEDED)
    connection.close()
    await fails(long, Code.PEER_UNAVAILABLE)


async def test_a_call_without_time_sends_nothing(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    for timeout_s in (0.0, -1.0, 0.0001):
        await fails(ask(connection, timeout_s), Code.DEADLINE_EXCEEDED)
    task = ask(connection, 10_000)
    assert (await enclave.request())[:2] == (1, limits.MAX_DEADLINE_MS)
    enclave.send(reply(1))
    await task
    connection.close()


async def test_a_cancelled_call_leaves_no_trace(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    task = ask(connection)
    await enclave.request()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert connection.in_flight == 0
    other = ask(connection)
    enclave.send(reply(1) + reply(2))
    assert await other == Done()
    connection.close()


async def test_loss_fails_all_in_flight_and_every_later_call(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    tasks = [ask(connection) for _ in range(5)]
    await enclave.request()
    enclave.hang_up()
    for task in tasks:
        await fails(task, Code.PEER_UNAVAILABLE)
    await fails(ask(connection), Code.PEER_UNAVAILABLE)


@pytest.mark.parametrize(
    "broken",
    [
        reply(1)[:-1] + b"\x00",
        reply(1, kind=1),
        reply(2),  # an id that was never asked
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        reply(1)[:18] + b"\xff\xff\xff\xff" + reply(1)[22:],
    ],
    ids=["bit-flip", "request-kind", "unknown-id", "not-a-frame", "4-GiB-length"],
)
async def test_broken_stream_attack_gives_no_answer(enclave: PlayedEnclave, broken: bytes) -> None:
    connection = await enclave.open()
    task = ask(connection)
    await enclave.request()
    enclave.send(broken)
    await fails(task, Code.PEER_UNAVAILABLE)
    assert connection.error is not None
    assert connection.error.code is Code.FRAME_INVALID


async def test_an_answer_that_is_no_reply_fails_its_call_alone(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    first, second = ask(connection), ask(connection)
    enclave.send(reply(1, b"\xc1") + reply(2))
    await fails(first, Code.MESSAGE_INVALID)
    assert await second == Done()
    connection.close()


async def test_the_enclave_may_say_why_it_closes(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    task = ask(connection)
    await enclave.request()
    enclave.send(reply(0, encode(Refusal("RESOURCE_EXHAUSTED", retry_after_ms=50))))
    error = await fails(task, Code.RESOURCE_EXHAUSTED)
    assert error.retry_after_ms == 50


async def test_too_many_calls_are_refused_here(enclave: PlayedEnclave) -> None:
    connection = await enclave.open(max_in_flight=2)
    first, second = ask(connection), ask(connection)
    await asyncio.sleep(0)
    error = await fails(ask(connection), Code.RESOURCE_EXHAUSTED)
    assert error.retry_after_ms == limits.RETRY_AFTER_MS
    enclave.send(reply(1) + reply(2))
    await asyncio.gather(first, second)
    connection.close()


async def test_a_message_that_is_too_large_is_not_sent(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    message = Execute(bytes(limits.MAX_PAYLOAD), Stamp(Scheme.ED25519, b"", b""))
    await fails(asyncio.ensure_future(connection.call(message, timeout_s=1)), Code.FRAME_INVALID)
    task = ask(connection)
    assert (await enclave.request())[0] == 1
    enclave.send(reply(1))
    await task
    connection.close()


async def test_an_answer_that_never_ends_ends_the_connection(
    enclave: PlayedEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_TIMEOUT_MS", 50)
    connection = await enclave.open()
    first, second = ask(connection, 0.2), ask(connection, 5)
    await enclave.request()
    enclave.send(reply(1)[:-1])
    await fails(first, Code.PEER_UNAVAILABLE)
    await fails(second, Code.PEER_UNAVAILABLE)


class RecordingSocket(socket.socket):
    sizes: list[int]

    def send(self, data: Any, *_: Any) -> int:
        self.sizes.append(len(data))
        return super().send(data)

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("another way to send")

    sendall = sendmsg = sendto = sendfile = _refuse


async def test_no_send_is_larger_than_a_slice_and_calls_of_one_turn_share_one(enclave: PlayedEnclave) -> None:
    class Endpoint(UnixEndpoint):
        async def dial(self, port: int) -> socket.socket:
            recording = RecordingSocket(fileno=(await super().dial(port)).detach())
            recording.sizes = sizes
            return recording

    sizes: list[int] = []
    enclave.endpoint = Endpoint(enclave._folder)
    connection = await enclave.open()
    tasks = [ask(connection) for _ in range(50)]
    for _ in tasks:
        enclave.send(reply((await enclave.request())[0]))
    await asyncio.gather(*tasks)
    assert len(sizes) == 1
    big = Execute(bytes(limits.MAX_PAYLOAD - 100), Stamp(Scheme.ED25519, b"", b""))
    enclave.pause()
    tasks = [asyncio.ensure_future(connection.call(big, timeout_s=5)) for _ in range(8)]
    await asyncio.sleep(0.05)
    enclave.resume()
    for _ in tasks:
        enclave.send(reply((await enclave.request())[0]))
    await asyncio.gather(*tasks)
    assert max(sizes) == limits.SLICE
    connection.close()


async def test_an_enclave_that_does_not_read_does_not_fill_the_host(enclave: PlayedEnclave) -> None:
    connection = await enclave.open()
    enclave.pause()
    big = Execute(bytes(limits.MAX_PAYLOAD - 100), Stamp(Scheme.ED25519, b"", b""))
    tasks = [asyncio.ensure_future(connection.call(big, timeout_s=5)) for _ in range(60)]
    await asyncio.sleep(0.05)
    refused = [task for task in tasks if task.done()]
    assert 0 < len(refused) < 60
    for task in refused:
        await fails(task, Code.RESOURCE_EXHAUSTED)
    connection.close()
    await asyncio.gather(*tasks, return_exceptions=True)
