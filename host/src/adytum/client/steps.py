"""The client without I/O: each call is a generator that yields what to send (or how long to wait) and is given what
came.

`AsyncAdytum` and `Adytum` drive the same generators, so there is one place where retries and checks stand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from adytum.bounded import UnboundedError
from adytum.client.errors import RefusedError, UnreachableError, UntrustedError
from adytum_wire.errors import Code

T = TypeVar("T")
SESSION_GONE = frozenset({Code.SESSION_UNKNOWN, Code.SESSION_EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An HTTP request to make."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """An HTTP answer; status 0 when nobody answered."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Steps = Generator[Call | Pause, Came, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """`attempts` in all; waits start at `first_s` and double up to `most_s`, or are what the service asked for, each
    times `jitter()` (0.5 to 1)."""

    attempts: int = 5
    first_s: float = 0.1
    most_s: float = 5.0
    jitter: Callable[[], float] = lambda: 1.0

    def pause(self, failures: int, asked_ms: int) -> Pause:
        wait = asked_ms / 1000 if asked_ms else self.first_s * 2.0 ** min(failures - 1, 16)
        return Pause(min(wait, self.most_s) * self.jitter())


class _Problem(msgspec.Struct):
    code: str
    field: str = ""
    retry_after_ms: int = 0


class Failure(msgspec.Struct):
    """The service's error answer. `receipt` is raw JSON or null."""

    error: _Problem
    receipt: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def code(self) -> Code:
        try:
            return Code(self.error.code)
        except ValueError:
            return Code.INTERNAL


def ask(call: Call, retries: Retries, request_id: str = "") -> Steps[tuple[Came, Failure | None]]:
    """Send until there is a final answer: (answer, None) for success, (answer, failure) for a refusal.

    The same bytes are sent each time, so a repeat can have no second effect. Errors: UnreachableError.
    """
    failures = 0
    while True:
        came = yield call
        failure = failure_in(came)
        if failure is None:
            return came, None
        if not failure.code.retryable:
            return came, failure
        failures += 1
        if failures >= retries.attempts:
            body = call.content if request_id else b""
            raise UnreachableError(failure.code, failure.error.field, request_id=request_id, body=body)
        yield retries.pause(failures, failure.error.retry_after_ms)


def fetch(call: Call, retries: Retries, kind: type[T]) -> Steps[T]:
    """Ask, and read the JSON answer as `kind`. Errors: UnreachableError, RefusedError, UntrustedError."""
    came, failure = yield from ask(call, retries)
    if failure is not None:
        raise RefusedError(failure.code, failure.error.field, status=came.status)
    return read(came.body, kind)


def read(body: bytes, kind: type[T]) -> T:
    """Errors: UntrustedError for JSON that is not a `kind`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UntrustedError(Code.MESSAGE_INVALID) from None


def unbounded(error: UnboundedError) -> UntrustedError:
    """The host sent what no honest one sends; no retry, since the next answer would be the same."""
    return UntrustedError(Code.MESSAGE_INVALID, f"$ ({error.reason})")


def failure_in(came: Came) -> Failure | None:
    """None: it is an answer, or (202) it waits for approvals."""
    if came.status in (200, 202):
        return None
    if came.status == 0:
        return Failure(_Problem(Code.PEER_UNAVAILABLE.value))
    try:
        return msgspec.json.decode(came.body, type=Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not our service: a proxy's page, say. Worth another try only when it says so by its status.
        retryable = came.status in (429, 502, 503, 504)
        return Failure(_Problem((Code.PEER_UNAVAILABLE if retryable else Code.MESSAGE_INVALID).value))
