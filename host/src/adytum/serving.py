"""uvicorn (httptools), run inside our own event loop and stopped by us: no signal handlers, no access log.

The socket is bound before uvicorn sees it, so port 0 gives a free port whose number is known, and a taken port is an
OSError at start.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn

from adytum.service.http import AsgiApp
from adytum.settings import Http

_GRACE_S = 10


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program that embeds the service (see `adytum serve`)."""
        yield


class HttpServer:
    """`start` listens; `stop` lets open requests finish."""

    def __init__(self, app: AsgiApp, settings: Http) -> None:
        self._settings = settings
        tls = settings.tls
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=tls.certFile,
            ssl_keyfile=None if tls.keyFile is None else str(tls.keyFile),
            ssl_ca_certs=None if tls.caCertFile is None else str(tls.caCertFile),
            ssl_cert_reqs=ssl.CERT_NONE if tls.caCertFile is None else ssl.CERT_REQUIRED,
        )
        self._server = _Server(self._config)
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        if self._socket is None:
            raise RuntimeError("the server is not running")
        scheme = "http" if self._settings.tls.certFile is None else "https"
        host, port = self._socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Errors: OSError when the address is taken or the TLS files are no key pair."""
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only then
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._settings.host, self._settings.port))
            self._config.load()
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError("the HTTP server ended while it started")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            self._server.should_exit = True
            await task
        if self._socket is not None:
            self._socket.close()
            self._socket = None
