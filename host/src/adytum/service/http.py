"""The edge: ASGI without a framework for what is stamped (a path, a body, a header), Starlette for the rest.

Bounds: bodies of at most `limits.MAX_BODY` bytes that must arrive within `BODY_TIMEOUT_S`. TLS is uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from adytum.service import answer
from adytum.service.admit import STAMP_HEADER
from adytum.service.answer import Answer
from adytum.service.batch import MAX_BYTES, run_batch
from adytum.service.batch import PATH as BATCH
from adytum.service.story import Story
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_TIMEOUT_S: Final = 10.0
_STAMP: Final = STAMP_HEADER.lower().encode()

# Path -> operations that may stand in the body.
STAMPED: Final[dict[str, frozenset[str]]] = {
    "/v1/keys": frozenset({"generate_key", "generate_seed", "import_key", "import_file"}),
    "/v1/derive": frozenset({"derive_key"}),
    "/v1/sign": frozenset({"sign"}),
    "/v1/secrets": frozenset({"seal", "seal_anchor"}),
    "/v1/unseal": frozenset({"unseal"}),
    "/v1/reseal": frozenset({"reseal"}),
    "/v1/export": frozenset({"export"}),
    "/v1/state": frozenset({"enable_key", "disable_key", "schedule_deletion", "cancel_deletion", "delete_key"}),
    "/v1/rotation": frozenset({"rotation_statement"}),
    "/v1/sessions": frozenset({"open_session"}),
}
_ANY: Final = frozenset().union(*STAMPED.values())


class Edge:
    """The ASGI application. `rest` gets every request that is not a POST to one of `STAMPED`, or a batch of those."""

    def __init__(self, story: Story, rest: AsgiApp) -> None:
        self._story = story
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            operations = STAMPED.get(scope["path"])
            if operations is not None:
                await self._stamped(operations, scope, receive, send)
                return
            if scope["path"] == BATCH:
                await self._batch(scope, receive, send)
                return
        await self._rest(scope, receive, send)

    async def _batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, MAX_BYTES)
        except AdytumError as error:
            await reply(send, answer.failure(error))
            return
        await reply(send, await run_batch(self._story, body, _ANY))

    async def _stamped(self, operations: frozenset[str], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, limits.MAX_BODY)
        except AdytumError as error:
            await reply(send, answer.failure(error))
            return
        stamps = [value for name, value in scope["headers"] if name == _STAMP]
        stamp = stamps[0].decode("latin-1") if len(stamps) == 1 else ""  # two stamps are none
        await reply(send, await self._story.run(body, stamp, operations))


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Errors: REQUEST_INVALID (over `limit` bytes, or the client went away), DEADLINE_EXCEEDED."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > limit):
            raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    message = await _receive(receive)
    if not message.get("more_body", False):
        chunk: bytes = message.get("body", b"")
        if len(chunk) > limit:
            raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
        return chunk
    chunks = bytearray(message.get("body", b""))
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while message.get("more_body", False):
                message = await _receive(receive)
                chunks += message.get("body", b"")
                if len(chunks) > limit:
                    raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    except TimeoutError:
        raise AdytumError(Code.DEADLINE_EXCEEDED) from None
    return bytes(chunks)


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise AdytumError(Code.REQUEST_INVALID, "$ (cut off)")
    return message


async def reply(send: Send, given: Answer) -> None:
    await send({"type": "http.response.start", "status": given.status, "headers": given.headers})
    await send({"type": "http.response.body", "body": given.body})
