"""Endpoints: Unix sockets by port number, the handshake of vhost-device-vsock, and what each refuses."""

from __future__ import annotations

import asyncio
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adytum.enclave import UnixEndpoint, VhostEndpoint, VsockEndpoint
from adytum.enclave import endpoint as endpoint_module
from adytum_wire.errors import AdytumError, Code


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="adytum-") as name:
        yield Path(name)


@asynccontextmanager
async def device(path: Path, answer: bytes, heard: list[bytes]) -> AsyncIterator[None]:
    """A stand-in for vhost-device-vsock: hears one line, answers, then holds the connection open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()


async def test_unix_dial_and_listen_use_the_port_in_the_name(folder: Path) -> None:
    endpoint = UnixEndpoint(folder)
    with endpoint.listen(8000) as listener:
        path = folder / "host_8000.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not listener.getblocking()
        path.rename(folder / "enclave_8000.sock")
        with await endpoint.dial(8000) as sock:
            assert not sock.getblocking()
            assert not sock.get_inheritable()


async def test_nobody_listens(folder: Path) -> None:
    for endpoint in (UnixEndpoint(folder), VhostEndpoint(folder / "vm.sock")):
        with pytest.raises(AdytumError) as caught:
            await endpoint.dial(5000)
        assert caught.value.code is Code.PEER_UNAVAILABLE


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(folder: Path) -> None:
    endpoint = UnixEndpoint(folder)
    endpoint.listen(8000).close()
    assert (folder / "host_8000.sock").exists()
    with endpoint.listen(8000), pytest.raises(OSError):
        endpoint.listen(8000)


def test_another_file_in_the_way_is_not_deleted(folder: Path) -> None:
    path = folder / "host_8000.sock"
    path.write_text("precious")
    with pytest.raises(OSError):
        UnixEndpoint(folder).listen(8000)
    assert path.read_text() == "precious"


async def test_vhost_dial_speaks_connect_and_leaves_the_stream_untouched(folder: Path) -> None:
    heard: list[bytes] = []
    async with device(folder / "vm.sock", b"OK 1073741824\nstream begins", heard):
        with await VhostEndpoint(folder / "vm.sock").dial(5001) as sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"stream begins"
    assert heard == [b"CONNECT 5001\n"]


@pytest.mark.parametrize("answer", [b"NO\n", b"\n", b"OK " + b"1" * 100, b"O" * 4096, b"OK1\n"])
async def test_vhost_answer_that_is_no_ok_is_refused(folder: Path, answer: bytes) -> None:
    async with device(folder / "vm.sock", answer, []):
        with pytest.raises(AdytumError) as caught:
            async with asyncio.timeout(1):
                await VhostEndpoint(folder / "vm.sock").dial(5001)
        assert caught.value.code is Code.PEER_UNAVAILABLE


async def test_vhost_device_that_hangs_up_or_stays_silent(folder: Path) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, folder / "vm.sock")
    with pytest.raises(AdytumError):
        await VhostEndpoint(folder / "vm.sock").dial(5001)
    server.close()
    (folder / "vm.sock").unlink()
    async with device(folder / "vm.sock", b"OK", []):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await VhostEndpoint(folder / "vm.sock").dial(5001)


def test_vhost_listens_where_the_device_dials(folder: Path) -> None:
    with VhostEndpoint(folder / "vm.sock").listen(8000), socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(folder / "vm.sock_8000"))


class FakeVsock:
    def __init__(self, refuse: int = 0) -> None:
        self.calls: list[Any] = []
        self._refuse = refuse

    def __call__(self, family: int, _kind: int) -> FakeVsock:
        self.calls.append(("socket", family))
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            return self._refuse if name == "connect_ex" else 0

        return call


@pytest.mark.parametrize("refuse", [0, 111])
async def test_vsock_asks_for_the_cid_and_port(monkeypatch: pytest.MonkeyPatch, refuse: int) -> None:
    """Only what is asked of the system; no vsock is opened here."""
    fake = FakeVsock(refuse)
    names = ("AF_VSOCK", "AF_UNIX", "SOCK_STREAM", "VMADDR_CID_ANY", "SOL_SOCKET", "SO_ERROR")
    module = SimpleNamespace(socket=fake, **{name: getattr(socket, name) for name in names})
    monkeypatch.setattr(endpoint_module, "socket", module)
    asked = [("socket", socket.AF_VSOCK), ("setblocking", False), ("connect_ex", (16, 5000))]
    if refuse:
        with pytest.raises(AdytumError) as caught:
            await VsockEndpoint(16).dial(5000)
        assert caught.value.code is Code.PEER_UNAVAILABLE
        assert fake.calls == [*asked, ("close",)]
    else:
        assert await VsockEndpoint(16).dial(5000) is fake
        assert fake.calls == asked
        fake.calls.clear()
        VsockEndpoint(16).listen(8000)
        assert ("bind", (socket.VMADDR_CID_ANY, 8000)) in fake.calls
