"""What the service needs of the outside, as protocols: an enclave, credentials, time, randomness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from adytum_wire.approvals import Approval
from adytum_wire.messages import (
    AttestReply,
    ConfigureReply,
    Credentials,
    ExecuteReply,
    GetUsageReply,
    HealthReply,
    HelloReply,
    PutPolicyReply,
    Refusal,
)
from adytum_wire.record import Record
from adytum_wire.requests import AnyStamp

# Phases of an enclave, as HelloReply and HealthReply name them.
AWAITING_MANIFEST: Final = "awaiting-manifest"
READY: Final = "ready"


class Executor(Protocol):
    """What carries out a request: one enclave, or the pool's way to the right one."""

    async def execute(
        self,
        body: bytes,
        stamp: AnyStamp,
        record: Record | None = None,
        approvals: tuple[Approval, ...] = (),
        *,
        timeout_s: float | None = None,
    ) -> ExecuteReply | Refusal: ...


class Enclave(Executor, Protocol):
    """One enclave (`adytum.enclave.EnclaveClient`). Every method raises AdytumError; `execute` returns refusals."""

    async def hello(self, *, timeout_s: float | None = None) -> HelloReply: ...
    async def configure(
        self, manifest: bytes, credentials: Credentials | None = None, *, timeout_s: float | None = None
    ) -> ConfigureReply: ...
    async def set_credentials(self, credentials: Credentials, *, timeout_s: float | None = None) -> None: ...
    async def put_policy(self, tenant: str, envelope: bytes, *, timeout_s: float | None = None) -> PutPolicyReply: ...
    async def put_usage(self, tenant: str, snapshot: bytes, *, timeout_s: float | None = None) -> None: ...
    async def put_anchor_credentials(self, tenant: str, record: Record, *, timeout_s: float | None = None) -> None: ...
    async def reset_usage(self, tenant: str, envelope: bytes, *, timeout_s: float | None = None) -> None: ...
    async def get_usage(self, tenant: str, *, timeout_s: float | None = None) -> GetUsageReply: ...
    async def attest(self, nonce: bytes, *, timeout_s: float | None = None) -> AttestReply: ...
    async def health(self, *, timeout_s: float | None = None) -> HealthReply: ...
    async def get_receipts(self, first: int, *, timeout_s: float | None = None) -> list[bytes]: ...
    async def checkpoint(self, *, timeout_s: float | None = None) -> bytes: ...
    def close(self) -> None: ...


# Where AWS credentials come from; None when there are none (yet).
CredentialsProvider = Callable[[], Awaitable[Credentials | None]]

NowMs = Callable[[], int]  # ms since the epoch, the host's own clock
RandomBytes = Callable[[int], bytes]
