"""A small HTTP/1.1 server (h11 over asyncio) that can also do what good servers never do: hang up without an answer.

Handlers get whole requests and return whole answers, or None to close the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import h11

from adytum_sim.kms.sigv4 import SignedRequest

MAX_BODY: Final = 1024 * 1024  # bytes
READ_SIZE: Final = 64 * 1024
IDLE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=())


Handler = Callable[[SignedRequest], Awaitable[HttpAnswer | None]]


class HttpServer:
    """Listens on loopback. `start` returns the port; `stop` closes every connection."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._handler, self._tls = handler, tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> int:
        """Errors: OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError, h11.ProtocolError):
                await self._connection(reader, writer)
        finally:
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_SIZE)
        while True:
            request = await _read(connection, reader, writer)
            if request is None:
                return
            answer = await self._handler(request)
            if answer is None:
                return
            headers = [*answer.headers, ("content-length", str(len(answer.body)))]
            head = connection.send(h11.Response(status_code=answer.status, headers=headers))
            body = connection.send(h11.Data(data=answer.body))
            end = connection.send(h11.EndOfMessage())
            writer.write((head or b"") + (body or b"") + (end or b""))
            await writer.drain()
            if connection.our_state is h11.MUST_CLOSE:
                writer.close()
                await writer.wait_closed()
                return
            connection.start_next_cycle()


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> SignedRequest | None:
    """The next request, or None when the client is done. Errors: h11.ProtocolError, TimeoutError, OSError."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                writer.write(connection.send(go_on) or b"")
            connection.receive_data(await asyncio.wait_for(reader.read(READ_SIZE), IDLE_SECONDS))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the body is too large")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return SignedRequest(
                method=head.method.decode("ascii"),
                target=head.target.decode("ascii"),
                headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers],
                body=bytes(body),
            )
        else:
            return None
