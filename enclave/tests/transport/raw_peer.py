"""A peer written from spec/wire.md without the code under test, over plain asyncio streams; and a port to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from adytum_enclave.shell.server import Incoming, Port, Server, serve

SOON = 2.0  # seconds: more than any of these tests should need for one step


def request(
    request_id: int, payload: bytes = b"", *, deadline_ms: int = 5000, version: int = 1, flags: int = 0
) -> bytes:
    head = struct.pack(">HBBHQII", 0xAD70, version, 1, flags, request_id, deadline_ms, len(payload))
    return head + struct.pack(">I", zlib.crc32(head + payload)) + payload


class RawPeer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, within_s: float = SOON) -> tuple[int, bytes]:
        async with asyncio.timeout(within_s):
            head = await self.reader.readexactly(26)
            magic, version, kind, flags, request_id, deadline_ms, length, crc = struct.unpack(">HBBHQIII", head)
            assert (magic, version, kind, flags, deadline_ms) == (0xAD70, 1, 2, 0, 0)
            payload = await self.reader.readexactly(length)
            assert zlib.crc32(head[:22] + payload) == crc
            return request_id, payload

    async def refusal(self, within_s: float = SOON) -> tuple[int, dict[str, Any]]:
        request_id, payload = await self.reply(within_s)
        message = msgspec.msgpack.decode(payload)
        assert message.pop("type") == "refusal"
        return request_id, message

    async def assert_closed(self, within_s: float = SOON) -> None:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionResetError):
                assert await self.reader.read(1) == b""

    def close(self) -> None:
        self.writer.close()


class Rig:
    def __init__(self, server: Server, port: Port, path: Path) -> None:
        self.server = server
        self.port = port
        self.path = path
        self.batches: list[Sequence[Incoming]] = []
        self.peers: list[RawPeer] = []

    @property
    def taken(self) -> list[Incoming]:
        return [incoming for batch in self.batches for incoming in batch]

    async def peer(self) -> RawPeer:
        peer = RawPeer(*await asyncio.open_unix_connection(self.path, limit=2**22))
        self.peers.append(peer)
        return peer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.002)


def echo(batch: Sequence[Incoming]) -> None:
    for incoming in batch:
        incoming.reply(incoming.payload)


def keep(_batch: Sequence[Incoming]) -> None:
    """Answer later: the test does it."""


@contextlib.asynccontextmanager
async def rig(
    handler: Callable[[Sequence[Incoming]], None] = echo,
    *,
    max_in_flight: int = 64,
    max_connections: int = 8,
    frame_timeout_s: float = 5.0,
    listener_class: type[socket.socket] = socket.socket,
) -> AsyncIterator[Rig]:
    def observed(batch: Sequence[Incoming]) -> None:
        made.batches.append(batch)
        handler(batch)

    with tempfile.TemporaryDirectory(prefix="adytum-") as folder:
        path = Path(folder) / "port.sock"
        listener = listener_class(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(16)
        port = Port(
            observed,
            max_in_flight=max_in_flight,
            max_connections=max_connections,
            frame_timeout_s=frame_timeout_s,
        )
        made = Rig(await serve(listener, port), port, path)
        try:
            yield made
        finally:
            made.server.abort()
            for peer in made.peers:
                peer.close()
            await made.server.wait_closed()
