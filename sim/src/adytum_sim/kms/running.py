"""Start the stand-in: in the running event loop (`running_kms`) or in a thread of its own (`kms_in_thread`).

Both give a `RunningKms`: where it listens, whom it believes, two identities (the enclave's role, and an operator who
may manage keys), and the objects inside for tests that want to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adytum_sim.kms.caller import Credentials
from adytum_sim.kms.faults import Faults
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.quotas import Quotas
from adytum_sim.kms.server import KmsServer
from adytum_sim.kms.service import KmsService
from adytum_sim.kms.state import State
from adytum_sim.kms.tls import DevCa
from adytum_sim.kms.trail import Trail
from adytum_sim.pki import DevPki
from adytum_verify import Anchor


def system_clock_ms() -> int:
    """The host's clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningKms:
    """A running stand-in. `ca_pem` is the TLS root, `anchor` the attestation root it believes (its own PKI's)."""

    port: int
    ca_pem: bytes
    pki: DevPki
    service: KmsService
    role: Credentials
    operator: Credentials

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def region(self) -> str:
        return self.service.state.region

    @property
    def account(self) -> str:
        return self.service.state.account

    @property
    def host(self) -> str:
        """The host name that the certificate carries beside the loopback address."""
        return f"kms.{self.region}.amazonaws.com"

    @property
    def faults(self) -> Faults:
        return self.service.faults

    @property
    def trail(self) -> Trail:
        return self.service.trail

    @property
    def anchor(self) -> Anchor:
        return self.pki.anchor

    @property
    def access_key_id(self) -> str:
        return self.role.access_key_id

    @property
    def secret_access_key(self) -> str:
        return self.role.secret_access_key

    @property
    def session_token(self) -> str:
        return self.role.session_token or ""

    @property
    def role_arn(self) -> str:
        return self.role.caller.principal_arn

    def create_key(self, policy: Mapping[str, Any] | None = None) -> str:
        """CreateKey as the operator; returns the ARN. Errors: KmsFault."""
        return create_key(self.service, self.operator, policy)


def create_key(service: KmsService, operator: Credentials, policy: Mapping[str, Any] | None) -> str:
    """CreateKey with `policy` (AWS's default one when None); returns the ARN. Errors: KmsFault."""
    payload = {"Policy": json.dumps(policy)} if policy is not None else {}
    answer = service.handle("TrentService.CreateKey", payload, operator.caller)
    return str(answer["KeyMetadata"]["Arn"])


@contextlib.asynccontextmanager
async def running_kms(
    *,
    pki: DevPki | None = None,
    anchors: Sequence[Anchor] | None = None,
    state: State | None = None,
    ca: DevCa | None = None,
    port: int = 0,
    now_ms: Callable[[], int] = system_clock_ms,
    random_bytes: Callable[[int], bytes] = os.urandom,
    accept_unsigned_documents: bool = False,
    faults: Faults | None = None,
    quotas: Quotas | None = None,
    trail: Trail | None = None,
) -> AsyncIterator[RunningKms]:
    """Serve while the block runs. Everything that is not given is made anew; `port` 0 takes a free one.

    `anchors` are the attestation roots to believe (default: the PKI's own). Errors: OSError when the port is taken.
    """
    state = state or State()
    pki = pki or DevPki.create(now_ms(), region=state.region)
    ca = ca or DevCa.create(system_clock_ms())
    service = KmsService(
        state,
        anchors=[pki.anchor] if anchors is None else anchors,
        now_ms=now_ms,
        random_bytes=random_bytes,
        accept_unsigned_documents=accept_unsigned_documents,
        faults=faults,
        quotas=quotas,
        trail=trail,
    )
    role, operator = bootstrap(state, random_bytes)
    names = [f"{name}.{state.region}.amazonaws.com" for name in ("kms", "sts")]
    server = KmsServer(service, ca.server_context([*names, "sts.amazonaws.com"], system_clock_ms()))
    bound = await server.start(port)
    try:
        yield RunningKms(port=bound, ca_pem=ca.pem, pki=pki, service=service, role=role, operator=operator)
    finally:
        await server.stop()


@contextlib.contextmanager
def kms_in_thread(**options: Any) -> Iterator[RunningKms]:
    """`running_kms` for code without an event loop: it runs in a thread until the block ends."""
    started = threading.Event()
    result: list[RunningKms] = []
    failure: list[BaseException] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running_kms(**options) as kms:
            result.append(kms)
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, name="kms", daemon=True)
    thread.start()
    started.wait()
    if failure:
        thread.join()
        raise failure[0]
    try:
        yield result[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
