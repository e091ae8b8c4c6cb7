"""Trusted time: from genuine documents, never backwards, whatever the source says next."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.shell import cbor
from adytum_enclave.shell.clock import TrustedClock, document_timestamp, nsm_time
from adytum_enclave.shell.nsm import Nsm, NsmCode, NsmError
from adytum_sim.nsm import SimNsm
from adytum_sim.pki import DevPki

START = 1_790_000_000_000

# document times as shared/vectors/README.md gives them, to the second
GENUINE = {
    "01_": "2026-02-06T08:24:18",
    "03_": "2021-03-24T16:10:41",
    "05_": "2024-01-24T18:14:25",
    "09_": "2025-04-29T10:32:39",
    "12_": "2025-04-01T14:16:10",
    "13_": "2022-07-06T14:18:22",
}


class Rig:
    """A source and a monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.source_ms = START
        self.seconds = 50.0
        self.fails = False

    def source(self) -> int:
        if self.fails:
            raise NsmError(NsmCode.INTERNAL_ERROR)
        return self.source_ms

    def clock(self) -> TrustedClock:
        return TrustedClock(self.source, monotonic=lambda: self.seconds)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def vectors() -> Path:
    for parent in Path(__file__).resolve().parents:
        found = parent.parent / "shared" / "vectors" / "attestation"
        if (parent / "enclave").is_dir() and found.is_dir():
            return found
    if os.environ.get("CI"):
        pytest.fail("the public attestation documents are missing")
    pytest.skip("no public attestation documents beside this checkout")


@pytest.mark.parametrize("prefix", GENUINE)
def test_reads_the_time_of_genuine_documents(prefix: str) -> None:
    import datetime

    [path] = vectors().glob(f"{prefix}*.bin")
    expected = datetime.datetime.fromisoformat(GENUINE[prefix] + "+00:00").timestamp()
    document = path.read_bytes()
    assert document_timestamp(document) // 1000 == expected
    assert document_timestamp(b"\xd2" + document) == document_timestamp(document)


def document(payload: object) -> bytes:
    return cbor.encode([b"\xa1\x01\x38\x22", {}, cbor.encode(payload), bytes(96)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xd2",
        document({}),
        document([]),
        document({"timestamp": True}),
        document({"timestamp": "1790000000000"}),
        document({"timestamp": START // 1000}),  # seconds
        document({"timestamp": 0}),
        document({"timestamp": 2**60}),
        document({"timestamp": START}) + b"\0",
        b"\xd2\xd2" + document({"timestamp": START}),
        cbor.encode([b"", {}, b""]),
        cbor.encode([b"", {}, "text", b""]),
        cbor.encode({"timestamp": START}),
    ],
)
def test_a_document_without_a_time_is_an_invalid_response(data: bytes) -> None:
    with pytest.raises(NsmError) as caught:
        document_timestamp(data)
    assert caught.value.nsm_code is NsmCode.INVALID_RESPONSE


def test_the_stand_in_s_time_arrives() -> None:
    for encoding in ("definite", "indefinite"):
        sim = SimNsm(
            DevPki.create(START),
            module_id="i-0123456789abcdef0-enc0123456789abcdef",
            pcrs={},
            clock_ms=lambda: START + 7,
            payload_encoding=encoding,
        )
        assert TrustedClock(nsm_time(Nsm(sim.request)), monotonic=lambda: 1.0).now_ms() == START + 7


def test_time_goes_on_between_refreshes(rig: Rig) -> None:
    clock = rig.clock()
    rig.seconds += 1.25
    assert clock.now_ms() == START + 1250


async def test_a_source_ahead_is_followed_at_once(rig: Rig) -> None:
    clock = rig.clock()
    rig.seconds += 10
    rig.source_ms += 13_000  # the machine was paused for three seconds
    await clock.refresh()
    assert (clock.now_ms(), clock.drift_ms) == (START + 13_000, 3000)


async def test_a_source_behind_makes_time_stand_still_and_never_go_back(rig: Rig) -> None:
    clock = rig.clock()
    rig.seconds += 60
    assert clock.now_ms() == START + 60_000
    rig.source_ms += 55_000
    await clock.refresh()
    assert (clock.now_ms(), clock.drift_ms) == (START + 60_000, -5000)
    rig.seconds += 4
    assert clock.now_ms() == START + 60_000
    rig.seconds += 2
    assert clock.now_ms() == START + 61_000


async def test_a_source_in_whole_seconds_does_not_stop_time(rig: Rig) -> None:
    clock = rig.clock()
    for tenth in range(1, 200):
        rig.seconds = 50 + tenth / 10
        rig.source_ms = START + tenth * 100 // 1000 * 1000
        await clock.refresh()
        assert clock.now_ms() == START + tenth * 100


async def test_a_failed_refresh_changes_nothing_but_the_count(rig: Rig) -> None:
    clock = rig.clock()
    rig.fails = True
    for count in (1, 2):
        with pytest.raises(NsmError):
            await clock.refresh()
        assert clock.failures == count
    rig.seconds += 1
    assert (clock.now_ms(), clock.drift_ms) == (START + 1000, 0)
    rig.fails = False
    rig.source_ms += 1000
    await clock.refresh()
    assert clock.failures == 0


async def test_keeping_goes_on_through_failures(rig: Rig) -> None:
    clock = rig.clock()
    rig.fails = True
    task = asyncio.create_task(clock.keep(0.005))
    while clock.failures < 2:
        await asyncio.sleep(0.005)
    rig.fails, rig.source_ms = False, START + 9000
    while clock.drift_ms != 9000:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_without_a_first_reading_there_is_no_clock(rig: Rig) -> None:
    rig.fails = True
    with pytest.raises(NsmError):
        rig.clock()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-50_000, 50_000)), max_size=15))
def test_never_backwards(steps: list[tuple[float, int]]) -> None:
    rig = Rig()
    clock = rig.clock()
    last = clock.now_ms()

    async def run() -> None:
        nonlocal last
        for seconds, jump in steps:
            rig.seconds += seconds
            rig.source_ms = START + int((rig.seconds - 50) * 1000) + jump
            await clock.refresh()
            now = clock.now_ms()
            assert now >= last
            assert now >= rig.source_ms - 1
            last = now

    asyncio.run(run())
