"""`adytum bench enclave`: signatures a second of one real enclave process, warm and cold, beside the bare primitives.

Two ratios are reported. `of_sign`: how near the rate comes to bare signing on one core. `of_needed`: how near to what
the primitives of a request allow (verify the stamp, sign, verify the own signature, a share of a receipt signature).
The second is given twice, by the clock and by the processor time of the enclave's process: with two busy cores the
clock measures the neighbours too.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from adytum_sim.bench import primitives
from adytum_sim.bench.drive import Driven, drive, frames_of
from adytum_sim.bench.workload import Kind, StampBy, Wallet, open_wallet
from adytum_sim.enclave.config import enclave_socket
from adytum_sim.stack import Stack, running_stack
from adytum_wire import limits
from adytum_wire.types import SigningScheme

WARM = {"request_past_ms": 3_600_000, "key_ttl_seconds": 3600, "key_max_uses": 1_000_000}
STRICT = WARM | {"key_ttl_seconds": 0}
_ROUND_S = 0.4  # of load between two runs of the bare primitives
_MIN_ROUNDS = 3
_PROBE = 320  # requests that are not counted: they open the key and say how many fill a round
_MOST = 40_000  # requests in one round; the replay memory holds limits.MAX_REMEMBERED_REQUESTS


class Case(Struct, frozen=True, kw_only=True):
    """One thing to measure. `strict`: no warm key, so that each request asks KMS."""

    scheme: SigningScheme
    kind: Kind
    stamp: StampBy
    depth: int
    strict: bool = False


class Measured(Struct, frozen=True, kw_only=True):
    """Medians over the rounds, those of the ratios too: each round is compared with the primitives right before and
    after it. `cpu_us`, `sign_us` and `needed_us` are processor time for one request."""

    case: Case
    requests: int
    errors: int
    rate: float  # a second
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
    sign_us: float
    needed_us: float
    of_sign: float
    of_needed: float
    of_needed_cpu: float


class Report(Struct, frozen=True, kw_only=True):
    measured: list[Measured]
    primitives_us: dict[str, float]


def cases(
    schemes: Sequence[SigningScheme], stamps: Sequence[StampBy], depths: Sequence[int], *, strict: bool
) -> list[Case]:
    """Raw content by every stamp and depth, a decoded transfer where the scheme has one, and at the end the strict
    mode at the same depths."""
    made = []
    for scheme in schemes:
        kinds = [Kind.RAW, Kind.TRANSFER] if scheme is SigningScheme.ECDSA_SECP256K1 else [Kind.RAW]
        made += [
            Case(scheme=scheme, kind=kind, stamp=stamp, depth=depth)
            for kind in kinds
            for stamp in stamps
            for depth in depths
        ]
    if strict:
        made += [Case(scheme=schemes[0], kind=Kind.RAW, stamp=stamps[0], depth=depth, strict=True) for depth in depths]
    return made


async def run(directory: Path, wanted: Sequence[Case], *, seconds: float) -> Report:
    """Start a stack for the warm cases and one for the strict ones; about `seconds` of load a case."""
    measured: list[Measured] = []
    prices: list[dict[str, float]] = []
    bare = primitives.Primitives()
    for name, strict, bounds in (("w", False, WARM), ("s", True, STRICT)):
        chosen = [case for case in wanted if case.strict is strict]
        if not chosen:
            continue
        async with running_stack(directory / name, bounds=bounds) as stack:
            wallet = await open_wallet(stack)
            for case in chosen:
                rounds = await _measure(stack, wallet, case, seconds, bare)
                prices += [price for _, price in rounds]
                measured.append(summarise(case, rounds))
    return Report(measured=measured, primitives_us=median_of(prices))


async def _measure(
    stack: Stack, wallet: Wallet, case: Case, seconds: float, bare: primitives.Primitives
) -> list[tuple[Driven, dict[str, float]]]:
    """Rounds of load, each with what the primitives cost around it."""
    probe = await _drive(stack, wallet, case, min(_PROBE, 4 * case.depth + 16))
    count = max(2 * case.depth, min(_MOST, int(probe.count / probe.seconds * _ROUND_S)))
    rounds = []
    before = await asyncio.to_thread(bare.measure)
    for _ in range(max(_MIN_ROUNDS, round(seconds / _ROUND_S))):
        driven = await _drive(stack, wallet, case, count)
        after = await asyncio.to_thread(bare.measure)
        rounds.append((driven, {name: (before[name] + after[name]) / 2 for name in before}))
        before = after
    return rounds


async def _drive(stack: Stack, wallet: Wallet, case: Case, count: int) -> Driven:
    payloads = wallet.payloads(count, stamp=case.stamp, scheme=case.scheme, kind=case.kind)
    return await asyncio.to_thread(
        drive,
        enclave_socket(stack.directory, limits.DATA_PORT),
        frames_of(payloads),
        depth=case.depth,
        pid=stack.process.pid,
    )


def summarise(case: Case, rounds: Sequence[tuple[Driven, dict[str, float]]]) -> Measured:
    """Medians over the rounds, each given with the prices (of `Primitives.measure`) around it."""
    lines = []
    for driven, prices in rounds:
        rate = driven.count / driven.seconds
        cpu_us = driven.cpu_seconds / driven.count * 1e6
        sign_us = primitives.sign_price(prices, case.scheme)
        needed_us = primitives.needed(prices, case.stamp, case.scheme, case.depth)
        lines.append(
            {
                "rate": rate,
                "p50_ms": percentile(driven.latencies, 50) * 1e3,
                "p95_ms": percentile(driven.latencies, 95) * 1e3,
                "p99_ms": percentile(driven.latencies, 99) * 1e3,
                "cpu_us": cpu_us,
                "sign_us": sign_us,
                "needed_us": needed_us,
                "of_sign": rate * sign_us / 1e6,
                "of_needed": rate * needed_us / 1e6,
                "of_needed_cpu": needed_us / cpu_us,
            }
        )
    return Measured(
        case=case,
        requests=sum(driven.count for driven, _ in rounds),
        errors=sum(driven.errors for driven, _ in rounds),
        **median_of(lines),
    )


def percentile(values: Sequence[float], part: int) -> float:
    """The smallest of `values` that at least `part` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


def median_of(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each name over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}
