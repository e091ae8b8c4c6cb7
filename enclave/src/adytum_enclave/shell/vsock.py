"""AF_VSOCK sockets: how the enclave listens, dials out and learns who its parent is.

The peer CID is not authentication. It says where to dial (spec/wire.md, W-30): the parent that configured the enclave
is the one whose pipe it uses, 3 on Nitro and 2 under QEMU, so that no flag decides it.

    listener = listen_vsock(limits.CONTROL_PORT)
    pipe = await dial_vsock(parent_cid, limits.KMS_PORT)
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

_BACKLOG = 64
_MAX_PORT = 2**32 - 2  # 2**32 - 1 is VMADDR_PORT_ANY
_IN_PROGRESS = {errno.EINPROGRESS, errno.EINTR}


def listen_vsock(port: int) -> socket.socket:
    """Return a non-blocking, close-on-exec socket that listens on `port` for any CID. Errors: OSError, ValueError."""
    sock = _vsock(port)
    try:
        sock.bind((socket.VMADDR_CID_ANY, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def dial_vsock(cid: int, port: int) -> socket.socket:
    """Return a non-blocking, close-on-exec socket that is connected to (cid, port). The caller bounds the time.

    Errors: OSError (nobody listens, no such CID), ValueError. `loop.sock_connect` is not used: some event loops resolve
    the address of every family but AF_UNIX as an internet address.
    """
    sock = _vsock(port)
    try:
        code = sock.connect_ex((cid, port))
        if code in _IN_PROGRESS:
            await _writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def peer_cid(sock: socket.socket, address: Any) -> int | None:
    """The CID of the peer, from the address that accept() returned with `sock`; None where `sock` is not a vsock."""
    if sock.family != socket.AF_VSOCK:
        return None
    return int(address[0])


def _vsock(port: int) -> socket.socket:
    if not 0 < port <= _MAX_PORT:
        raise ValueError("a vsock port is 1 to 2**32 - 2")
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)  # Python's sockets are close-on-exec
    sock.setblocking(False)
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
