"""AWS credentials from the parent's instance metadata service, version 2 (manifest.kms.credentials `imds`).

They are dialled through the host's pipe and come in the clear: whoever sits there knows them anyway, or gives false
ones, and KMS then refuses. They authorise; attestation binds. Source: EC2 User Guide, "Use the Instance Metadata
Service to access instance metadata".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import h11
import msgspec

from adytum_wire import limits
from adytum_wire.messages import Credentials

HOST: Final = "169.254.169.254"
TIMEOUT_S: Final = 5.0
RENEW_BEFORE_MS: Final = 10 * 60_000
RETRY_S: Final = 2.0  # doubled with each failure in a row
MAX_RETRY_S: Final = 60.0
MAX_WAIT_S: Final = 3600.0  # whatever the answer says of its expiry, it is asked again after this
UNWANTED_S: Final = 0.2
_MAX_ANSWER: Final = 16 * limits.KIB  # bytes
_TOKEN_SECONDS: Final = 60
_ROLES: Final = "/latest/meta-data/iam/security-credentials/"


class ImdsError(Exception):
    """The service cannot be reached or gave no credentials. Says nothing: the next attempt comes by itself."""


class _Document(msgspec.Struct):
    """What is read of the answer; AWS adds fields as it likes."""

    AccessKeyId: str
    SecretAccessKey: str
    Token: str
    Expiration: datetime


class Imds:
    """`dial`: a connection to the metadata service (a non-blocking socket, which is closed after each question)."""

    def __init__(self, dial: Callable[[], Awaitable[socket.socket]]) -> None:
        self._dial = dial

    async def credentials(self) -> Credentials:
        """Those of the instance's role. Errors: ImdsError."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                lifetime = ("X-aws-ec2-metadata-token-ttl-seconds", str(_TOKEN_SECONDS))
                token = (await self._ask("PUT", "/latest/api/token", lifetime)).decode("ascii")
                proof = ("X-aws-ec2-metadata-token", token)
                role = (await self._ask("GET", _ROLES, proof)).decode("ascii").strip()
                if not role or not role.isprintable() or len(role) > 128 or set(role) & set(" /?#"):
                    raise ImdsError
                found = msgspec.json.decode(await self._ask("GET", _ROLES + role, proof), type=_Document)
                if found.Expiration.tzinfo is None:
                    raise ImdsError
                # a date in the first or last hours that there are overflows on its way to UTC
                expires_at = int(found.Expiration.astimezone(UTC).timestamp() * 1000)
        except (OSError, TimeoutError, ValueError, OverflowError, msgspec.DecodeError, h11.ProtocolError):
            raise ImdsError from None
        return Credentials(found.AccessKeyId, found.SecretAccessKey, found.Token, max(expires_at, 1))

    async def _ask(self, method: str, target: str, header: tuple[str, str]) -> bytes:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
        request = h11.Request(method=method, target=target, headers=[("Host", HOST), ("Content-Length", "0"), header])
        data = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        loop = asyncio.get_running_loop()
        with await self._dial() as line:
            await loop.sock_sendall(line, data)
            body = bytearray()
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await loop.sock_recv(line, 4096))
                elif isinstance(event, h11.Response) and event.status_code != 200:
                    raise ImdsError
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > _MAX_ANSWER:
                        raise ImdsError
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                elif not isinstance(event, h11.Response | h11.InformationalResponse):
                    raise ImdsError


async def keep(
    imds: Imds,
    *,
    is_wanted: Callable[[], bool],
    now_ms: Callable[[], int],
    renew: Callable[[Credentials], None],
    report: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Hand fresh credentials to `renew` for as long as this runs, each before the last ones expire. `is_wanted`: the
    manifest has come and says `imds`. `report` hears `credentials-failed` when a renewal fails for the first time, and
    `credentials-renewed` when one succeeds after that. Nothing that is answered ends this."""
    failures = 0
    while True:
        if not is_wanted():
            await sleep(UNWANTED_S)
            continue
        try:
            found = await imds.credentials()
            left_s = (found.expires_at - now_ms()) / 1000
            if left_s <= 0:
                raise ImdsError  # those in force may be good still
            renew(found)
        except Exception:  # of any kind: when this ends, the enclave ends with its last credentials
            failures += 1
            if failures == 1:
                report("credentials-failed")
            await sleep(min(MAX_RETRY_S, RETRY_S * 2 ** min(failures - 1, 16)))
            continue
        if failures:
            failures = 0
            report("credentials-renewed")
        await sleep(min(MAX_WAIT_S, max(RETRY_S, left_s - RENEW_BEFORE_MS / 1000)))
