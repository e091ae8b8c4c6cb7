"""The HTTP load of `adytum bench http`, a process of its own, so that it does not share the service's interpreter.

    python -m adytum_sim.bench.http_load PORT CLIENTS < requests

`requests` on standard input: whole HTTP/1.1 requests, MessagePack list of bytes. Each client keeps one connection and
one request in flight. Prints one JSON object: `Loaded`. One thread, one selector, no HTTP library: a client that
takes longer than the service would measure itself. It reads only what it needs of an answer: status and length.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

_READ_SIZE = 64 * 1024
_TIMEOUT_S = 30.0
_END = b"\r\n\r\n"


class Loaded(Struct, frozen=True, kw_only=True):
    """`latencies`: seconds, in the order of the answers. `statuses`: HTTP status -> how many."""

    seconds: float
    latencies: list[float]
    statuses: dict[int, int]


class _Client:
    __slots__ = ("held", "sent_at", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)  # a few KiB into an empty buffer: never blocks

    def receive(self) -> int:
        """The status of a complete answer, else 0. Errors: ConnectionError."""
        data = self.sock.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the service closed a connection")
        self.held += data
        end = self.held.find(_END)
        if end < 0 or len(self.held) < end + len(_END) + _length(self.held[:end]):
            return 0
        status = int(self.held[9:12])
        self.held = b""
        return status


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("an answer without a length")


def load(port: int, clients: int, requests: Sequence[bytes]) -> Loaded:
    """Send all of `requests`. Errors: ConnectionError, TimeoutError."""
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    everyone = [_Client(port) for _ in range(min(clients, len(requests)))]
    waiting = iter(requests)
    started = time.perf_counter()
    for client in everyone:
        selector.register(client.sock, selectors.EVENT_READ, client)
        client.send(next(waiting))
    while len(latencies) < len(requests):
        ready = selector.select(_TIMEOUT_S)
        if not ready:
            raise TimeoutError("no answer")
        for key, _ in ready:
            client = key.data
            status = client.receive()
            if status:
                latencies.append(time.perf_counter() - client.sent_at)
                statuses[status] = statuses.get(status, 0) + 1
                request = next(waiting, None)
                if request is not None:
                    client.send(request)
    seconds = time.perf_counter() - started
    for client in everyone:
        client.sock.close()
    return Loaded(seconds=seconds, latencies=latencies, statuses=statuses)


def main(argv: Sequence[str]) -> None:
    requests = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[bytes])
    sys.stdout.buffer.write(msgspec.json.encode(load(int(argv[1]), int(argv[2]), requests)))


if __name__ == "__main__":
    main(sys.argv)
