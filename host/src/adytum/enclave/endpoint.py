"""Where an enclave is, and how the two sides reach each other: on Nitro, under QEMU, in development.

Every endpoint can dial a port of the enclave and listen on a port of the host that the enclave dials (the KMS pipe).
Ports are vsock numbers everywhere; only their form differs:

| endpoint | enclave's port P | host's port P |
|---|---|---|
| `UnixEndpoint(directory)` | `<directory>/enclave_<P>.sock` | `<directory>/host_<P>.sock` |
| `VsockEndpoint(cid)` | vsock (cid, P) | vsock (any, P) |
| `VhostEndpoint(path)` | Unix socket `path`, after `CONNECT P` | `<path>_<P>` |

    sock = await UnixEndpoint(Path("/run/adytum")).dial(limits.DATA_PORT)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from adytum_wire.errors import AdytumError, Code

_BACKLOG = 64
_MAX_CONNECT_ANSWER = 32  # "OK " and a number of at most ten digits, with room
_IN_PROGRESS = {errno.EINPROGRESS, errno.EINTR}


class Endpoint(Protocol):
    async def dial(self, port: int) -> socket.socket:
        """Return a non-blocking stream socket to the enclave's port. The caller bounds the time.

        Errors: PEER_UNAVAILABLE.
        """

    def listen(self, port: int) -> socket.socket:
        """Return a non-blocking socket that listens where the enclave dials the host's port. Errors: OSError."""


class UnixEndpoint:
    """Development: both sides on one machine. The directory belongs to this host service; make it with mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def dial(self, port: int) -> socket.socket:
        return await _connect(socket.AF_UNIX, str(self._directory / f"enclave_{port}.sock"))

    def listen(self, port: int) -> socket.socket:
        return _listen_unix(self._directory / f"host_{port}.sock")


class VsockEndpoint:
    """A Nitro Enclave with this CID."""

    def __init__(self, cid: int) -> None:
        self._cid = cid

    async def dial(self, port: int) -> socket.socket:
        return await _connect(socket.AF_VSOCK, (self._cid, port))

    def listen(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        return _listening(sock, lambda: sock.bind((socket.VMADDR_CID_ANY, port)))


class VhostEndpoint:
    """An enclave image under QEMU with vhost-device-vsock, whose `uds-path` is `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def dial(self, port: int) -> socket.socket:
        sock = await _connect(socket.AF_UNIX, str(self._path))
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"CONNECT %d\n" % port)
            # One byte at a time: what follows the newline already belongs to the stream.
            answer = b""
            while not answer.endswith(b"\n"):
                byte = await loop.sock_recv(sock, 1)
                answer += byte
                if not byte or len(answer) > _MAX_CONNECT_ANSWER:
                    raise AdytumError(Code.PEER_UNAVAILABLE, "vhost")
            if not answer.startswith(b"OK "):
                raise AdytumError(Code.PEER_UNAVAILABLE, "vhost")
        except OSError:
            sock.close()
            raise AdytumError(Code.PEER_UNAVAILABLE, "vhost") from None
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, port: int) -> socket.socket:
        return _listen_unix(self._path.with_name(f"{self._path.name}_{port}"))


async def _connect(family: int, address: Any) -> socket.socket:
    """Connect without blocking. Not by `loop.sock_connect`: uvloop's resolves a vsock address as an internet one."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        raise AdytumError(Code.PEER_UNAVAILABLE, "socket") from None
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code in _IN_PROGRESS:
            await _writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise AdytumError(Code.PEER_UNAVAILABLE, "connect") from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, note)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _listen_unix(path: Path) -> socket.socket:
    """Listen at `path`. A socket that a dead process left there is replaced, one that answers is not."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def bind() -> None:
        sock.bind(str(path))
        path.chmod(0o600)

    return _listening(sock, bind)


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return  # bind() refuses: whatever this is, it is not ours to delete
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()


def _listening(sock: socket.socket, bind: Callable[[], None]) -> socket.socket:
    try:
        sock.setblocking(False)
        bind()
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
