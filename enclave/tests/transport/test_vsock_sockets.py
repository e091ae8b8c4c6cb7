"""AF_VSOCK sockets without AF_VSOCK: what is asked of the system, checked on a stand-in for the socket module.

A Unix socket pair stands behind the dialled socket, so that waiting for the connection runs on a real event loop.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from adytum_enclave.shell import vsock


class FakeSocket:
    """Notes what it is asked; `answers` are the results of connect_ex and, after waiting, of SO_ERROR."""

    def __init__(self, answers: tuple[int, int] = (0, 0), *, bind_error: OSError | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers = answers
        self.bind_error = bind_error
        self.family = socket.AF_VSOCK
        self._pair = socket.socketpair()

    def __call__(self, family: int, kind: int) -> FakeSocket:
        self.calls.append(("socket", family, kind))
        return self

    def setblocking(self, flag: bool) -> None:
        self.calls.append(("setblocking", flag))

    def bind(self, address: Any) -> None:
        self.calls.append(("bind", address))
        if self.bind_error:
            raise self.bind_error

    def listen(self, backlog: int) -> None:
        self.calls.append(("listen", backlog > 0))

    def connect_ex(self, address: Any) -> int:
        self.calls.append(("connect_ex", address))
        return self.answers[0]

    def getsockopt(self, level: int, option: int) -> int:
        self.calls.append(("getsockopt", level, option))
        return self.answers[1]

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def close(self) -> None:
        self.calls.append(("close",))
        for end in self._pair:
            end.close()


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeSocket) -> FakeSocket:
    names = ("AF_VSOCK", "SOCK_STREAM", "VMADDR_CID_ANY", "SOL_SOCKET", "SO_ERROR")
    module = SimpleNamespace(socket=fake, **{name: getattr(socket, name) for name in names})
    monkeypatch.setattr(vsock, "socket", module)
    return fake


VSOCK = ("socket", socket.AF_VSOCK, socket.SOCK_STREAM)


def test_listen_binds_any_cid_and_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeSocket())
    vsock.listen_vsock(5000)
    assert fake.calls == [VSOCK, ("setblocking", False), ("bind", (socket.VMADDR_CID_ANY, 5000)), ("listen", True)]
    fake.close()


def test_a_failed_listen_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeSocket(bind_error=OSError(errno.EADDRINUSE, "in use")))
    with pytest.raises(OSError, match="in use"):
        vsock.listen_vsock(5000)
    assert fake.calls[-1] == ("close",)


@pytest.mark.parametrize("port", [0, -1, 2**32 - 1, 2**32])
async def test_no_port_that_means_any_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    fake = install(monkeypatch, FakeSocket())
    with pytest.raises(ValueError, match="vsock port"):
        vsock.listen_vsock(port)
    with pytest.raises(ValueError, match="vsock port"):
        await vsock.dial_vsock(3, port)
    assert fake.calls == []
    fake.close()


@pytest.mark.parametrize("answers", [(0, 0), (errno.EINPROGRESS, 0)])
async def test_dial(monkeypatch: pytest.MonkeyPatch, answers: tuple[int, int]) -> None:
    fake = install(monkeypatch, FakeSocket(answers))
    assert await asyncio.wait_for(vsock.dial_vsock(3, 8000), 1) is fake
    assert fake.calls[:3] == [VSOCK, ("setblocking", False), ("connect_ex", (3, 8000))]
    assert ("close",) not in fake.calls
    fake.close()


@pytest.mark.parametrize("answers", [(errno.ECONNREFUSED, 0), (errno.EINPROGRESS, errno.ECONNRESET)])
async def test_a_failed_dial_leaves_no_socket(monkeypatch: pytest.MonkeyPatch, answers: tuple[int, int]) -> None:
    fake = install(monkeypatch, FakeSocket(answers))
    with pytest.raises(OSError) as caught:
        await asyncio.wait_for(vsock.dial_vsock(3, 8000), 1)
    assert caught.value.errno == (answers[1] or answers[0])
    assert fake.calls[-1] == ("close",)


def test_the_peer_cid_is_read_only_from_a_vsock() -> None:
    fake: Any = FakeSocket()
    assert vsock.peer_cid(fake, (3, 40000)) == 3
    fake.close()
    left, right = socket.socketpair()
    with left, right:
        assert vsock.peer_cid(left, "") is None
