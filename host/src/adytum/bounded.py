"""Reading an HTTP answer of somebody who may want to fill our memory: with a bound, and as it came.

The size is refused from its announcement, and counted while it comes. Encoded answers (gzip and the like) are not
decoded but refused: a few bytes of them can be gigabytes, and nothing of ours needs them. Left out: how long an answer
may take, which is the client's time-out between two pieces.

    async with http.stream("GET", url, headers=PLAIN) as response:
        body = await read(response, MAX_ANSWER)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from adytum_wire import limits

MAX_ANSWER: Final = 32 * 1024 * limits.KIB  # bytes, of the HTTP service's answers: a page of receipts is the largest
MAX_AWS_ANSWER: Final = 64 * limits.KIB  # bytes, of an AWS service's
PLAIN: Final[Mapping[str, str]] = {"Accept-Encoding": "identity"}


class UnboundedError(Exception):
    """The answer is larger than it may be, or encoded. `reason`: a sentence of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def read(response: httpx.Response, most: int) -> bytes:
    """The body of a streamed `response`, at most `most` bytes.

    Errors: UnboundedError, httpx.TransportError. The caller closes the response, and with it the connection.
    """
    body = _begin(response, most)
    if not response.is_stream_consumed:
        async for piece in response.aiter_raw():
            _add(body, piece, most)
    return bytes(body)


def read_sync(response: httpx.Response, most: int) -> bytes:
    """As `read`."""
    body = _begin(response, most)
    if not response.is_stream_consumed:
        for piece in response.iter_raw():
            _add(body, piece, most)
    return bytes(body)


def _begin(response: httpx.Response, most: int) -> bytearray:
    """What is here already: all of it where a transport of the caller's own read it before us."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnboundedError("the answer is encoded")
    announced = response.headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal() and (len(announced) > 20 or int(announced) > most):
        raise _too_large(most)
    body = bytearray()
    if response.is_stream_consumed:
        _add(body, response.content, most)
    return body


def _add(body: bytearray, piece: bytes, most: int) -> None:
    if len(body) + len(piece) > most:
        raise _too_large(most)
    body += piece


def _too_large(most: int) -> UnboundedError:
    return UnboundedError(f"the answer is over {most} bytes")
