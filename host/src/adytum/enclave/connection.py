"""One connection to one port of an enclave: many calls in flight, answers in any order, matched by id.

The counterpart of `adytum_enclave.shell.server`, and driven the same way: `loop.add_reader` and `add_writer`, so that
no send() exceeds `limits.SLICE` and any address family will do under any event loop. All calls that are made in one
turn of the loop leave in one write.

Left out: reconnecting and what the messages mean (`adytum.enclave.client`).

    connection = await EnclaveConnection.open(endpoint, limits.CONTROL_PORT)
    reply = await connection.call(Health(), timeout_s=1.0)
"""

from __future__ import annotations

import asyncio
import socket

import msgspec

from adytum.enclave.endpoint import Endpoint
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import FrameReader, Kind, encode_frame
from adytum_wire.messages import Refusal, Reply, decode_reply, encode, error_of
from adytum_wire.outbox import Outbox

_READ_SIZE = 64 * limits.KIB


class EnclaveConnection:
    """Open with `EnclaveConnection.open`. `error`: why it ended, None while it lives. `answers`: replies so far."""

    def __init__(self, sock: socket.socket, *, max_in_flight: int = limits.MAX_IN_FLIGHT) -> None:
        """Take a connected, non-blocking stream socket; the connection owns it. Call in a running event loop."""
        self.error: AdytumError | None = None
        self.answers = 0
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._max_in_flight = max_in_flight
        self._reader = FrameReader(Kind.REPLY)
        self._outbox = Outbox()
        self._calls: dict[int, tuple[asyncio.Future[Reply], float]] = {}
        self._last_id = 0
        self._flush_handle: asyncio.Handle | None = None
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._frame_begun = 0.0  # when the incomplete frame in the reader began
        self._loop.add_reader(sock, self._on_readable)

    @classmethod
    async def open(
        cls, endpoint: Endpoint, port: int, *, max_in_flight: int = limits.MAX_IN_FLIGHT
    ) -> EnclaveConnection:
        """Connect to a port of the enclave. The caller bounds the time. Errors: PEER_UNAVAILABLE."""
        return cls(await endpoint.dial(port), max_in_flight=max_in_flight)

    @property
    def in_flight(self) -> int:
        return len(self._calls)

    async def call(self, message: msgspec.Struct, *, timeout_s: float) -> Reply:
        """Send a request and return its reply; a `Refusal` is a reply. `timeout_s` is cut to `limits.MAX_DEADLINE_MS`.

        Errors: DEADLINE_EXCEEDED (the enclave may have carried the request out or not; its late answer is dropped);
        PEER_UNAVAILABLE when the connection is or gets lost (the same holds); RESOURCE_EXHAUSTED when too much is in
        flight and FRAME_INVALID when the message is too large (nothing was sent); MESSAGE_INVALID for a reply that
        cannot be read.
        """
        if self.error is not None:
            raise AdytumError(Code.PEER_UNAVAILABLE)
        if len(self._calls) >= self._max_in_flight or self._outbox.unsent > limits.MAX_UNSENT:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=limits.RETRY_AFTER_MS)
        timeout_ms = min(int(timeout_s * 1000), limits.MAX_DEADLINE_MS)
        if timeout_ms <= 0:
            raise AdytumError(Code.DEADLINE_EXCEEDED)
        request_id = self._last_id + 1
        self._outbox.put(encode_frame(Kind.REQUEST, request_id, timeout_ms, encode(message)))
        self._last_id = request_id
        future: asyncio.Future[Reply] = self._loop.create_future()
        deadline = self._loop.time() + timeout_ms / 1000
        self._calls[request_id] = (future, deadline)
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)
        if self._timer is None or deadline < self._timer.when():
            self._arm(deadline)
        try:
            return await future
        finally:
            self._calls.pop(request_id, None)

    def close(self) -> None:
        """Close now; what is in flight fails with PEER_UNAVAILABLE."""
        self._end(AdytumError(Code.PEER_UNAVAILABLE))

    # --- in

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end(AdytumError(Code.PEER_UNAVAILABLE))
            return
        was_mid_frame = self._reader.mid_frame
        try:
            frames = self._reader.feed(data)
            for frame in frames:
                self._on_reply(frame.request_id, frame.payload)
            error = self._reader.error
        except AdytumError as broken:
            error = broken
        if error is not None:
            self._end(error)
        elif self._reader.mid_frame and (frames or not was_mid_frame):
            self._frame_begun = self._loop.time()

    def _on_reply(self, request_id: int, payload: bytes) -> None:
        if request_id == 0:  # the enclave speaks of the connection, and closes it
            reply = decode_reply(payload)
            raise error_of(reply) if isinstance(reply, Refusal) else AdytumError(Code.MESSAGE_INVALID)
        if request_id > self._last_id:
            raise AdytumError(Code.FRAME_INVALID, "request_id")
        self.answers += 1
        call = self._calls.get(request_id)
        if call is None or call[0].done():
            return  # nobody waits any more
        try:
            call[0].set_result(decode_reply(payload))
        except AdytumError as error:
            call[0].set_exception(error)

    # --- out

    def _flush(self) -> None:
        self._flush_handle = None
        if not self._writing:
            self._send()

    def _send(self) -> None:
        if self.error is not None:
            return
        try:
            done = self._outbox.flush(self._sock.send)
        except OSError:
            # The enclave may have said why before it closed: read that first.
            self._on_readable()
            self._end(AdytumError(Code.PEER_UNAVAILABLE))
            return
        if done and self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        elif not done and not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock, self._send)

    # --- time

    def _arm(self, moment: float) -> None:
        """One timer, for the earliest deadline. It is not moved when that call is answered, so it fires seldom."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._reader.mid_frame and now - self._frame_begun > limits.FRAME_TIMEOUT_MS / 1000:
            self._end(AdytumError(Code.PEER_UNAVAILABLE, "frame"))
            return
        earliest: float | None = None
        for future, deadline in self._calls.values():
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(AdytumError(Code.DEADLINE_EXCEEDED))
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self._arm(earliest)

    # --- the end

    def _end(self, error: AdytumError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for handle in (self._flush_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._sock.close()
        # Other calls share the connection with the one that broke it, so for them it is a loss and worth another try.
        exhausted = error.code is Code.RESOURCE_EXHAUSTED
        for future, _ in self._calls.values():
            if not future.done():
                code = Code.RESOURCE_EXHAUSTED if exhausted else Code.PEER_UNAVAILABLE
                future.set_exception(AdytumError(code, retry_after_ms=error.retry_after_ms))
