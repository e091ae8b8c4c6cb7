"""Many requests at once over one connection each: a transport for httpx.

httpx's own pool walks over all its connections several times for each request, which at sixteen connections is most of
what a worker's processor does. Here a request takes a free connection and gives it back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import httpx


class Connections(httpx.AsyncBaseTransport):
    """`count` connections to wherever the requests go; a further request waits for one. The one used last is used
    first, so that the others may go stale."""

    def __init__(self, count: int, context: ssl.SSLContext) -> None:
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._all = [httpx.AsyncHTTPTransport(verify=context, limits=one, trust_env=False) for _ in range(count)]
        self._free: asyncio.LifoQueue[httpx.AsyncHTTPTransport] = asyncio.LifoQueue()
        for transport in self._all:
            self._free.put_nowait(transport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Errors: httpx.TransportError."""
        transport = await self._free.get()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            self._free.put_nowait(transport)
            raise
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Returned(response.stream, transport, self._free)
        return response

    async def aclose(self) -> None:
        for transport in self._all:
            await transport.aclose()


class _Returned(httpx.AsyncByteStream):
    """A response's body; when it is closed its connection is free."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        transport: httpx.AsyncHTTPTransport,
        free: asyncio.LifoQueue[httpx.AsyncHTTPTransport],
    ) -> None:
        self._stream = stream
        self._transport: httpx.AsyncHTTPTransport | None = transport
        self._free = free

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            transport, self._transport = self._transport, None
            if transport is not None:
                self._free.put_nowait(transport)
