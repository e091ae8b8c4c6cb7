"""The byte pipe that the host offers to the enclave: from a port of the host to one TCP target, and to nothing else.

It stands where AWS's vsock-proxy stands, and keeps what that one loses: an end of stream is passed on in its direction
while the other goes on, a slow side slows the other instead of filling memory, connections that are idle or too many
are closed, and a target that cannot be reached ends one connection and not the process.

The pipe carries TLS that ends inside the enclave. It sees ciphertext, and needs no trust; its allow list protects the
host's network from the enclave.

    pipe = Pipe(endpoint, limits.KMS_PORT, host, 443, allow=frozenset({(host, 443)}))
    await pipe.start()
    ...
    await pipe.close()
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass

from adytum.enclave.endpoint import Endpoint
from adytum_wire import limits

_ACCEPT_PAUSE_S = 0.5
_METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")  # the one address of instance metadata that is not link-local


class TargetNotAllowedError(Exception):
    """The allow list does not hold the target."""


@dataclass(slots=True)
class PipeCounters:
    """Numbers since the start, except `active`. Bytes: `up` is from the enclave to the target."""

    active: int = 0
    accepted: int = 0
    turned_away: int = 0  # over max_connections
    failed: int = 0  # the target could not be reached, or the list stopped allowing it
    idle: int = 0  # closed for silence
    lost: int = 0  # ended by an error on one side
    bytes_up: int = 0
    bytes_down: int = 0


class Pipe:
    """`allow`: (host, port) pairs; an empty set allows nothing. `dial_to`: connect there instead of resolving the
    target's name (development: a stand-in for KMS on loopback); the list must still allow the target's name.

    Without `dial_to`, addresses that the name resolves to are refused when they are loopback, link-local (instance
    metadata lives there), multicast or unspecified, so that a name server cannot point the pipe at them.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        port: int,
        target_host: str,
        target_port: int,
        *,
        allow: frozenset[tuple[str, int]],
        dial_to: tuple[str, int] | None = None,
        max_connections: int = limits.MAX_CONNECTIONS,
        connect_timeout_s: float = 5.0,
        idle_timeout_s: float = 300.0,
    ) -> None:
        """Errors: TargetNotAllowedError."""
        self._endpoint = endpoint
        self._port = port
        self._target = (target_host, target_port)
        self._allow = allow
        self._dial_to = dial_to
        self._max_connections = max_connections
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.counters = PipeCounters()
        self._check_target()

    def _check_target(self) -> None:
        if self._target not in self._allow:
            raise TargetNotAllowedError(f"{self._target[0]}:{self._target[1]} is not on the allow list")

    async def start(self) -> None:
        """Listen on the host's port. Errors: OSError."""
        if self._listener is not None:
            raise RuntimeError("the pipe has been started")
        self._listener = self._endpoint.listen(self._port)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._listener))

    async def close(self) -> None:
        """Stop listening and close every connection now."""
        tasks = [*self._connections] + ([self._accepting] if self._accepting else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def __aenter__(self) -> Pipe:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                near, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError:  # out of descriptors or memory: others may give some back
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self.counters.accepted += 1
            if len(self._connections) >= self._max_connections:
                self.counters.turned_away += 1
                near.close()
                continue
            task = loop.create_task(self._serve(near))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, near: socket.socket) -> None:
        self.counters.active += 1
        try:
            with near:
                try:
                    self._check_target()
                    async with asyncio.timeout(self._connect_timeout_s):
                        far = await self._connect()
                except (OSError, TargetNotAllowedError):  # TimeoutError is an OSError
                    self.counters.failed += 1
                    return
                with far:
                    await _Exchange(near, far, self._idle_timeout_s, self.counters).run()
        finally:
            self.counters.active -= 1

    async def _connect(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        host, port = self._dial_to or self._target
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure = OSError(errno.EHOSTUNREACH, "no usable address")
        for family, kind, protocol, _, address in found:
            if self._dial_to is None and not _is_public_enough(str(address[0])):
                continue
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure


class _Exchange:
    """Carry bytes both ways between two connected sockets until both directions have ended."""

    def __init__(self, near: socket.socket, far: socket.socket, idle_timeout_s: float, counters: PipeCounters) -> None:
        self._near = near
        self._far = far
        self._idle_timeout_s = idle_timeout_s
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()  # when a byte last passed, in either direction

    async def run(self) -> None:
        up = self._loop.create_task(self._carry(self._near, self._far))
        down = self._loop.create_task(self._carry(self._far, self._near))
        both = {up, down}
        try:
            while both:
                patience = self._moved + self._idle_timeout_s - self._loop.time()
                if patience <= 0:
                    self._counters.idle += 1
                    return
                done, both = await asyncio.wait(both, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is not None:  # this direction is broken: the other has no use any more
                        self._counters.lost += 1
                        return
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        # At most one slice is held in each direction: the next is read when this one has gone, so a slow reader slows
        # the writer. It also keeps each send() at or below `limits.SLICE`, which vsock needs.
        up = source is self._near
        while data := await self._loop.sock_recv(source, limits.SLICE):
            self._moved = self._loop.time()
            await self._loop.sock_sendall(sink, data)
            self._moved = self._loop.time()
            if up:
                self._counters.bytes_up += len(data)
            else:
                self._counters.bytes_down += len(data)
        with contextlib.suppress(OSError):  # the sink may have gone by itself
            sink.shutdown(socket.SHUT_WR)


def _is_public_enough(address: str) -> bool:
    """Private addresses pass: KMS through a VPC endpoint has one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip == _METADATA_V6)
