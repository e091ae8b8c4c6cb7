"""AWS KMS for an enclave: GenerateDataKey and Decrypt with `Recipient`, over TLS that ends here.

KMS authenticates itself by TLS alone (its answer, a CMS envelope, could be forged by whoever saw our public key), so
the roots and the host name come from the measured manifest, and the host only pipes bytes. Every answer is checked:
no plaintext in it, the key that was asked for, bounded sizes, strict JSON. Opening it is `core/recipient.py`.

Retried, with jittered back-off inside the caller's deadline: lost connections, 5xx, throttling. Never retried: a
refusal. Left out: every other operation, and logging; the caller has the error's code and field.

Sources: AWS KMS API Reference (GenerateDataKey, Decrypt, Common Errors); JSON 1.1 protocol.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from adytum_enclave.core.cms import MAX_CIPHERTEXT_FOR_RECIPIENT
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
_SLOW_S: Final = 1.0  # a call given up on before this says nothing about KMS

_THROTTLING = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})
_TAMPERED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_CREDENTIALS = frozenset({"ExpiredTokenException", "UnrecognizedClientException"})
# refusals that an operator wants told apart; a name outside this list is never repeated
_REFUSALS = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "IncompleteSignature",
        "InvalidGrantTokenException",
        "InvalidKeyUsageException",
        "InvalidSignatureException",
        "KMSInvalidStateException",
        "LimitExceededException",
        "NotFoundException",
        "ValidationException",
    }
)
_TYPE = re.compile(r"\A(?:[A-Za-z0-9.]+#)?([A-Za-z]+)(?::.*)?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsAnswer:
    """`ciphertext_for_recipient`: CMS, 1 to 6144 bytes. `ciphertext_blob`: the data key under the KMS key, 1 to 6144
    bytes (for Decrypt: the one that was sent). `key_id`: the ARN that was asked for."""

    ciphertext_for_recipient: bytes = field(repr=False)
    ciphertext_blob: bytes = field(repr=False)
    key_id: str


class _Answer(Struct, frozen=True, rename="pascal"):
    """What we read of an answer. Other members are left alone: AWS adds them (KeyMaterialId came in 2025)."""

    key_id: str
    ciphertext_for_recipient: str
    ciphertext_blob: str | None = None
    plaintext: str | None = None
    encryption_algorithm: str | None = None


class _Error(Struct, frozen=True, rename={"kind": "__type"}):
    kind: str = ""


class _TryAgain(Exception):
    """Internal: this attempt failed in a way that another may mend."""


class KmsClient:
    """A pool of connections to one KMS endpoint. For one event loop; many tasks may call at once.

    dial: opens a stream socket to the endpoint (through the host's byte pipe); errors are OSError.
    host: name in TLS (SNI and certificate) and in Host. region: for signing. roots: PEM, all that is trusted.
    credentials: those in force, or None. now_ms: the trusted clock, for signatures and certificates.
    jitter: uniform in [0, 1). attempts: at most, for one call. attempt_timeout_s: for one of them, connecting
    included.
    monotonic: seconds, for the circuit breaker.
    """

    def __init__(
        self,
        *,
        dial: Callable[[], Awaitable[socket.socket]],
        host: str,
        region: str,
        roots: Sequence[str],
        credentials: Callable[[], Credentials | None],
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        max_connections: int = 8,
        attempts: int = 3,
        attempt_timeout_s: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial, self._host = dial, host
        self._context = client_context(roots)
        self._signer = Signer(service="kms", region=region)
        self._credentials, self._now_ms, self._jitter = credentials, now_ms, jitter
        self._attempts, self._attempt_timeout_s = attempts, attempt_timeout_s
        self._monotonic = monotonic
        self._breaker = Breaker(threshold=_THRESHOLD, cooldown_s=_COOLDOWN_S, monotonic=monotonic)
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[HttpConnection] = []  # last used, last in: the oldest may go stale
        self._closed = False

    async def generate_data_key(
        self, *, key_arn: str, context: dict[str, str], attestation_document: bytes, timeout_s: float
    ) -> KmsAnswer:
        """A new AES-256 data key under `key_arn`, for the RSA key in `attestation_document`.

        context: the EncryptionContext. timeout_s: for everything, waiting and retries included.
        Errors: KMS_DENIED; KMS_UNAVAILABLE (field "credentials" when there are none in force, "circuit" while KMS is
        given a rest); KMS_ANSWER_INVALID when the peer or its answer fails a check; DEADLINE_EXCEEDED. KMS keeps no
        state of the call: asking again is safe.
        """
        request = {"KeyId": key_arn, "KeySpec": "AES_256", "EncryptionContext": context}
        answer = await self._call("GenerateDataKey", request, attestation_document, timeout_s)
        blob = _unbase64(answer.ciphertext_blob or "", limits.MAX_DATA_KEY_CIPHERTEXT, "CiphertextBlob")
        return _checked(answer, key_arn, blob)

    async def decrypt(
        self,
        *,
        key_arn: str,
        ciphertext_blob: bytes,
        context: dict[str, str],
        attestation_document: bytes,
        timeout_s: float,
    ) -> KmsAnswer:
        """Open `ciphertext_blob` (1 to 6144 bytes) for the RSA key in `attestation_document`.

        Errors: as `generate_data_key`, and RECORD_TAMPERED when KMS says that the blob, its key or its context is not
        what was sealed.
        """
        if not 0 < len(ciphertext_blob) <= limits.MAX_DATA_KEY_CIPHERTEXT:
            raise AdytumError(Code.RECORD_TAMPERED, "data_key_ciphertext")
        request = {
            "KeyId": key_arn,
            "CiphertextBlob": base64.b64encode(ciphertext_blob).decode(),
            "EncryptionContext": context,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }
        answer = await self._call("Decrypt", request, attestation_document, timeout_s)
        if answer.encryption_algorithm not in (None, "SYMMETRIC_DEFAULT"):
            raise AdytumError(Code.KMS_ANSWER_INVALID, "EncryptionAlgorithm")
        return _checked(answer, key_arn, ciphertext_blob)

    async def aclose(self) -> None:
        """Close what is idle, and each other connection when its call ends. Later calls get KMS_UNAVAILABLE."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _call(
        self, operation: str, request: dict[str, Any], attestation_document: bytes, timeout_s: float
    ) -> _Answer:
        recipient = {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": base64.b64encode(attestation_document).decode(),
        }
        body = strict_json.encode({**request, "Recipient": recipient})
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._persist(operation, body)
        except TimeoutError:
            raise AdytumError(Code.DEADLINE_EXCEEDED, "kms") from None
        return strict_json.decode(response.body, _Answer, limit=MAX_RESPONSE, code=Code.KMS_ANSWER_INVALID)

    async def _persist(self, operation: str, body: bytes) -> Response:
        """Attempts until one is answered, refused, or the last has failed."""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._jitter() * min(_MAX_BACKOFF_S, _BACKOFF_S * 2**attempt))
            with contextlib.suppress(_TryAgain):
                async with self._slots:
                    return await self._attempt(operation, body)
        raise AdytumError(Code.KMS_UNAVAILABLE, retry_after_ms=limits.RETRY_AFTER_MS)

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
            raise _TryAgain from None
        except asyncio.CancelledError:
            if self._monotonic() - started >= _SLOW_S:
                verdict = self._breaker.failed  # else a caller with a short deadline could open the circuit for all
            raise
        finally:
            verdict()
        if response.status != 200:
            raise _refusal(response, operation)
        return response

    def _headers(self, operation: str, body: bytes) -> list[tuple[str, str]]:
        """Signed anew for each attempt: signatures age."""
        if self._closed:
            raise AdytumError(Code.KMS_UNAVAILABLE, "closed")
        credentials, now_ms = self._credentials(), self._now_ms()
        if credentials is None or 0 < credentials.expires_at <= now_ms:
            raise AdytumError(Code.KMS_UNAVAILABLE, "credentials")
        headers = [("X-Amz-Target", f"TrentService.{operation}"), ("Content-Type", "application/x-amz-json-1.1")]
        try:
            return self._signer.sign("POST", self._host, headers, body, credentials, now_ms=now_ms)
        except ValueError:  # credentials that are no header value
            raise AdytumError(Code.KMS_UNAVAILABLE, "credentials") from None

    async def _exchange(self, headers: list[tuple[str, str]], body: bytes) -> Response:
        if self._idle:
            with contextlib.suppress(StaleError):
                return await self._use(self._idle.pop(), headers, body)
        return await self._use(await self._connect(), headers, body)

    async def _connect(self) -> HttpConnection:
        stream = TlsStream(await self._dial(), self._context, self._host)
        try:
            await stream.handshake(self._now_ms())
        except BaseException:
            stream.close()
            raise
        return HttpConnection(stream)

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


