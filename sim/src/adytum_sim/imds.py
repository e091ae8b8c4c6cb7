"""A stand-in for the instance metadata service, version 2 only: a token first, then the role's credentials.

Source: EC2 User Guide, "Use the Instance Metadata Service". Without a living token every answer is 401; a forwarded
request is refused, as the real one does.

Example:
    async with running_imds(kms.service, now_ms=clock, random_bytes=os.urandom) as endpoint:
        ...                                        # AWS_EC2_METADATA_SERVICE_ENDPOINT=<endpoint>
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

from adytum_sim.kms.http1 import HttpAnswer, HttpServer
from adytum_sim.kms.identities import ROLE, SESSION
from adytum_sim.kms.service import KmsService
from adytum_sim.kms.sigv4 import SignedRequest
from adytum_sim.sts import new_session

CREDENTIAL_SECONDS: Final = 6 * 3600
RENEW_BEFORE_MS: Final = 15 * 60 * 1000
MAX_TTL_SECONDS: Final = 21_600
_CREDENTIALS: Final = "/latest/meta-data/iam/security-credentials/"


class Imds:
    """Answers requests. `handle` is what an `HttpServer` calls."""

    def __init__(self, service: KmsService, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        self._service, self._now_ms, self._random = service, now_ms, random_bytes
        self._tokens: dict[str, int] = {}
        self._credentials = b""
        self._renew_ms = 0

    async def handle(self, request: SignedRequest) -> HttpAnswer:
        if request.header("x-forwarded-for") is not None:
            return _text(403, "")
        if request.target == "/latest/api/token":
            return self._token(request)
        token = request.header("x-aws-ec2-metadata-token") or ""
        if request.method != "GET" or self._tokens.get(token, 0) <= self._now_ms():
            return _text(401, "")
        return self._document(request.target)

    def _token(self, request: SignedRequest) -> HttpAnswer:
        ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds") or ""
        if request.method != "PUT" or not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_SECONDS:
            return _text(400, "")
        now_ms = self._now_ms()
        self._tokens = {token: until for token, until in self._tokens.items() if until > now_ms}
        token = self._random(32).hex()
        self._tokens[token] = now_ms + int(ttl) * 1000
        return HttpAnswer(status=200, body=token.encode(), headers=(("x-aws-ec2-metadata-token-ttl-seconds", ttl),))

    def _document(self, target: str) -> HttpAnswer:
        state = self._service.state
        if target == _CREDENTIALS:
            return _text(200, ROLE)
        if target == _CREDENTIALS + ROLE:
            return HttpAnswer(status=200, body=self._role_credentials())
        plain = {"/latest/meta-data/placement/region": state.region, "/latest/meta-data/instance-id": SESSION}
        return _text(200, plain[target]) if target in plain else _text(404, "")

    def _role_credentials(self) -> bytes:
        now_ms = self._now_ms()
        if now_ms >= self._renew_ms:
            made = new_session(
                self._service.state, ROLE, SESSION, seconds=CREDENTIAL_SECONDS, now_ms=now_ms, random_bytes=self._random
            )
            until_ms = made.expires_ms or 0
            self._renew_ms = until_ms - RENEW_BEFORE_MS
            self._credentials = json.dumps(
                {
                    "Code": "Success",
                    "LastUpdated": _time(now_ms),
                    "Type": "AWS-HMAC",
                    "AccessKeyId": made.access_key_id,
                    "SecretAccessKey": made.secret_access_key,
                    "Token": made.session_token,
                    "Expiration": _time(until_ms),
                }
            ).encode()
        return self._credentials


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(status: int, text: str) -> HttpAnswer:
    return HttpAnswer(status=status, body=text.encode(), headers=(("content-type", "text/plain"),))


@contextlib.asynccontextmanager
async def running_imds(
    service: KmsService, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes], port: int = 0
) -> AsyncIterator[str]:
    """Serve on 127.0.0.1 while the block runs; gives the endpoint. Errors: OSError when the port is taken."""
    server = HttpServer(Imds(service, now_ms=now_ms, random_bytes=random_bytes).handle)
    bound = await server.start(port)
    try:
        yield f"http://127.0.0.1:{bound}"
    finally:
        await server.stop()
