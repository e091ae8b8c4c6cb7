"""The host's view of one enclave: a method per message, connections that come back by themselves.

Control and data have their own ports and connections, so that a full signing queue cannot hide the enclave's health.
Connections are made when first needed. After a failed attempt the next one waits, twice as long each time and with
jitter; a call in between fails at once with PEER_UNAVAILABLE and `retry_after_ms`. Nothing is sent twice: whether to
repeat a request is the caller's to decide (the enclave answers the same request id with the same bytes).

    client = EnclaveClient(UnixEndpoint(Path("/run/adytum")))
    print((await client.hello()).phase)
    client.close()
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import Endpoint
from adytum_wire import limits
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import (
    PROTOCOL_VERSION,
    Attest,
    AttestReply,
    Checkpoint,
    CheckpointReply,
    Configure,
    ConfigureReply,
    Credentials,
    Done,
    Execute,
    ExecuteReply,
    GetReceipts,
    GetReceiptsReply,
    GetUsage,
    GetUsageReply,
    Health,
    HealthReply,
    Hello,
    HelloReply,
    PutAnchorCredentials,
    PutPolicy,
    PutPolicyReply,
    PutUsage,
    Refusal,
    Reply,
    ResetUsage,
    SetCredentials,
    error_of,
)
from adytum_wire.record import Record
from adytum_wire.requests import AnyStamp

R = TypeVar("R")
NOT_SENT = "connect"  # the field of a PEER_UNAVAILABLE when there was no connection: the enclave knows nothing of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits between attempts to connect, in seconds: `first`, then twice as long each time, up to `most`; each is
    multiplied by `jitter()`, which returns a number from 0.5 to 1, so that many hosts do not come back as one."""

    first: float = 0.05
    most: float = 5.0
    jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, protects nothing)

    def wait(self, failures: int) -> float:
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30)) * self.jitter()


class _Link:
    """One connection to one port, made again when it is lost."""

    def __init__(self, endpoint: Endpoint, port: int, max_in_flight: int, backoff: Backoff) -> None:
        self._endpoint = endpoint
        self._port = port
        self._max_in_flight = max_in_flight
        self._backoff = backoff
        self._connection: EnclaveConnection | None = None
        self._attempt: asyncio.Task[EnclaveConnection] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    async def call(self, message: msgspec.Struct, timeout_s: float) -> Reply:
        connection = self._connection
        if connection is None or connection.error is not None:
            loop = asyncio.get_running_loop()
            started = loop.time()
            connection = await self._connect(timeout_s)
            timeout_s -= loop.time() - started
        return await connection.call(message, timeout_s=timeout_s)

    async def _connect(self, timeout_s: float) -> EnclaveConnection:
        """Share one attempt among all that wait; each waits for it as long as it has time."""
        if self._closed:
            raise AdytumError(Code.PEER_UNAVAILABLE)
        if self._attempt is None:
            loop = asyncio.get_running_loop()
            lost, self._connection = self._connection, None
            if lost is not None and lost.answers > 0:
                self._failures = 0
            elif lost is not None:  # it was accepted and turned away: no better than a refusal
                self._note_failure(loop.time())
            remaining = self._not_before - loop.time()
            if remaining > 0:
                raise AdytumError(Code.PEER_UNAVAILABLE, NOT_SENT, retry_after_ms=max(1, int(remaining * 1000)))
            self._attempt = loop.create_task(self._try())
            self._attempt.add_done_callback(_retrieve)  # all that waited may have given up
        attempt = self._attempt
        try:
            return await asyncio.wait_for(asyncio.shield(attempt), timeout_s)
        except TimeoutError:
            raise AdytumError(Code.DEADLINE_EXCEEDED) from None
        except asyncio.CancelledError:
            if attempt.cancelled():  # by close(); our caller did not cancel us
                raise AdytumError(Code.PEER_UNAVAILABLE) from None
            raise

    async def _try(self) -> EnclaveConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.FRAME_TIMEOUT_MS / 1000):
                connection = await EnclaveConnection.open(self._endpoint, self._port, max_in_flight=self._max_in_flight)
        except (AdytumError, TimeoutError):
            self._note_failure(loop.time())
            wait_ms = max(1, int((self._not_before - loop.time()) * 1000))
            raise AdytumError(Code.PEER_UNAVAILABLE, NOT_SENT, retry_after_ms=wait_ms) from None
        finally:
            self._attempt = None
        self._connection = connection
        return connection

    def _note_failure(self, now: float) -> None:
        self._failures += 1
        self._not_before = now + self._backoff.wait(self._failures)

    def close(self) -> None:
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
        if self._connection is not None:
            self._connection.close()


def _retrieve(attempt: asyncio.Task[EnclaveConnection]) -> None:
    if not attempt.cancelled():
        attempt.exception()


