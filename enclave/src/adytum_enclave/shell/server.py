"""The enclave's ports: accept connections, cut them into requests, hand these to a handler in batches, send answers.

No task and no stream per request: whatever one read brings is one call of the handler, and whatever the handler answers
by then leaves in one write. The sockets are driven by `loop.add_reader` and `add_writer` and not by an asyncio
transport, for two reasons: a transport sends its whole buffer in one send(), while no send() here may exceed
`limits.SLICE` (spec/wire.md, W-9); and this way nothing depends on the address family, so AF_VSOCK needs no luck.

What a peer can do to others: nothing. A frame that does not end, a peer that does not read, a broken frame or a flood
ends or slows only its own connection; the number of requests in flight is bounded over all connections of a port.

Left out: what the requests mean (`adytum_enclave.core`) and which sockets there are (`vsock`).

    port = Port(handler, max_in_flight=1024, max_connections=64, frame_timeout_s=5.0)
    server = await serve(listen_vsock(limits.DATA_PORT), port)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from adytum_enclave.shell.vsock import peer_cid
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import Frame, FrameReader, Kind, encode_frame
from adytum_wire.messages import encode, refusal
from adytum_wire.outbox import Outbox

_READ_SIZE = 64 * limits.KIB  # bytes a connection may bring before the others get their turn
_ACCEPT_PAUSE_S = 0.5


def _refusal(code: Code, field: str = "") -> bytes:
    retry_after_ms = limits.RETRY_AFTER_MS if code is Code.RESOURCE_EXHAUSTED else 0
    return encode(refusal(AdytumError(code, field, retry_after_ms=retry_after_ms)))


_EXHAUSTED = _refusal(Code.RESOURCE_EXHAUSTED)
_TOO_LATE = _refusal(Code.DEADLINE_EXCEEDED)
_INTERNAL = _refusal(Code.INTERNAL)


class Incoming:
    """One request. `payload`: the message's bytes. `deadline`: on the event loop's clock, in seconds.

    Each must be answered, exactly once, in any order, now or later, from the event loop's thread: until then it counts
    against `max_in_flight`, also when its connection is gone.
    """

    __slots__ = ("_answered", "_connection", "_request_id", "deadline", "payload")

    def __init__(self, connection: _Connection, request_id: int, payload: bytes, deadline: float) -> None:
        self._connection = connection
        self._request_id = request_id
        self._answered = False
        self.payload = payload
        self.deadline = deadline

    @property
    def expired(self) -> bool:
        """True when nobody waits for the answer any more: the deadline has passed or the connection is gone."""
        return self._connection.ending or self._connection.loop.time() >= self.deadline

    @property
    def answered(self) -> bool:
        return self._answered

    @property
    def peer_cid(self) -> int | None:
        """The vsock CID of the sender, or None where the connection is not a vsock (a Unix socket in development)."""
        return self._connection.peer_cid

    def reply(self, payload: bytes) -> None:
        """Answer with the bytes of a reply, at most `limits.MAX_PAYLOAD`. The first answer stands.

        A longer payload is a fault of the caller: the peer is told INTERNAL rather than left waiting.
        """
        if not self._answered:
            self._answered = True
            self._connection.answer(self._request_id, payload)


Handler = Callable[[Sequence[Incoming]], None]


class Port:
    """The bounds of one port and what it counts, all numbers over all its connections.

    `handler` is called with everything that one read brought, and must not block. `max_in_flight`: requests; above it
    the answer is RESOURCE_EXHAUSTED at once. `frame_timeout_s`: a frame that has begun must be complete within it, and
    a peer must take at least `limits.SLICE` bytes, or all that waits for it, in each such time.
    """

    def __init__(self, handler: Handler, *, max_in_flight: int, max_connections: int, frame_timeout_s: float) -> None:
        self.handler = handler
        self.max_in_flight = max_in_flight
        self.max_connections = max_connections
        self.frame_timeout_s = frame_timeout_s
        self.in_flight = 0
        self.connections = 0
        self.accepted = 0  # connections, since the start; so are the following
        self.turned_away = 0  # connections over max_connections
        self.exhausted = 0  # requests over max_in_flight
        self.too_late = 0  # requests whose deadline had passed
        self.broken = 0  # connections ended for a broken frame
        self.stalled = 0  # connections ended for a frame that did not end, or a peer that did not read
        self.handler_failures = 0


class _Connection:
    __slots__ = (
        "_corked",
        "_draining",
        "_flush_handle",
        "_frame_begun",
        "_in_flight",
        "_on_close",
        "_outbox",
        "_port",
        "_reader",
        "_reading",
        "_sent_at_stall",
        "_sock",
        "_stalled",
        "_timer",
        "_writing",
        "closed",
        "ending",
        "loop",
        "peer_cid",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        cid: int | None,
        port: Port,
        on_close: Callable[[_Connection], None],
    ) -> None:
        self.loop = loop
        self.peer_cid = cid
        self.ending = False  # no answer will reach the peer any more
        self.closed = False
        self._sock = sock
        self._port = port
        self._on_close = on_close
        self._reader = FrameReader(Kind.REQUEST)
        self._outbox = Outbox()
        self._in_flight: set[int] = set()
        self._corked = False  # inside a batch: its end flushes
        self._draining = False  # take no new request, close when the last answer is sent
        self._flush_handle: asyncio.Handle | None = None
        self._writing = False  # the loop watches for room to write
        self._frame_begun: float | None = None
        self._stalled: float | None = None
        self._sent_at_stall = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        loop.add_reader(sock, self._on_readable)

    # --- in

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not data:  # a peer that stops sending has left: nobody waits for what is in flight
            self.close()
            return
        self._corked = True
        try:
            frames = self._reader.feed(data)
            if frames:
                self._take(frames)
            broken = self._reader.error
        except AdytumError as error:
            broken = error
        self._corked = False
        if broken is not None:
            self._port.broken += 1
            self._end_with(broken)
            return
        if not self._reader.mid_frame:
            self._frame_begun = None
        elif frames or self._frame_begun is None:
            self._frame_begun = self.loop.time()
            self._watch()
        self._flush()

    def _take(self, frames: list[Frame]) -> None:
        """Admit what may be admitted and hand it on as one batch. Errors: FRAME_INVALID for an id that is in flight."""
        port, ids = self._port, self._in_flight
        now = self.loop.time()
        batch: list[Incoming] = []
        fault: AdytumError | None = None
        for request_id, deadline_ms, payload in ((f.request_id, f.deadline_ms, f.payload) for f in frames):
            if request_id in ids:
                fault = AdytumError(Code.FRAME_INVALID, "request_id")
                break
            if deadline_ms == 0:
                port.too_late += 1
                self._put(request_id, _TOO_LATE)
            elif port.in_flight >= port.max_in_flight:
                port.exhausted += 1
                self._put(request_id, _EXHAUSTED)
            else:
                port.in_flight += 1
                ids.add(request_id)
                deadline = now + min(deadline_ms, limits.MAX_DEADLINE_MS) / 1000
                batch.append(Incoming(self, request_id, payload, deadline))
        if batch:
            try:
                port.handler(batch)
            except Exception as error:
                # A handler turns its errors into answers; one that escapes is a broken invariant of the program, for
                # the loop's exception handler to judge. The peer is not left waiting.
                port.handler_failures += 1
                for incoming in batch:
                    incoming.reply(_INTERNAL)
                self.loop.call_exception_handler({"message": "the handler of a port failed", "exception": error})
        if fault is not None:
            raise fault

    # --- out

    def answer(self, request_id: int, payload: bytes) -> None:
        self._port.in_flight -= 1
        self._in_flight.discard(request_id)
        if self.ending:
            return
        self._put(request_id, payload if len(payload) <= limits.MAX_PAYLOAD else _INTERNAL)
        if not self._corked and self._flush_handle is None:
            self._flush_handle = self.loop.call_soon(self._flush_soon)

    def _put(self, request_id: int, payload: bytes) -> None:
        self._outbox.put(encode_frame(Kind.REPLY, request_id, 0, payload))

    def _flush_soon(self) -> None:
        self._flush_handle = None
        self._flush()

    def _flush(self) -> None:
        if self._writing:  # the socket is full: only the loop's word that there is room makes another try worth it
            if self._outbox.unsent > limits.MAX_UNSENT:
                self._port.stalled += 1
                self.close()
            elif not self.closed:
                self._set_reading(self._outbox.unsent < limits.PAUSE_UNSENT)
            return
        self._send()

    def _send(self) -> None:
        if self.closed:
            return
        try:
            done = self._outbox.flush(self._sock.send)
        except OSError:
            self.close()
            return
        if done:
            self._stalled = None
            if self._writing:
                self._writing = False
                self.loop.remove_writer(self._sock)
            if self.ending or (self._draining and not self._in_flight):
                self.close()
                return
        elif not self._writing:
            self._writing = True
            self.loop.add_writer(self._sock, self._send)
            self._stalled, self._sent_at_stall = self.loop.time(), self._outbox.sent
            self._watch()
        self._set_reading(self._outbox.unsent < limits.PAUSE_UNSENT)

    def _set_reading(self, wanted: bool) -> None:
        wanted = wanted and not (self.ending or self._draining)
        if wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            if self._reader.mid_frame:
                self._frame_begun = self.loop.time()  # the pause was ours
                self._watch()
            self.loop.add_reader(self._sock, self._on_readable)
        else:
            self._frame_begun = None
            self.loop.remove_reader(self._sock)

    # --- time

    def _watch(self) -> None:
        """Keep one timer for both bounds; it is armed at most once in `frame_timeout_s`, however many frames pass."""
        if self._timer is None:
            self._timer = self.loop.call_later(self._port.frame_timeout_s, self._check_time)

    def _check_time(self) -> None:
        self._timer = None
        timeout = self._port.frame_timeout_s
        now = self.loop.time()
        if self._stalled is not None and now - self._stalled >= timeout:
            if self._outbox.sent - self._sent_at_stall < limits.SLICE:
                self._port.stalled += 1
                self.close()
                return
            self._stalled, self._sent_at_stall = now, self._outbox.sent
        if self._frame_begun is not None and now - self._frame_begun >= timeout:
            self._port.stalled += 1
            self._end_with(AdytumError(Code.DEADLINE_EXCEEDED, "frame"))
            return
        begun = [moment for moment in (self._stalled, self._frame_begun) if moment is not None]
        if begun:
            self._timer = self.loop.call_at(min(begun) + timeout, self._check_time)

    # --- the end

    def _end_with(self, error: AdytumError) -> None:
        """Say why, in a refusal that speaks of the whole connection, then close; what is in flight is not answered."""
        self._put(0, encode(refusal(error)))
        self.ending = True
        self._set_reading(False)
        self._flush()

    def drain(self) -> None:
        self._draining = True
        self._set_reading(False)
        self._flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = self.ending = True
        self.loop.remove_reader(self._sock)
        self.loop.remove_writer(self._sock)
        for handle in (self._flush_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._sock.close()
        self._on_close(self)


class Server:
    """A listening socket and its connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, port: Port) -> None:
        self._loop = loop
        self._listener = listener
        self._port = port
        self._connections: set[_Connection] = set()
        self._closing = False
        self._accept_timer: asyncio.TimerHandle | None = None
        self._all_closed = asyncio.Event()
        loop.add_reader(listener, self._on_acceptable)

    def close(self) -> None:
        """Accept no connection and read no request any more; what is in flight is answered, then connections close."""
        if self._closing:
            return
        self._closing = True
        if self._accept_timer is not None:
            self._accept_timer.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in tuple(self._connections):
            connection.drain()
        self._note_end()

    def abort(self) -> None:
        """Close everything now; answers that are not sent are lost."""
        self.close()
        for connection in tuple(self._connections):
            connection.close()

    async def wait_closed(self) -> None:
        """Wait until `close` or `abort` has taken effect. The caller bounds the time."""
        await self._all_closed.wait()

    def _note_end(self) -> None:
        if self._closing and not self._connections:
            self._all_closed.set()

    def _on_acceptable(self) -> None:
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors or memory: the listener stays readable, so look away for a while
            self._loop.remove_reader(self._listener)
            self._accept_timer = self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
            return
        sock.setblocking(False)
        if self._port.connections >= self._port.max_connections:
            self._port.turned_away += 1
            with sock:
                try:
                    sock.send(encode_frame(Kind.REPLY, 0, 0, _EXHAUSTED))
                except OSError:
                    return
            return
        self._port.accepted += 1
        self._port.connections += 1
        self._connections.add(_Connection(self._loop, sock, peer_cid(sock, address), self._port, self._forget))

    def _accept_again(self) -> None:
        self._loop.add_reader(self._listener, self._on_acceptable)

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._port.connections -= 1
        self._note_end()


async def serve(listener: socket.socket, port: Port) -> Server:
    """Serve `port` on a listening stream socket of any family. The server owns the socket from now on."""
    listener.setblocking(False)
    return Server(asyncio.get_running_loop(), listener, port)
