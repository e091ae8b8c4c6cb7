"""Bytes that are not frames, frames that never end, and silence: one connection pays, the others do not notice."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from typing import Any

import pytest
from wallet import Wallet

from adytum_wire import limits, messages
from adytum_wire.errors import Code
from adytum_wire.frames import HEADER_SIZE, FrameReader, Kind, encode_frame
from adytum_wire.messages import Execute, Health, Refusal


class Raw:
    """A connection without manners."""

    def __init__(self, wallet: Wallet, port: int = limits.DATA_PORT) -> None:
        self._endpoint, self._port = wallet.stack.endpoint, port
        self._reader = FrameReader(Kind.REPLY)

    async def __aenter__(self) -> Raw:
        sock = await self._endpoint.dial(self._port)
        self.input, self.output = await asyncio.open_connection(sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.output.close()

    async def last_words(self) -> list[Refusal]:
        """Everything that the enclave says until it closes."""
        async with asyncio.timeout(20):
            data = await self.input.read()
        replies = [messages.decode_reply(frame.payload) for frame in self._reader.feed(data)]
        return [reply for reply in replies if isinstance(reply, Refusal)]


def good_frame(wallet: Wallet) -> bytes:
    body = b'{"not":"signed"}'
    return encode_frame(Kind.REQUEST, 7, 5000, messages.encode(Execute(body, wallet.alice.stamp(b""), None)))


def header(**changes: Any) -> bytes:
    """A header with a correct CRC over no payload, whatever it says."""
    field = {"magic": 0xAD70, "version": 1, "kind": 1, "flags": 0, "request_id": 1, "deadline": 1000, "length": 0}
    field |= changes
    head = struct.pack(">HBBHQII", *field.values())
    return head + zlib.crc32(head).to_bytes(4, "big")


async def assert_ends_with(wallet: Wallet, data: bytes, code: Code) -> None:
    before = await wallet.state()
    async with Raw(wallet) as raw:
        raw.output.write(data)
        words = await raw.last_words()
    assert [word.code for word in words][-1:] == [code.value]
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_corrupted_frames_end_their_connection(wallet: Wallet) -> None:
    frame = good_frame(wallet)
    for position in (HEADER_SIZE, HEADER_SIZE + 9, len(frame) - 1, HEADER_SIZE - 1, 8):
        corrupted = frame[:position] + bytes([frame[position] ^ 0x10]) + frame[position + 1 :]
        await assert_ends_with(wallet, corrupted, Code.FRAME_INVALID)


@pytest.mark.parametrize(
    "change", [{"magic": 0xFFFF}, {"version": 2}, {"kind": 2}, {"kind": 9}, {"flags": 1}, {"request_id": 0}]
)
async def test_unknown_headers_end_their_connection(wallet: Wallet, change: dict[str, int]) -> None:
    await assert_ends_with(wallet, header(**change), Code.FRAME_INVALID)


async def test_an_oversized_frame_is_refused_before_it_is_sent(wallet: Wallet) -> None:
    await assert_ends_with(wallet, header(length=limits.MAX_PAYLOAD + 1), Code.FRAME_INVALID)
    await assert_ends_with(wallet, header(length=2**32 - 1), Code.FRAME_INVALID)


async def test_a_truncated_frame_changes_nothing(wallet: Wallet) -> None:
    before = await wallet.state()
    frame = good_frame(wallet)
    for length in (1, HEADER_SIZE - 1, HEADER_SIZE, len(frame) - 1):
        async with Raw(wallet) as raw:
            raw.output.write(frame[:length])
            raw.output.write_eof()
            assert await raw.last_words() == []
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_message_that_is_not_one_is_refused_and_the_connection_lives(wallet: Wallet) -> None:
    async with Raw(wallet) as raw:
        for index, payload in enumerate((b"", b"\xc1", b"\x80", messages.encode(Health())), start=1):
            raw.output.write(encode_frame(Kind.REQUEST, index, 5000, payload))
        raw.output.write(header(version=9))
        words = await raw.last_words()
    assert [word.code for word in words] == [Code.MESSAGE_INVALID.value] * 4 + [Code.FRAME_INVALID.value]


async def test_a_slow_loris_is_cut_off_and_delays_nobody(wallet: Wallet) -> None:
    async with Raw(wallet) as slow, Raw(wallet) as silent:
        slow.output.write(good_frame(wallet)[:40])
        await slow.output.drain()
        start = time.monotonic()
        for _ in range(20):
            await wallet.assert_still_signs()
        assert time.monotonic() - start < limits.FRAME_TIMEOUT_MS / 1000
        assert [word.code for word in await slow.last_words()] == [Code.DEADLINE_EXCEEDED.value]
        # silence between frames is no offence
        silent.output.write(encode_frame(Kind.REQUEST, 1, 5000, b"\xc1"))
        assert await silent.input.readexactly(HEADER_SIZE)


async def test_a_full_data_port_does_not_blind_the_operator(wallet: Wallet) -> None:
    """Requests that wait for KMS fill the data port; control answers at once."""
    wallet.stack.kms.faults.set(delay_ms=3000)
    cold = await asyncio.gather(*(_start(wallet) for _ in range(40)))
    start = time.monotonic()
    health = await wallet.stack.client.health()
    assert time.monotonic() - start < 2
    assert health.in_flight >= 1
    wallet.stack.kms.faults.reset()
    for task in cold:
        task.cancel()


async def _start(wallet: Wallet) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(wallet.sign())
    await asyncio.sleep(0)
    return task
