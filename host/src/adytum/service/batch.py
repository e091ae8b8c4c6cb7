"""`POST /v1/batch`: many stamped requests at once, each treated as if it had come alone.

    {"requests": [{"body": "<the signed bytes, as text>", "stamp": "<as in the header>"}, ...]}
    {"answers": [{"status": 200, "answer": {...}}, ...]}

The bodies stand in strings, so they arrive byte for byte. Each goes the whole way of `Story` under its own stamp, all
of them side by side; the answers stand in the order of the requests, and `answer` is what the single route would have
said. What is refused as a whole is only what cannot be read, or is over a bound; nothing of it was carried out then.

A batch is no transaction: some of its requests may be refused and the others done. What it leaves in the database is
written together where that costs no request more than a quarter of a second (`adytum.service.company`). Nothing new is
trusted: the enclave never sees a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from adytum.service import answer
from adytum.service.answer import Answer
from adytum_wire.errors import AdytumError, Code

if TYPE_CHECKING:  # the client reads the shapes from here, and the service's parts import the client
    from adytum.service.story import Story

PATH: Final = "/v1/batch"
MAX_ITEMS: Final = 100
MAX_BYTES: Final = 1024 * 1024  # of the whole; each body is bounded as on its own route


class BatchItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body`: a request's signed bytes, UTF-8. `stamp`: what its Adytum-Stamp header would say."""

    body: str
    stamp: str


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requests: list[BatchItem]


class ItemAnswer(msgspec.Struct, frozen=True):
    """`status` and `answer`: as the single route would have answered, byte for byte."""

    status: int
    answer: msgspec.Raw


class BatchAnswer(msgspec.Struct, frozen=True):
    answers: list[ItemAnswer]


_decoder = msgspec.json.Decoder(Batch)
_encoder = msgspec.json.Encoder()


def write_batch(items: Sequence[tuple[bytes, str]]) -> bytes:
    """The body of a batch. `items`: (signed bytes, stamp). Errors: REQUEST_INVALID for bytes that are no text, or more
    than `MAX_ITEMS` of them."""
    if not 0 < len(items) <= MAX_ITEMS:
        raise AdytumError(Code.REQUEST_INVALID, "$.requests (count)")
    try:
        return _encoder.encode(Batch([BatchItem(body.decode(), stamp) for body, stamp in items]))
    except UnicodeDecodeError:
        raise AdytumError(Code.REQUEST_INVALID, "$.requests[].body") from None


def read_batch(raw: bytes) -> list[BatchItem]:
    """Errors: REQUEST_INVALID when it cannot be read, or is over a bound."""
    if len(raw) > MAX_BYTES:
        raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    try:
        items = _decoder.decode(raw).requests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AdytumError(Code.REQUEST_INVALID, "$") from None
    if not 0 < len(items) <= MAX_ITEMS:
        raise AdytumError(Code.REQUEST_INVALID, "$.requests (count)")
    return items


async def run_batch(story: Story, raw: bytes, operations: frozenset[str]) -> Answer:
    """Never raises for a refusal or a failure. `operations`: those that may stand in a body."""
    try:
        items = read_batch(raw)
    except AdytumError as error:
        return answer.failure(error)
    company = story.company(len(items))
    given = await asyncio.gather(
        *(story.run(item.body.encode(), item.stamp, operations, company.place()) for item in items)
    )
    said = BatchAnswer([ItemAnswer(one.status, msgspec.Raw(one.body)) for one in given])
    return Answer(200, _encoder.encode(said))
