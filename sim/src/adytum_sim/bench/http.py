"""`adytum bench http`: the whole deployment, from HTTP to a receipt that is durable in PostgreSQL before the answer.

Client, service, database and enclave share this machine, so a rate says what this machine does with all of them, and
`of_needed` what part of it the primitives of the requests would take on one core.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from adytum.service.admit import STAMP_HEADER, format_stamp
from adytum_sim.bench import primitives
from adytum_sim.bench.drive import process_seconds
from adytum_sim.bench.enclave import WARM, median_of, percentile
from adytum_sim.bench.http_load import Loaded
from adytum_sim.bench.workload import LABEL, Client, Kind, StampBy, policy, sign_bodies
from adytum_sim.host import Host, running_host
from adytum_sim.people import signed_policy
from adytum_sim.stack import running_stack
from adytum_wire.types import Algorithm, Scheme, SigningScheme

_ROUNDS = 3
_PROBE = 400


class HttpMeasured(Struct, frozen=True, kw_only=True):
    """Medians over the rounds. `errors`: answers other than 200. `service_us`, `enclave_us`: processor time of these
    two processes for one request; unlike the rate they do not say what else the machine was doing."""

    clients: int
    requests: int
    errors: int
    rate: float  # a second
    p50_ms: float
    p95_ms: float
    p99_ms: float
    of_needed: float
    service_us: float
    enclave_us: float


class _Round(Struct, frozen=True, kw_only=True):
    loaded: Loaded
    service_s: float
    enclave_s: float


class HttpReport(Struct, frozen=True, kw_only=True):
    measured: list[HttpMeasured]
    primitives_us: dict[str, float]


async def run(directory: Path, clients: Sequence[int], *, seconds: float) -> HttpReport:
    """Ethereum transfers on one warm key, stamped with Ed25519; about `seconds` of load for each number of clients."""
    measured: list[HttpMeasured] = []
    prices: list[dict[str, float]] = []
    bare = primitives.Primitives()
    async with (
        running_stack(directory / "s", bounds=WARM, configure=False) as stack,
        running_host(stack, directory) as host,
    ):
        client = Client(Scheme.ED25519)
        async with host.client(client.person) as sdk:
            await sdk.put_policy(signed_policy(policy(stack, [client]), *stack.admins))
            key = await sdk.generate_key(Algorithm.SECP256K1, labels=[LABEL])
        for number in clients:
            probe = await _load(host, client, key.result.key_id, max(number, _PROBE // 4), number)
            count = max(2 * number, int(len(probe.loaded.latencies) / probe.loaded.seconds * seconds / _ROUNDS))
            rounds = []
            before = await asyncio.to_thread(bare.measure)
            for _ in range(_ROUNDS):
                one = await _load(host, client, key.result.key_id, count, number)
                after = await asyncio.to_thread(bare.measure)
                rounds.append((one, median_of([before, after])))
                before = after
            prices += [price for _, price in rounds]
            measured.append(summarise(number, rounds))
    return HttpReport(measured=measured, primitives_us=median_of(prices))


def summarise(clients: int, rounds: Sequence[tuple[_Round, dict[str, float]]]) -> HttpMeasured:
    """Medians over the rounds, each given with the prices around it."""
    lines = []
    for one, prices in rounds:
        loaded, count = one.loaded, len(one.loaded.latencies)
        rate = count / loaded.seconds
        cpu = {"service_us": one.service_s / count * 1e6, "enclave_us": one.enclave_s / count * 1e6}
        needed_us = primitives.needed(prices, StampBy.ED25519, SigningScheme.ECDSA_SECP256K1, clients)
        parts = {f"p{part}_ms": percentile(loaded.latencies, part) * 1e3 for part in (50, 95, 99)}
        lines.append({"rate": rate, "of_needed": rate * needed_us / 1e6, **parts, **cpu})
    return HttpMeasured(
        clients=clients,
        requests=sum(len(one.loaded.latencies) for one, _ in rounds),
        errors=sum(count for one, _ in rounds for status, count in one.loaded.statuses.items() if status != 200),
        **{name: statistics.median(line[name] for line in lines) for name in lines[0]},
    )


async def _load(host: Host, client: Client, key_id: str, count: int, clients: int) -> _Round:
    """Errors: RuntimeError with what the load process said."""
    where = urlsplit(host.service.base_url)
    bodies = sign_bodies(
        key_id, count, scheme=SigningScheme.ECDSA_SECP256K1, kind=Kind.TRANSFER, now_ms=host.stack.now_ms()
    )
    requests = [_request(where.netloc, body, format_stamp(client.stamp_of(body))) for body in bodies]
    service_s, enclave_s = time.process_time(), process_seconds(host.stack.process.pid)  # the service runs in here
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adytum_sim.bench.http_load",
        str(where.port),
        str(clients),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate(msgspec.msgpack.encode(requests))
    if process.returncode != 0:
        raise RuntimeError("the load process failed:\n" + error.decode(errors="replace"))
    return _Round(
        loaded=msgspec.json.decode(out, type=Loaded),
        service_s=time.process_time() - service_s,
        enclave_s=process_seconds(host.stack.process.pid) - enclave_s,
    )


def _request(host: str, body: bytes, stamp: str) -> bytes:
    head = (
        f"POST /v1/sign HTTP/1.1\r\nHost: {host}\r\n{STAMP_HEADER}: {stamp}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
