"""The wiring of the trusted program, on one screen: parts are made once, in order, and given what they need.

`Platform` is everything that differs between Nitro hardware and the stand-in; the program itself is the same.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from adytum_enclave.core.enclave import Enclave
from adytum_enclave.core.entropy import Fill, public_bytes
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.warmup import warm_up
from adytum_enclave.shell.clock import TrustedClock, nsm_time
from adytum_enclave.shell.dispatcher import Dispatcher
from adytum_enclave.shell.imds import Imds
from adytum_enclave.shell.imds import keep as keep_credentials
from adytum_enclave.shell.nsm import Nsm, Transport
from adytum_enclave.shell.perform import Performer
from adytum_enclave.shell.server import Port, serve
from adytum_enclave.shell.upstream import Upstream
from adytum_wire import limits

BUILD = "adytum-enclave 0.1.0"
ARENA_BYTES = 8 * 1024 * limits.KIB
CLOCK_REFRESH_S = 60.0
EXPIRE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """`nsm`: request bytes to reply bytes. `listen(port)`: a listening socket. `dial(cid, port)`: a connection to the
    parent's port; `cid` is None where there are no CIDs. `arena`: memory for secrets. `fill`: randomness.
    `report`: takes coded events."""

    nsm: Transport
    listen: Callable[[int], socket.socket]
    dial: Callable[[int | None, int], Awaitable[socket.socket]]
    fill: Fill
    report: Callable[[str], None]
    arena: Arena


async def run(platform: Platform, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then wipe every secret."""
    loop = asyncio.get_running_loop()
    # The default handler prints tracebacks; the console is the host's to read, so it gets a code and nothing else.
    loop.set_exception_handler(lambda _loop, _context: platform.report("internal-error"))
    warm_up(platform.arena, platform.fill)
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nsm")
    nsm = Nsm(platform.nsm)
    clock = TrustedClock(nsm_time(nsm), monotonic=time.monotonic)
    enclave = Enclave(arena=platform.arena, now_ms=clock.now_ms, fill=platform.fill, build=BUILD)

    upstream = Upstream(
        enclave=enclave,
        dial=lambda port: platform.dial(dispatcher.parent_cid, port),
        now_ms=clock.now_ms,
        jitter=lambda: public_bytes(platform.fill, 1)[0] / 256,
    )
    performer = Performer(
        nsm=nsm,
        executor=executor,
        kms=upstream.kms,
        recipient_spki=enclave.recipient.spki,
        counters=enclave.counters,
        anchor=upstream.anchor,
    )
    dispatcher = Dispatcher(enclave, performer, drift_ms=lambda: clock.drift_ms)
    timeout_s = limits.FRAME_TIMEOUT_MS / 1000
    control = await serve(
        platform.listen(limits.CONTROL_PORT),
        Port(
            dispatcher.control,
            max_in_flight=limits.MAX_CONTROL_IN_FLIGHT,
            max_connections=limits.MAX_CONNECTIONS,
            frame_timeout_s=timeout_s,
        ),
    )
    data = await serve(
        platform.listen(limits.DATA_PORT),
        Port(
            dispatcher.data,
            max_in_flight=limits.MAX_IN_FLIGHT,
            max_connections=limits.MAX_CONNECTIONS,
            frame_timeout_s=timeout_s,
        ),
    )
    chores = [
        loop.create_task(_every(EXPIRE_S, enclave.expire, platform.report)),
        loop.create_task(clock.keep(CLOCK_REFRESH_S)),
        loop.create_task(
            keep_credentials(
                Imds(lambda: platform.dial(dispatcher.parent_cid, limits.IMDS_PORT)),
                is_wanted=enclave.wants_imds,
                now_ms=clock.now_ms,
                renew=enclave.renew_credentials,
                report=platform.report,
            )
        ),
    ]
    platform.report("ready")
    try:
        await stop.wait()
    finally:
        for server in (control, data):
            server.close()
        await dispatcher.drain()
        for chore in chores:
            chore.cancel()
        await upstream.aclose()
        enclave.wipe()
        executor.shutdown(wait=False)
        platform.report("stopped")


async def _every(seconds: float, chore: Callable[[], None], report: Callable[[str], None]) -> None:
    """For ever: a defect at one turn, which the console learns as a code, must not end what wipes keys."""
    while True:
        await asyncio.sleep(seconds)
        try:
            chore()
        except Exception:
            report("internal-error")
