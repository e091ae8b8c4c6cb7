"""The last step, answer: the enclave's bytes, spliced into JSON byte for byte.

200  {"request_id": ..., "result": <as the enclave wrote it>, "receipt": <likewise>}
4xx, 5xx  {"error": {"code", "field", "text", "retry_after_ms"}, "receipt": <receipt or null>}
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from adytum_wire.errors import AdytumError, Code

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode
_NULL = msgspec.Raw(b"null")
DEFAULT_RETRY_MS = 1000


class _Success(msgspec.Struct):
    request_id: str
    result: msgspec.Raw
    receipt: msgspec.Raw


class _ErrorBody(msgspec.Struct):
    code: str
    field: str
    text: str
    retry_after_ms: int


class _Failure(msgspec.Struct):
    error: _ErrorBody
    receipt: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` is "" for success. `retry_after_s`: 0, or whole seconds for the Retry-After header."""

    status: int
    body: bytes
    code: str = ""
    retry_after_s: int = 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"content-type", JSON), (b"content-length", b"%d" % len(self.body)), (b"cache-control", b"no-store")]
        if self.retry_after_s:
            found.append((b"retry-after", b"%d" % self.retry_after_s))
        return found


def success(request_id: str, result: bytes, receipt: bytes) -> Answer:
    return Answer(200, _encode(_Success(request_id, msgspec.Raw(result), msgspec.Raw(receipt))))


def failure(error: AdytumError, receipt: bytes = b"") -> Answer:
    """429 and 503 carry Retry-After; every retryable error carries `retry_after_ms`."""
    code = error.code
    retry_ms = error.retry_after_ms or (DEFAULT_RETRY_MS if code.retryable else 0)
    body = _encode(
        _Failure(_ErrorBody(code.value, error.field, code.text, retry_ms), msgspec.Raw(receipt) if receipt else _NULL)
    )
    hint = -(-retry_ms // 1000) if code.http_status in (429, 503) else 0
    return Answer(code.http_status, body, code.value, hint)


def of_stored(request_id: str, result: bytes, receipt: bytes, code: str, field: str) -> Answer:
    """The answer that a stored row stands for: the same bytes as the first time."""
    if not code:
        return success(request_id, result, receipt)
    return failure(AdytumError(Code(code), field), receipt)


def json_answer(value: object, status: int = 200) -> Answer:
    return Answer(status, _encode(value))
