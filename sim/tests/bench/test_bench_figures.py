"""What the benchmark prints is what it measured: percentiles, ratios, refusals that count."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_sim.bench import enclave, primitives
from adytum_sim.bench.drive import Driven
from adytum_sim.bench.enclave import Case, cases, percentile, summarise
from adytum_sim.bench.http_load import load
from adytum_sim.bench.workload import Kind, StampBy
from adytum_wire.types import SigningScheme

PRICES = {
    "secp256k1-sign": 20.0,
    "secp256k1-recover": 30.0,
    "ed25519-verify": 50.0,
    "ed25519-sign": 16.0,
    "p256-verify": 70.0,
}


@settings(max_examples=60)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_the_smallest_value_that_covers_that_part(values: list[float], part: int) -> None:
    found = percentile(values, part)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= part * len(values)
    assert sum(value < found for value in values) * 100 < part * len(values)


def test_what_a_request_needs_is_the_sum_of_its_primitives() -> None:
    price = primitives.needed
    assert price(PRICES, StampBy.ED25519, SigningScheme.ECDSA_SECP256K1, 1) == 50 + 20 + 30 + 16
    assert price(PRICES, StampBy.ED25519, SigningScheme.ECDSA_SECP256K1, 64) == 50 + 20 + 30 + 1
    assert price(PRICES, StampBy.P256, SigningScheme.ECDSA_SECP256K1, 500) == 70 + 20 + 30 + 1


def test_every_primitive_of_every_case_is_measured() -> None:
    prices = primitives.Primitives(batch=2).measure(runs=1)
    assert all(value > 0 for value in prices.values())
    for case in cases(list(SigningScheme), list(StampBy), [1, 64], strict=True):
        assert primitives.needed(prices, case.stamp, case.scheme, case.depth) > 0


def test_ratios_are_medians_of_rounds_each_with_its_own_prices() -> None:
    case = Case(scheme=SigningScheme.ECDSA_SECP256K1, kind=Kind.RAW, stamp=StampBy.ED25519, depth=64)
    rounds = []
    for factor in (1.0, 2.0, 4.0):  # a machine that gets slower: rates fall and prices rise alike
        driven = Driven(
            count=1000, seconds=0.2 * factor, cpu_seconds=0.15 * factor, latencies=[0.001 * factor] * 1000, errors=1
        )
        rounds.append((driven, {name: price * factor for name, price in PRICES.items()}))
    line = summarise(case, rounds)
    assert line.rate == pytest.approx(2500)
    assert line.p99_ms == pytest.approx(2)
    assert line.of_needed == pytest.approx(5000 * 101e-6)
    assert line.of_needed_cpu == pytest.approx(101 / 150)
    assert line.of_sign == pytest.approx(5000 * 20e-6)
    assert (line.requests, line.errors) == (3000, 3)


def test_the_strict_mode_is_measured_at_every_depth_and_can_be_left_out() -> None:
    chosen = cases([SigningScheme.BIP340], [StampBy.P256], [1, 8], strict=True)
    assert [(case.depth, case.strict) for case in chosen] == [(1, False), (8, False), (1, True), (8, True)]
    assert not any(case.strict for case in cases(list(SigningScheme), list(StampBy), [1], strict=False))
    assert enclave.STRICT["key_ttl_seconds"] == 0


# --- the HTTP load, against a server that answers what it is told to


@pytest.fixture
def peer() -> Iterator[int]:
    """The port of a server: it answers each request with the status that is its body, in two pieces."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock:
            held = b""
            while data := sock.recv(65536):
                held += data
                while b"\r\n\r\n" in held and len(held.split(b"\r\n\r\n", 1)[1]) >= 3:
                    status, held = held.split(b"\r\n\r\n", 1)[1][:3], held.split(b"\r\n\r\n", 1)[1][3:]
                    sock.sendall(b"HTTP/1.1 " + status + b" X\r\ncontent-length: 4\r\n\r\nab")
                    sock.sendall(b"cd")

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_the_http_load_counts_every_answer_and_its_status(peer: int) -> None:
    requests = [b"POST / HTTP/1.1\r\n\r\n" + status for status in [b"200"] * 37 + [b"429"] * 3]
    loaded = load(peer, 4, requests)
    assert loaded.statuses == {200: 37, 429: 3}
    assert len(loaded.latencies) == 40
    assert 0 < max(loaded.latencies) <= loaded.seconds


def test_more_clients_than_requests_is_no_problem(peer: int) -> None:
    assert load(peer, 64, [b"POST / HTTP/1.1\r\n\r\n200"]).statuses == {200: 1}