class EnclaveClient:
    """`connections`: to the data port, used in turn. `timeout_s`: for calls that do not say otherwise.

    Every method raises what the enclave refused with (`AdytumError`), and PEER_UNAVAILABLE, DEADLINE_EXCEEDED or
    RESOURCE_EXHAUSTED as `EnclaveConnection.call` does; MESSAGE_INVALID for an answer of the wrong kind.
    """

    def __init__(
        self, endpoint: Endpoint, *, connections: int = 1, timeout_s: float = 10.0, backoff: Backoff | None = None
    ) -> None:
        if connections < 1:
            raise ValueError("an enclave needs at least one data connection")
        backoff = backoff or Backoff()
        self._timeout_s = timeout_s
        self._control = _Link(endpoint, limits.CONTROL_PORT, limits.MAX_CONTROL_IN_FLIGHT, backoff)
        self._data = [_Link(endpoint, limits.DATA_PORT, limits.MAX_IN_FLIGHT, backoff) for _ in range(connections)]
        self._turn = 0

    async def hello(self, *, timeout_s: float | None = None) -> HelloReply:
        return await self._ask(Hello(PROTOCOL_VERSION), HelloReply, timeout_s)

    async def configure(
        self, manifest: bytes, credentials: Credentials | None = None, *, timeout_s: float | None = None
    ) -> ConfigureReply:
        return await self._ask(Configure(manifest, credentials), ConfigureReply, timeout_s)

    async def set_credentials(self, credentials: Credentials, *, timeout_s: float | None = None) -> None:
        await self._ask(SetCredentials(credentials), Done, timeout_s)

    async def put_policy(self, tenant: str, envelope: bytes, *, timeout_s: float | None = None) -> PutPolicyReply:
        return await self._ask(PutPolicy(tenant, envelope), PutPolicyReply, timeout_s)

    async def put_usage(self, tenant: str, snapshot: bytes, *, timeout_s: float | None = None) -> None:
        """Present the newest sealed usage that was kept for the tenant."""
        await self._ask(PutUsage(tenant, snapshot), Done, timeout_s)

    async def put_anchor_credentials(self, tenant: str, record: Record, *, timeout_s: float | None = None) -> None:
        """Present the tenant's newest record of kind `anchor-credentials`."""
        await self._ask(PutAnchorCredentials(tenant, record), Done, timeout_s)

    async def reset_usage(self, tenant: str, envelope: bytes, *, timeout_s: float | None = None) -> None:
        """`envelope`: DSSE envelope of a `UsageReset`, signed by the tenant's admins."""
        await self._ask(ResetUsage(tenant, envelope), Done, timeout_s)

    async def get_usage(self, tenant: str, *, timeout_s: float | None = None) -> GetUsageReply:
        """What of the tenant's limits is used and held."""
        return await self._ask(GetUsage(tenant), GetUsageReply, timeout_s)

    async def attest(self, nonce: bytes, *, timeout_s: float | None = None) -> AttestReply:
        return await self._ask(Attest(nonce), AttestReply, timeout_s)

    async def health(self, *, timeout_s: float | None = None) -> HealthReply:
        return await self._ask(Health(), HealthReply, timeout_s)

    async def get_receipts(self, first: int, *, timeout_s: float | None = None) -> list[bytes]:
        """Receipts of the running boot from number `first` on, as many as one reply carries."""
        return (await self._ask(GetReceipts(first), GetReceiptsReply, timeout_s)).receipts

    async def checkpoint(self, *, timeout_s: float | None = None) -> bytes:
        """The head of the running boot's chain, signed now: envelope bytes (`adytum_verify.verify_checkpoint`)."""
        return (await self._ask(Checkpoint(), CheckpointReply, timeout_s)).envelope

    async def execute(
        self,
        body: bytes,
        stamp: AnyStamp,
        record: Record | None = None,
        approvals: tuple[Approval, ...] = (),
        *,
        timeout_s: float | None = None,
    ) -> ExecuteReply | Refusal:
        """Carry out what a client stamped. A refusal is returned, not raised: its receipt must reach the audit.
        `adytum_wire.messages.error_of` makes an error of it."""
        self._turn = (self._turn + 1) % len(self._data)
        reply = await self._data[self._turn].call(Execute(body, stamp, record, approvals), timeout_s or self._timeout_s)
        if not isinstance(reply, ExecuteReply | Refusal):
            raise AdytumError(Code.MESSAGE_INVALID)
        return reply

    async def _ask(self, message: msgspec.Struct, expected: type[R], timeout_s: float | None) -> R:
        reply = await self._control.call(message, timeout_s or self._timeout_s)
        if isinstance(reply, expected):
            return reply
        raise error_of(reply) if isinstance(reply, Refusal) else AdytumError(Code.MESSAGE_INVALID)

    def close(self) -> None:
        """Close all connections; what is in flight fails with PEER_UNAVAILABLE, and so does every later call."""
        for link in (self._control, *self._data):
            link.close()
