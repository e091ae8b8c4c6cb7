"""Prometheus metrics of one service, in a registry of its own. Labels come from fixed lists, never from requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from adytum.rotation.progress import Progress
from adytum.storage.schema import JOB_STATES

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Make one for each service; pass it on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "adytum_requests", "Requests by operation and code (OK when carried out).", ["operation", "code"],
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "adytum_request_seconds", "From the body's last byte to the answer.", ["operation"],
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._stages = Histogram(
            "adytum_stage_seconds", "Time by stage: lookup, enclave, audit.", ["stage"],
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._gate = Gauge("adytum_gate_open", "1 while an enclave's proof holds.", registry=self.registry)
        self._open: dict[str, bool] = {}
        self._gates = Gauge(
            "adytum_enclave_gate_open", "1 while this enclave's proof holds.", ["enclave"], registry=self.registry
        )
        self._verified = Gauge(
            "adytum_attestation_verified_seconds", "When the enclave last proved itself (Unix time).", ["enclave"],
            registry=self.registry,
        )  # fmt: skip
        self._certificate = Gauge(
            "adytum_attestation_certificate_expiry_seconds", "When its certificate ends (Unix time).", ["enclave"],
            registry=self.registry,
        )  # fmt: skip
        self._attempts = Counter(
            "adytum_attestations", "Verifications by outcome (OK or the reason's code).", ["enclave", "code"],
            registry=self.registry,
        )  # fmt: skip
        self._enclave_up = Gauge(
            "adytum_enclave_up", "1 while the enclave answers.", ["enclave"], registry=self.registry
        )
        self._enclave = Gauge(
            "adytum_enclave_value", "Numbers that the enclave reports of itself.", ["enclave", "name"],
            registry=self.registry,
        )  # fmt: skip
        self._moved = Counter(
            "adytum_requests_moved", "Requests that another enclave was asked for, the first being lost.",
            registry=self.registry,
        )  # fmt: skip
        self._rotation_jobs = Gauge("adytum_rotation_jobs", "Rotations by state.", ["state"], registry=self.registry)
        self._rotation_records = Gauge(
            "adytum_rotation_records", "Records of the rotations that have not ended, by how they ended; `left`: not"
            " yet.", ["outcome"], registry=self.registry,
        )  # fmt: skip
        self._rotation_rate = Gauge(
            "adytum_rotation_rate", "Records a second that ended of late, of all rotations.", registry=self.registry
        )
        self._canary_ok = Gauge(
            "adytum_canary_ok", "1 while KMS was last seen to refuse whom it must refuse.", registry=self.registry
        )
        self._canary_last = Gauge(
            "adytum_canary_last_seconds", "When the canary last ended (Unix time).", registry=self.registry
        )

    def request(self, operation: str, code: str, seconds: float) -> None:
        self._requests.labels(operation or "none", code or "OK").inc()
        self._seconds.labels(operation or "none").observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(perf_counter() - begun)

    def moved(self) -> None:
        self._moved.inc()

    def rotations(self, active: Sequence[Progress], by_state: Mapping[str, int]) -> None:
        """How the rotations are now: those that have not ended, and how many there are in each state."""
        for state in JOB_STATES:
            self._rotation_jobs.labels(state).set(by_state.get(state, 0))
        for outcome in ("resealed", "skipped", "failed", "left"):
            self._rotation_records.labels(outcome).set(sum(getattr(one, outcome) for one in active))
        self._rotation_rate.set(sum(one.rate for one in active))

    def canary(self, ok: bool, *, now_ms: int) -> None:
        self._canary_ok.set(1 if ok else 0)
        self._canary_last.set(now_ms / 1000)

    def of(self, enclave: str) -> EnclaveMetrics:
        """Those of one enclave; `enclave` is its name in the settings."""
        return EnclaveMetrics(self, enclave)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class EnclaveMetrics:
    """The metrics of one enclave of the service. Made by `Metrics.of`."""

    def __init__(self, metrics: Metrics, enclave: str) -> None:
        self._of = metrics
        self._name = enclave

    def gate(self, is_open: bool) -> None:
        self._of._open[self._name] = is_open
        self._of._gates.labels(self._name).set(1 if is_open else 0)
        self._of._gate.set(1 if any(self._of._open.values()) else 0)

    def attestation(self, code: str, *, verified_ms: int = 0, expires_ms: int = 0) -> None:
        self._of._attempts.labels(self._name, code or "OK").inc()
        if not code:
            self._of._verified.labels(self._name).set(verified_ms / 1000)
            self._of._certificate.labels(self._name).set(expires_ms / 1000)

    def up(self, is_up: bool) -> None:
        self._of._enclave_up.labels(self._name).set(1 if is_up else 0)

    def numbers(self, found: dict[str, int]) -> None:
        for name, value in found.items():
            self._of._enclave.labels(self._name, name).set(value)
