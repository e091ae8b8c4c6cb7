"""A host in the middle: between the honest host client and the enclave, frame by frame.

The relay listens where the enclave would (`enclave_<port>.sock` in a directory of its own) and dials the real one. What
is to be done to a frame is a hook; without one everything passes untouched, byte for byte.

    relay = Relay(front, back)
    await relay.start()
    relay.on_reply = rewriting(lambda payload: payload[:-1])
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from adytum_sim.enclave.config import enclave_socket
from adytum_wire import limits
from adytum_wire.errors import AdytumError
from adytum_wire.frames import Frame, FrameReader, Kind, encode_frame

# What goes on instead of the frame: bytes for its direction, None to cut the connection there.
Hook = Callable[[int, Frame], Awaitable[list[bytes | None]]]
Witness = Callable[[int, Kind, Frame], None]

PORTS = (limits.CONTROL_PORT, limits.DATA_PORT)
LINGER_SECONDS = 5.0  # the enclave's answers are still heard after the client was cut off
_READ = 64 * limits.KIB


def whole(kind: Kind, frame: Frame, payload: bytes | None = None) -> bytes:
    """The frame as it came, or with another payload and a CRC that holds."""
    return encode_frame(kind, frame.request_id, frame.deadline_ms, frame.payload if payload is None else payload)


def rewriting(change: Callable[[bytes], bytes], kind: Kind = Kind.REQUEST) -> Hook:
    """A hook that changes the payload of every frame for which `change` does not raise LookupError."""

    async def hook(_port: int, frame: Frame) -> list[bytes | None]:
        try:
            return [whole(kind, frame, change(frame.payload))]
        except LookupError:
            return [whole(kind, frame)]

    return hook


@dataclass(slots=True, repr=False)
class Relay:
    """`front`: directory in which it listens. `back`: the enclave's. `witness` sees every whole frame as it was sent by
    its sender. `applied` counts frames that a hook replaced by something else."""

    front: Path
    back: Path
    witness: Witness
    on_request: Hook | None = None
    on_reply: Hook | None = None
    applied: int = 0
    _servers: list[asyncio.Server] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self.front.mkdir(mode=0o700, parents=True, exist_ok=True)
        for port in PORTS:
            accept = self._acceptor(port)
            self._servers.append(await asyncio.start_unix_server(accept, path=enclave_socket(self.front, port)))

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def honest(self) -> None:
        """Let everything pass again."""
        self.on_request = self.on_reply = None
        self.applied = 0

    def _acceptor(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connection(port, reader, writer)
            writer.close()

        return accept

    async def _connection(self, port: int, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far, far_out = await asyncio.open_unix_connection(enclave_socket(self.back, port))
        waiting: set[int] = set()
        up = asyncio.create_task(self._pump(port, Kind.REQUEST, near, far_out, waiting))
        down = asyncio.create_task(self._pump(port, Kind.REPLY, far, near_out, waiting))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            near_out.close()
            if not down.done() and waiting:  # what the enclave did for the client must be seen, and so its receipt
                await asyncio.wait({down}, timeout=LINGER_SECONDS)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            far_out.close()

    async def _pump(
        self, port: int, kind: Kind, source: asyncio.StreamReader, sink: asyncio.StreamWriter, waiting: set[int]
    ) -> None:
        frames = FrameReader(kind)
        while data := await source.read(_READ):
            try:
                whole_frames = frames.feed(data)
            except AdytumError:
                return
            for frame in whole_frames:
                self.witness(port, kind, frame)
                (waiting.add if kind is Kind.REQUEST else waiting.discard)(frame.request_id)
                for piece in await self._pieces(port, kind, frame):
                    if piece is None:
                        return
                    with contextlib.suppress(OSError):  # the client may be gone; the enclave is heard to the end
                        sink.write(piece)
                        await sink.drain()
            if kind is Kind.REPLY and sink.is_closing() and not waiting:
                return

    async def _pieces(self, port: int, kind: Kind, frame: Frame) -> list[bytes | None]:
        hook = self.on_request if kind is Kind.REQUEST else self.on_reply
        untouched: list[bytes | None] = [whole(kind, frame)]
        pieces = untouched if hook is None else await hook(port, frame)
        self.applied += pieces != untouched
        return pieces
