"""A host in the middle of the pipe to KMS: TLS records pass through it, and nothing else can be seen of them.

It listens at the pipe's place and dials the stand-in. A hook gets each record of each connection, with its direction
and its number, and says what goes on instead; None cuts the connection.

    tap.hook = spoil(Direction.DOWN, 2, lambda record: [record, record])
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

HEADER_SIZE = 5  # bytes: content type, version, length (RFC 8446, 5.1)


class Direction(StrEnum):
    UP = "enclave to KMS"
    DOWN = "KMS to enclave"


Records = list[bytes | None]
Hook = Callable[[Direction, int, bytes], Records]


def spoil(direction: Direction, number: int, change: Callable[[bytes], Records]) -> Hook:
    """Change the record `number` (from 0) of one direction, on every connection."""

    def hook(way: Direction, index: int, record: bytes) -> Records:
        return change(record) if (way, index) == (direction, number) else [record]

    return hook


@dataclass(slots=True, repr=False)
class TlsTap:
    """`path`: where the enclave dials. `port`: the stand-in's, on 127.0.0.1. `seen`: records of the connections that
    are over, by direction. `applied`: records that were replaced."""

    path: Path
    port: int
    hook: Hook | None = None
    applied: int = 0
    seen: list[tuple[Direction, bytes]] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, path=self.path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection, so that the next call begins with a handshake."""
        for writer in self._writers:
            writer.close()

    async def _accept(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                far, far_out = await asyncio.open_connection("127.0.0.1", self.port)
                self._writers |= {near_out, far_out}
                try:
                    await self._both(near, near_out, far, far_out)
                finally:
                    self._writers -= {near_out, far_out}
                    far_out.close()
        finally:
            near_out.close()

    async def _both(
        self,
        near: asyncio.StreamReader,
        near_out: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        far_out: asyncio.StreamWriter,
    ) -> None:
        pumps = {
            asyncio.create_task(self._pump(Direction.UP, near, far_out)),
            asyncio.create_task(self._pump(Direction.DOWN, far, near_out)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, way: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        number = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await source.readexactly(HEADER_SIZE)
                record = head + await source.readexactly(int.from_bytes(head[3:], "big"))
                self.seen.append((way, record))
                pieces: Records = [record] if self.hook is None else self.hook(way, number, record)
                self.applied += pieces != [record]
                number += 1
                for piece in pieces:
                    if piece is None:
                        return
                    sink.write(piece)
                await sink.drain()
