"""A client of one AWS JSON service over TLS that ends here: pool, signatures, deadlines, retries, circuit breaker.

KMS and the DynamoDB anchor are built on it. The roots and the host name come from the measured manifest, and the host
only pipes bytes. Retried, with jittered back-off inside the caller's deadline: lost connections, 5xx, throttling. Never
retried: a refusal. Left out: what a service's answers mean, and logging; the caller has the error's code and field.

Sources: JSON 1.0 and 1.1 protocols; AWS API References, Common Errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from adytum_enclave.core.usage.credentials import AnchorKey
from adytum_enclave.shell.kms_breaker import Breaker
from adytum_enclave.shell.kms_http import MAX_RESPONSE, HttpConnection, Response, StaleError
from adytum_enclave.shell.kms_tls import TlsStream, client_context
from adytum_enclave.shell.sigv4 import Signer
from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials

_THRESHOLD: Final = 5  # failures in a row that open the circuit
_COOLDOWN_S: Final = 2.0
_BACKOFF_S: Final = 0.05  # doubled each attempt, times the jitter
_MAX_BACKOFF_S: Final = 1.0
_SLOW_S: Final = 1.0  # a call given up on before this says nothing about the service

_THROTTLING = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CREDENTIALS = frozenset({"ExpiredTokenException", "UnrecognizedClientException"})
_TYPE = re.compile(r"\A(?:[A-Za-z0-9._]+#)?([A-Za-z]+)(?::.*)?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`signing_name`, `target` (X-Amz-Target's prefix) and `content_type` as AWS names them. `unavailable`, `invalid`:
    codes for no answer, and for one that fails a check. `roots_field`: the manifest's, for its errors.
    `max_response`: bytes."""

    signing_name: str
    target: str
    content_type: str
    unavailable: Code
    invalid: Code
    roots_field: str
    max_response: int = MAX_RESPONSE


class _Error(Struct, frozen=True, rename={"kind": "__type"}):
    kind: str = ""


class TryAgainError(Exception):
    """Internal: this attempt failed in a way that another may mend."""


class AwsClient(ABC):
    """A pool of connections to one endpoint. For one event loop; many tasks may call at once.

    dial: opens a stream socket to the endpoint (through the host's byte pipe); errors are OSError.
    host: name in TLS (SNI and certificate) and in Host. region: for signing. roots: PEM, all that is trusted.
    credentials: those in force, or None. now_ms: the trusted clock, for signatures and certificates.
    jitter: uniform in [0, 1). attempts: at most, for one call. attempt_timeout_s: for one of them, connecting
    included.
    monotonic: seconds, for the circuit breaker.
    """

    def __init__(
        self,
        service: Service,
        *,
        dial: Callable[[], Awaitable[socket.socket]],
        host: str,
        region: str,
        roots: Sequence[str],
        credentials: Callable[[], Credentials | AnchorKey | None],
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        max_connections: int = 8,
        attempts: int = 3,
        attempt_timeout_s: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial, self._host = dial, host
        self._service = service
        self._context = client_context(roots, field=service.roots_field)
        self._signer = Signer(service=service.signing_name, region=region)
        self._credentials, self._now_ms, self._jitter = credentials, now_ms, jitter
        self._attempts, self._attempt_timeout_s = attempts, attempt_timeout_s
        self._monotonic = monotonic
        self._breaker = Breaker(
            threshold=_THRESHOLD, cooldown_s=_COOLDOWN_S, monotonic=monotonic, code=service.unavailable
        )
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[HttpConnection] = []  # last used, last in: the oldest may go stale
        self._closed = False

    @abstractmethod
    def _refusal(self, name: str, operation: str) -> AdytumError:
        """What a refusal means. `name`: the error's type as AWS writes it, "" when there is none."""

    async def _ask(self, operation: str, body: bytes, timeout_s: float) -> Response:
        """The answer, status 200. Errors: the service's codes, DEADLINE_EXCEEDED."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._persist(operation, body)
        except TimeoutError:
            raise AdytumError(Code.DEADLINE_EXCEEDED, self._service.signing_name) from None

    async def aclose(self) -> None:
        """Close what is idle, and each other connection when its call ends. Later calls fail."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _persist(self, operation: str, body: bytes) -> Response:
        """Attempts until one is answered, refused, or the last has failed."""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._jitter() * min(_MAX_BACKOFF_S, _BACKOFF_S * 2**attempt))
            with contextlib.suppress(TryAgainError):
                async with self._slots:
                    return await self._attempt(operation, body)
        raise AdytumError(self._service.unavailable, retry_after_ms=limits.RETRY_AFTER_MS)

    async def _attempt(self, operation: str, body: bytes) -> Response:
        headers = self._headers(operation, body)
        self._breaker.admit()
        started = self._monotonic()
        verdict = self._breaker.abandoned
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                response = await self._exchange(headers, body)
            verdict = self._breaker.failed if response.status >= 500 else self._breaker.succeeded
        except OSError:  # TimeoutError is one
            verdict = self._breaker.failed
            raise TryAgainError from None
        except asyncio.CancelledError:
            if self._monotonic() - started >= _SLOW_S:
                verdict = self._breaker.failed  # else a caller with a short deadline could open the circuit for all
            raise
        finally:
            verdict()
        if response.status != 200:
            raise self._failure(response, operation)
        return response

    def _headers(self, operation: str, body: bytes) -> list[tuple[str, str]]:
        """Signed anew for each attempt: signatures age."""
        if self._closed:
            raise AdytumError(self._service.unavailable, "closed")
        credentials, now_ms = self._credentials(), self._now_ms()
        if credentials is None or 0 < credentials.expires_at <= now_ms:
            raise AdytumError(self._service.unavailable, "credentials")
        headers = [
            ("X-Amz-Target", f"{self._service.target}.{operation}"),
            ("Content-Type", self._service.content_type),
        ]
        try:
            return self._signer.sign("POST", self._host, headers, body, credentials, now_ms=now_ms)
        except ValueError:  # credentials that are no header value
            raise AdytumError(self._service.unavailable, "credentials") from None

    async def _exchange(self, headers: list[tuple[str, str]], body: bytes) -> Response:
        if self._idle:
            with contextlib.suppress(StaleError):
                return await self._use(self._idle.pop(), headers, body)
        return await self._use(await self._connect(), headers, body)

    async def _connect(self) -> HttpConnection:
        stream = TlsStream(await self._dial(), self._context, self._host, code=self._service.invalid)
        try:
            await stream.handshake(self._now_ms())
        except BaseException:
            stream.close()
            raise
        return HttpConnection(stream, code=self._service.invalid, max_response=self._service.max_response)

    async def _use(self, connection: HttpConnection, headers: list[tuple[str, str]], body: bytes) -> Response:
        try:
            response = await connection.post(headers, body)
        except BaseException:
            connection.close()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def _failure(self, response: Response, operation: str) -> Exception:
        """What a status other than 200 means (Common Errors, and each operation's Errors)."""
        service = self._service
        if response.status >= 500 or response.status == 429:
            return TryAgainError()
        if response.status < 400:
            return AdytumError(service.invalid, "http.status")
        fault = strict_json.decode(response.body, _Error, limit=service.max_response, code=service.invalid)
        match = _TYPE.match(fault.kind)
        name = match.group(1) if match else ""
        if name in _THROTTLING:
            return TryAgainError()
        if name in _CREDENTIALS:
            return AdytumError(service.unavailable, "credentials")
        return self._refusal(name, operation)