def _refusal(response: Response, operation: str) -> Exception:
    """What a status other than 200 means (AWS KMS API Reference, Common Errors and each operation's Errors)."""
    if response.status >= 500 or response.status == 429:
        return _TryAgain()
    if response.status < 400:
        return AdytumError(Code.KMS_ANSWER_INVALID, "http.status")
    fault = strict_json.decode(response.body, _Error, limit=MAX_RESPONSE, code=Code.KMS_ANSWER_INVALID)
    match = _TYPE.match(fault.kind)
    name = match.group(1) if match else ""
    if name in _THROTTLING:
        return _TryAgain()
    if name in _TAMPERED and operation == "Decrypt":
        return AdytumError(Code.RECORD_TAMPERED, "data_key_ciphertext")
    if name in _CREDENTIALS:
        return AdytumError(Code.KMS_UNAVAILABLE, "credentials")
    return AdytumError(Code.KMS_DENIED, name if name in _REFUSALS else "")


def _checked(answer: _Answer, key_arn: str, ciphertext_blob: bytes) -> KmsAnswer:
    if answer.plaintext:  # with Recipient, KMS sends none: who sends one is not KMS, or did not read the request
        raise AdytumError(Code.KMS_ANSWER_INVALID, "Plaintext")
    if answer.key_id != key_arn:
        raise AdytumError(Code.KMS_ANSWER_INVALID, "KeyId")
    cms = _unbase64(answer.ciphertext_for_recipient, MAX_CIPHERTEXT_FOR_RECIPIENT, "CiphertextForRecipient")
    return KmsAnswer(ciphertext_for_recipient=cms, ciphertext_blob=ciphertext_blob, key_id=key_arn)


def _unbase64(text: str, most: int, name: str) -> bytes:
    if 0 < len(text) <= 4 * -(-most // 3):
        with contextlib.suppress(binascii.Error, ValueError):
            data = base64.b64decode(text, validate=True)
            if 0 < len(data) <= most:
                return data
    raise AdytumError(Code.KMS_ANSWER_INVALID, name)
