"""Many requests in one call: each is stamped, repeated and verified as if it were sent alone.

answers = await adytum.batch([body, ...])     # an Answer, or the error that `repeat` would have raised, for each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adytum.client.checks import Answer
from adytum.client.errors import RefusedError, UnreachableError, UntrustedError
from adytum.client.steps import SESSION_GONE, Call, Came, Failure, Steps, ask, failure_in, read
from adytum.service.admit import format_stamp
from adytum.service.batch import PATH, BatchAnswer, write_batch
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Body, parse_body

if TYPE_CHECKING:
    from adytum.client.conversation import Conversation


def send_batch(talk: Conversation, raws: Sequence[bytes]) -> Steps[list[Answer | AdytumError]]:
    """`raws`: signed bytes, at most `adytum.service.batch.MAX_ITEMS`. What may pass is sent again, without what has its
    answer.

    Errors (of the batch as a whole; nothing is known of its requests then): REQUEST_INVALID before anything is sent,
    UnreachableError, RefusedError, UntrustedError."""
    bodies = [parse_body(raw) for raw in raws]
    if any(body.tenant != talk.tenant for body in bodies):
        raise AdytumError(Code.REQUEST_INVALID, "$.tenant")
    found: dict[int, Answer | AdytumError] = {}
    left, failures = list(range(len(raws))), 0
    while True:
        later: dict[int, Failure] = {}
        by_session = talk.has_session
        for at, came in zip(left, (yield from _ask(talk, [(raws[at], bodies[at]) for at in left])), strict=True):
            failure = failure_in(came)
            is_session_gone = by_session and failure is not None and failure.code in SESSION_GONE
            if is_session_gone:
                talk.close_session()
            if failure is not None and (failure.code.retryable or is_session_gone):
                later[at] = failure
                continue
            try:
                found[at] = yield from talk.conclude(raws[at], bodies[at], came, failure)
            except AdytumError as error:
                found[at] = error
        left, failures = list(later), failures + 1
        if left and failures < talk.retries.attempts:
            yield talk.retries.pause(failures, max(one.error.retry_after_ms for one in later.values()))
            continue
        for at, failure in later.items():
            found[at] = UnreachableError(
                failure.code, failure.error.field, request_id=bodies[at].request_id, body=raws[at]
            )
        return [found[at] for at in range(len(raws))]


def _ask(talk: Conversation, items: Sequence[tuple[bytes, Body]]) -> Steps[list[Came]]:
    content = write_batch([(raw, format_stamp(talk.stamp(raw, body))) for raw, body in items])
    call = Call(method="POST", path=PATH, content=content, headers={"Content-Type": "application/json"})
    came, failure = yield from ask(call, talk.retries)
    if failure is not None:
        raise RefusedError(failure.code, failure.error.field, status=came.status)
    answers = read(came.body, BatchAnswer).answers
    if len(answers) != len(items):
        raise UntrustedError(Code.MESSAGE_INVALID, "$.answers")
    return [Came(one.status, bytes(one.answer)) for one in answers]
