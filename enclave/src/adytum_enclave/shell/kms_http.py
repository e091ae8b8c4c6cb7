"""One HTTP/1.1 connection to KMS: a request, a bounded response, and whether the next may follow (RFC 9112).

The protocol is h11's (sans-I/O); the bytes go through a `TlsStream`. Redirects, compression, pipelining and responses
that end where the connection ends are left out: KMS uses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import h11

from adytum_enclave.shell.kms_tls import TlsStream
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

MAX_RESPONSE: Final = 64 * limits.KIB  # bytes of body
_MAX_HEAD: Final = 16 * limits.KIB  # bytes of status line and headers


class StaleError(OSError):
    """A kept connection turned out to be closed before it said a word about this request: safe to ask anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    body: bytes


class HttpConnection:
    """Takes ownership of `stream`. `reusable`: another `exchange` may follow. After an exception only `close`."""

    __slots__ = ("_code", "_http", "_max_response", "_stream", "_used", "reusable")

    def __init__(
        self, stream: TlsStream, *, code: Code = Code.KMS_ANSWER_INVALID, max_response: int = MAX_RESPONSE
    ) -> None:
        """`code`: for an answer that fails a check. `max_response`: bytes of body."""
        self._code = code
        self._max_response = max_response
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._used = False
        self.reusable = False

    async def post(self, headers: Sequence[tuple[str, str]], body: bytes) -> Response:
        """POST `body` to "/". `headers`: complete but for Content-Length.

        Errors: StaleError; OSError when the connection failed or ended early; `code` for what is no
        HTTP, unframed, or over `max_response` (refused from its announcement, before it is read).
        """
        again, self._used, self.reusable = self._used, True, False
        request = h11.Request(method="POST", target="/", headers=[*headers, ("Content-Length", str(len(body)))])
        data = b"".join(self._http.send(event) or b"" for event in (request, h11.Data(data=body), h11.EndOfMessage()))
        heard = False
        try:
            await self._stream.send(data)
            first = await self._stream.receive()
            if not first:
                raise ConnectionError("ended early")
            heard = True
            return await self._response(first)
        except OSError as error:
            if again and not heard:
                raise StaleError from None
            raise ConnectionError("the connection failed") from error
        except h11.RemoteProtocolError:
            raise AdytumError(self._code, "http") from None

    async def _response(self, data: bytes) -> Response:
        status = size = 0
        parts: list[bytes] = []
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data, piece = b"", data or await self._stream.receive()
                if not piece:  # never told to h11, which might take it for the regular end of a body
                    raise ConnectionError("ended early")
                self._http.receive_data(piece)
            elif isinstance(event, h11.Response):
                status = event.status_code
                self._check_framing(event)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > self._max_response:
                    raise AdytumError(self._code, "http.body")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._finish()
                return Response(status=status, body=b"".join(parts))
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionError("ended early")

    def _finish(self) -> None:
        """Bytes beyond the response would be read as the answer to the next request: no next one then."""
        surplus, _ = self._http.trailing_data
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not surplus:
            self._http.start_next_cycle()
            self.reusable = True

    def close(self) -> None:
        self.reusable = False
        self._stream.close()

    def _check_framing(self, response: h11.Response) -> None:
        headers = dict(response.headers)
        if b"transfer-encoding" in headers:
            return
        length = headers.get(b"content-length")
        if length is None or int(length) > self._max_response:
            raise AdytumError(self._code, "http.body")
