"""The byte pipe: half-close, back-pressure, bounds, and an allow list that is asked each time."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adytum import pipe as pipe_module
from adytum.enclave import UnixEndpoint
from adytum.pipe import Pipe, TargetNotAllowedError

NAME = "kms.eu-central-1.amazonaws.com"
ALLOW = frozenset({(NAME, 443)})
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Rig:
    def __init__(self, pipe: Pipe, path: Path) -> None:
        self.pipe = pipe
        self.path = path

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As the enclave does."""
        return await asyncio.open_unix_connection(self.path)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(2):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(serve: Serve | None, **options: Any) -> AsyncIterator[Rig]:
    """A pipe to a TCP server on loopback; `serve=None`: to a port where nobody listens."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert serve is not None
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, limit=2**16)
    address = server.sockets[0].getsockname()
    if serve is None:
        server.close()
        await server.wait_closed()
    with tempfile.TemporaryDirectory(prefix="adytum-") as folder:
        arguments = {"allow": ALLOW, "dial_to": (address[0], address[1]), **options}
        pipe = Pipe(UnixEndpoint(Path(folder)), 8000, NAME, 443, **arguments)
        async with pipe:
            yield Rig(pipe, Path(folder) / "host_8000.sock")
        server.close()


async def answer_after_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end first, and only then answers: what vsock-proxy loses."""
    whole = await reader.read(-1)
    writer.write(hashlib.sha256(whole).digest() + whole)
    await writer.drain()


async def test_half_close_from_the_enclave_keeps_the_answer() -> None:
    async with rig(answer_after_end) as made:
        reader, writer = await made.dial()
        sent = bytes(range(256)) * 4000
        writer.write(sent)
        writer.write_eof()
        got = await asyncio.wait_for(reader.read(-1), 2)
        assert got == hashlib.sha256(sent).digest() + sent
        writer.close()
        await made.until(lambda: made.pipe.counters.active == 0)
        counters = made.pipe.counters
        assert (counters.bytes_up, counters.bytes_down) == (len(sent), len(sent) + 32)
        assert (counters.lost, counters.idle, counters.failed) == (0, 0, 0)


async def test_half_close_from_the_target_keeps_the_other_direction() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def greet_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.write_eof()
        heard.set_result(await reader.read(-1))

    async with rig(greet_then_listen) as made:
        reader, writer = await made.dial()
        assert await asyncio.wait_for(reader.read(-1), 2) == b"welcome"
        await asyncio.sleep(0.02)
        writer.write(b"said after the target had finished")
        writer.write_eof()
        assert await asyncio.wait_for(heard, 2) == b"said after the target had finished"
        writer.close()


async def test_a_slow_target_slows_the_enclave_and_memory_stays_small() -> None:
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await answer_after_end(reader, writer)

    async with rig(slow) as made:
        with socket.socket(socket.AF_UNIX) as near:
            near.setblocking(False)
            near.connect(str(made.path))
            sent = await fill(near)
            assert sent < 64 * 2**20  # bounded by the kernel's buffers, although the pipe would have taken more
            held = sent - made.pipe.counters.bytes_up
            assert held < 4 * 2**20
            await asyncio.sleep(0.05)
            assert await fill(near, patience_s=0.05) == 0
            go.set()
            near.shutdown(socket.SHUT_WR)
            loop = asyncio.get_running_loop()
            got = 0
            async with asyncio.timeout(10):
                while data := await loop.sock_recv(near, 2**20):
                    got += len(data)
            assert got == sent + 32


async def fill(sock: socket.socket, patience_s: float = 0.2) -> int:
    """Write zeros until nothing has been taken for a while; return how many bytes were."""
    loop = asyncio.get_running_loop()
    sent, last = 0, loop.time()
    while loop.time() - last < patience_s and sent < 64 * 2**20:
        try:
            sent += sock.send(bytes(65536))
            last = loop.time()
        except BlockingIOError:
            await asyncio.sleep(0.005)
    return sent


async def test_a_slow_enclave_slows_the_target() -> None:
    written = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        for _ in range(1024):
            writer.write(bytes(2**16))
            await writer.drain()
            written += 2**16

    async with rig(pour) as made:
        with socket.socket(socket.AF_UNIX) as near:
            near.setblocking(False)
            near.connect(str(made.path))
            await asyncio.sleep(0.3)
            first = written
            await asyncio.sleep(0.1)
            assert written == first < 64 * 2**20


async def test_an_upstream_that_refuses_closes_only_that_connection() -> None:
    async with rig(None) as made:
        for number in range(1, 4):
            reader, writer = await made.dial()
            assert await asyncio.wait_for(reader.read(1), 2) == b""
            writer.close()
            assert made.pipe.counters.failed == number
        assert made.pipe.counters.accepted == 3


