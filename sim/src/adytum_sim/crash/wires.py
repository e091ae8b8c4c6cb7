"""Relays between the parts: bytes pass untouched, message by message, and a hook sees each one before it passes.

A hook decides when the message goes on, and whether the connection lives:

    async def hook(passing: Passing, forward: Forward) -> bool:
        await forward()      # now it is on its way
        return True          # False cuts the connection
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from adytum_wire.frames import HEADER_SIZE

_READ: int = 64 * 1024


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


class Splitter(Protocol):
    """Cuts one direction of a connection into messages. What it returns, joined, is what it was fed."""

    def feed(self, data: bytes) -> list[bytes]: ...


class Chunks:
    """As they come."""

    def feed(self, data: bytes) -> list[bytes]:
        return [data]


class Framed:
    """Messages with a length in their header. `size`: of the header; `length`: of the whole message, by its header."""

    def __init__(self, size: int, length: Callable[[bytes], int]) -> None:
        self._size, self._length = size, length
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        self._held += data
        found = []
        while len(self._held) >= self._size:
            end = self._length(self._held[: self._size])
            if len(self._held) < end:
                break
            found.append(self._held[:end])
            self._held = self._held[end:]
        return found


def frames() -> Splitter:
    """Of the enclave's ports (adytum_wire.frames)."""
    return Framed(HEADER_SIZE, lambda head: HEADER_SIZE + int.from_bytes(head[18:22], "big"))


def tls_records() -> Splitter:
    """RFC 8446, 5.1."""
    return Framed(5, lambda head: 5 + int.from_bytes(head[3:5], "big"))


def postgres_answers() -> Splitter:
    """What the server sends (PostgreSQL documentation, 54.7): type (1), length (4, counts itself), the rest."""
    return Framed(5, lambda head: 1 + int.from_bytes(head[1:5], "big"))


class PostgresRequests:
    """What a client sends: first a message without a type, then as the server's."""

    def __init__(self) -> None:
        self._held: bytes | None = b""  # of the first message; None once it is through
        self._rest = postgres_answers()

    def feed(self, data: bytes) -> list[bytes]:
        if self._held is None:
            return self._rest.feed(data)
        self._held += data
        end = int.from_bytes(self._held[:4], "big")
        if len(self._held) < max(end, 4):
            return []
        first, rest = self._held[:end], self._held[end:]
        self._held = None
        return [first, *self._rest.feed(rest)]


@dataclass(slots=True)
class Connection:
    """One connection through a wire. `notes`: what hooks remember of it."""

    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passing:
    """A message on its way."""

    wire: str
    connection: Connection
    direction: Direction
    message: bytes


Forward = Callable[[], Awaitable[None]]
Hook = Callable[[Passing, Forward], Awaitable[bool]]
Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Wire:
    """Listens at `path` (or, without one, at a free TCP port of 127.0.0.1) and dials for each connection. `silence`
    and `listen` follow the part behind it: while that is away, nobody is accepted."""

    def __init__(
        self, name: str, path: Path | None, dial: Dial, up: Callable[[], Splitter], down: Callable[[], Splitter]
    ) -> None:
        self.name = name
        self.hook: Hook | None = None
        self.port = 0
        self._path, self._dial, self._up, self._down = path, dial, up, down
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        if self._server is not None:
            return
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._accept, path=self._path)

    def silence(self) -> None:
        """Accept nobody from now on; connections stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    async def close(self) -> None:
        self.silence()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far, far_out = await self._dial()
            connection = Connection()
            up = asyncio.create_task(self._pump(connection, Direction.UP, near, far_out, self._up()))
            down = asyncio.create_task(self._pump(connection, Direction.DOWN, far, near_out, self._down()))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (up, down):
                    pump.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                far_out.close()
        near_out.close()

    async def _pump(
        self,
        connection: Connection,
        way: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        splitter: Splitter,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_READ):
                for message in splitter.feed(data):

                    async def forward(message: bytes = message) -> None:
                        sink.write(message)
                        await sink.drain()

                    if self.hook is None:
                        await forward()
                    elif not await self.hook(Passing(self.name, connection, way, message), forward):
                        return