async def test_a_name_that_does_not_resolve_closes_only_that_connection() -> None:
    async with rig(answer_after_end, dial_to=("name.invalid", 443)) as made:
        reader, writer = await made.dial()
        assert await asyncio.wait_for(reader.read(1), 5) == b""
        writer.close()
        assert made.pipe.counters.failed == 1


async def test_an_upstream_that_is_cut_off_frees_the_connection() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with rig(reset) as made:
        reader, writer = await made.dial()
        writer.write(b"xx" * 1000)
        assert await asyncio.wait_for(reader.read(-1), 2) == b""
        writer.close()
        await made.until(lambda: made.pipe.counters.active == 0)


async def test_silence_is_bounded_and_traffic_is_not() -> None:
    async with rig(answer_after_end, idle_timeout_s=0.4) as made:
        reader, writer = await made.dial()
        for _ in range(8):
            writer.write(b"x")
            await asyncio.sleep(0.06)
        assert made.pipe.counters.idle == 0
        assert await asyncio.wait_for(reader.read(-1), 2) == b""
        assert (made.pipe.counters.idle, made.pipe.counters.active) == (1, 0)
        writer.close()


async def test_too_many_connections_are_turned_away_and_room_returns() -> None:
    async with rig(answer_after_end, max_connections=1) as made:
        first_reader, first = await made.dial()
        await made.until(lambda: made.pipe.counters.active == 1)
        reader, second = await made.dial()
        assert await asyncio.wait_for(reader.read(1), 2) == b""
        second.close()
        first.write_eof()
        await asyncio.wait_for(first_reader.read(-1), 2)
        first.close()
        await made.until(lambda: made.pipe.counters.active == 0)
        reader, third = await made.dial()
        third.write_eof()
        assert len(await asyncio.wait_for(reader.read(-1), 2)) == 32
        third.close()
        assert made.pipe.counters.turned_away == 1


@pytest.mark.parametrize(
    "allow",
    [frozenset(), {(NAME, 80)}, {("kms.us-east-1.amazonaws.com", 443)}, {(NAME.upper(), 443)}, {("127.0.0.1", 443)}],
    ids=["empty", "port", "region", "case", "address"],
)
def test_a_target_outside_the_list_is_refused(allow: Any) -> None:
    with pytest.raises(TargetNotAllowedError):
        Pipe(UnixEndpoint(Path()), 8000, NAME, 443, allow=frozenset(allow), dial_to=("127.0.0.1", 1))


async def test_the_list_is_asked_for_each_connection() -> None:
    async with rig(answer_after_end) as made:
        made.pipe._allow = frozenset()
        reader, writer = await made.dial()
        assert await asyncio.wait_for(reader.read(1), 2) == b""
        writer.close()
        assert made.pipe.counters.failed == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::1",
        "fe80::1%lo",
        "0.0.0.0",
        "::ffff:169.254.169.254",
        "224.0.0.1",
    ],
)
async def test_name_server_attack_cannot_point_the_pipe_at_the_host(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async def lie(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    async def never(*_: Any) -> None:
        raise AssertionError("dialled")

    async with rig(answer_after_end, dial_to=None) as made:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", lie)
        monkeypatch.setattr(loop, "sock_connect", never)
        with socket.socket(socket.AF_UNIX) as near:
            near.setblocking(False)
            near.connect(str(made.path))
            assert await asyncio.wait_for(loop.sock_recv(near, 1), 2) == b""
        assert made.pipe.counters.failed == 1


def test_private_addresses_pass_for_vpc_endpoints() -> None:
    for address in ("10.0.0.5", "172.31.3.4", "52.1.2.3", "fd12::1"):
        assert pipe_module._is_public_enough(address)


async def test_no_send_into_the_vsock_is_larger_than_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    loop = asyncio.get_running_loop()
    original = loop.sock_sendall

    async def observed(sock: socket.socket, data: bytes) -> None:
        sizes.append(len(data))
        await original(sock, data)

    monkeypatch.setattr(loop, "sock_sendall", observed)
    async with rig(answer_after_end) as made:
        reader, writer = await made.dial()
        writer.write(bytes(2**20))
        writer.write_eof()
        assert len(await asyncio.wait_for(reader.read(-1), 2)) == 2**20 + 32
        writer.close()
    assert max(sizes) <= 31 * 1024
    assert sum(sizes) == 2**21 + 32


async def test_close_ends_everything() -> None:
    async with rig(answer_after_end) as made:
        reader, writer = await made.dial()
        await made.until(lambda: made.pipe.counters.active == 1)
        await made.pipe.close()
        assert await asyncio.wait_for(reader.read(1), 2) == b""
        assert made.pipe.counters.active == 0
        with pytest.raises(OSError):
            await made.dial()
        writer.close()
