"""The pieces of `adytum bench rotation`: kills take turns, recoveries are measured, stacks are sorted, chains cut."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_sim.bench.apart import held_port
from adytum_sim.bench.kills import Kill, Killer, Sample, after, back_after, every, recoveries
from adytum_sim.bench.parts import Command, Spent, Times, family_times, process_times
from adytum_sim.bench.sampled import KINDS, Sampler, kind_of, kind_of_file, read_samples
from adytum_sim.bench.verdict import runs


def steady(start_s: float, end_s: float, rate: float, done: float = 0.0) -> list[Sample]:
    """A look each quarter of a second."""
    looks = int((end_s - start_s) * 4)
    return [Sample(start_s + at / 4, int(done + rate * at / 4)) for at in range(looks)]


def test_the_rate_is_back_a_second_after_the_part_is_up_when_nothing_else_holds_it() -> None:
    kill = Kill(part="enclave", at_s=10.0, down_s=2.0)
    samples = steady(0, 10, 40) + steady(10, 14, 0, 400) + steady(14, 30, 40, 400)
    found = back_after(samples, kill)
    assert found is not None
    assert 4.5 <= found <= 5.25  # work began again at 14; half of the usual is in the window that ends at 14.5
    assert back_after(steady(0, 10, 40) + steady(10, 40, 0, 400), kill) is None
    assert back_after(steady(0, 10, 40) + steady(10, 40, 15, 400), kill) is None  # less than half


def test_a_kill_that_nothing_came_after_was_never_recovered_from() -> None:
    samples = steady(0, 20, 40)
    kills = [
        Kill(part="worker", at_s=5.0, down_s=1.0),
        Kill(part="database", at_s=8.0, down_s=1.0),
        Kill(part="worker", at_s=19.0, down_s=2.0),
    ]
    worker, database = recoveries(samples, kills)
    assert (worker.part, worker.kills, worker.never, worker.down_s, worker.down_worst_s) == ("worker", 2, 1, 1.5, 2.0)
    assert (database.part, database.kills, database.never) == ("database", 1, 0)
    assert database.back_s == database.back_worst_s >= 2.0
    assert recoveries([], []) == []


class Told:
    """A part that writes down what is done to it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.times = Times()
        self._name, self._told = name, told

    async def strike(self) -> None:
        self._told.append(f"-{self._name}")

    async def revive(self) -> None:
        await asyncio.sleep(0)
        self._told.append(f"+{self._name}")


async def test_parts_are_killed_in_turn_and_each_is_up_again_before_the_next() -> None:
    told: list[str] = []
    stop = asyncio.Event()

    async def at_once(_done: Any) -> None:
        if len(told) == 10:
            stop.set()
            await asyncio.Event().wait()

    parts = {"worker": [Told("w", told)], "enclave": [Told("e", told)], "database": [Told("d", told)]}
    killer = Killer(parts, at_once, lambda: 0, random.Random(1))
    await asyncio.wait_for(killer.run(stop), 10)
    assert told == ["-w", "+w", "-e", "+e", "-d", "+d", "-w", "+w", "-e", "+e"]
    assert [kill.part for kill in killer.kills] == ["worker", "enclave", "database", "worker", "enclave"]


async def test_kills_by_progress_come_so_often_and_no_more() -> None:
    found = Counter[str]()
    moment = after(5, times=2)
    for _ in range(2):
        waiting = asyncio.create_task(moment(lambda: found["done"]))
        await asyncio.sleep(0)
        assert not waiting.done()
        found["done"] += 5
        await asyncio.wait_for(waiting, 10)
    third = asyncio.create_task(moment(lambda: 1000))
    await asyncio.wait([third], timeout=0.2)
    assert not third.done()
    third.cancel()


def test_the_same_seed_gives_the_same_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def three(source: random.Random) -> None:
        for _ in range(3):
            await every(8, source)(lambda: 0)

    for _ in range(2):
        asyncio.run(three(random.Random(7)))
    assert slept[:3] == slept[3:]
    assert all(4 <= seconds <= 12 for seconds in slept)


def test_processor_time_is_summed_up_over_lives_without_the_starts() -> None:
    now = Times()
    spent = Spent(lambda: now)
    assert spent.times == (0, 0)
    now = Times(1.5, 0.5)  # a start
    spent.begin()
    now = Times(4.0, 1.5)
    assert spent.times == (2.5, 1.0)
    spent.end()
    now = Times(0.5, 0.25)  # another life, which began anew
    assert spent.times == (2.5, 1.0)
    spent.begin()
    now = Times(1.5, 0.5)
    assert spent.times == (3.5, 1.25)


def test_times_of_a_process_and_of_a_family_agree() -> None:
    own, family = process_times(os.getpid()), family_times(os.getpid())
    assert own.busy > 0
    assert own.waited >= 0
    assert family.busy >= own.busy - 0.05  # it counts in hundredths, and our children too


async def test_a_command_is_killed_and_comes_back_with_its_time_kept(tmp_path: Path) -> None:
    busy = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.05: pass\n"
    code = f"print('on', flush=True)\n{busy}print('done', flush=True)\nimport sys; sys.stdin.read(); time.sleep(60)"
    command = Command("one", ["-c", code], ready="on", log=tmp_path / "log")
    try:
        for life in (1, 2):
            await command.start()
            async with asyncio.timeout(30):
                while command.times.busy < 0.04 * life:
                    await asyncio.sleep(0.01)
            await command.strike()
            assert not command.is_running
            assert command.times.busy >= 0.04 * life
    finally:
        await command.stop()
    assert "on" in (tmp_path / "log").read_text()


async def test_a_command_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    command = Command("two", ["-c", "print('no such thing')"], ready="ready", log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="no such thing"):
        await command.start()
    await command.stop()


def test_a_held_port_can_be_listened_at_again_and_again() -> None:
    with held_port() as port:
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["/p/json/decoder.py", "/x/adytum_enclave/shell/kms.py", "/x/adytum_enclave/shell/perform.py"], "calls"),
        (["/x/adytum_enclave/core/secrets.py", "/x/adytum_enclave/core/recipient.py"], "envelope"),
        (["/p/h11/_connection.py", "/x/adytum_enclave/shell/kms_http.py", "/x/adytum_enclave/shell/kms.py"], "http"),
        (["/p/asyncio/sslproto.py", "/p/asyncio/selector_events.py"], "tls"),
        (["/x/adytum_wire/strict_json.py", "/x/adytum_enclave/core/pipeline.py", "/p/asyncio/events.py"], "own"),
        (["/p/selectors.py", "/p/asyncio/base_events.py", "/x/adytum_sim/enclave/__main__.py"], "loop"),
        ([], "loop"),
    ],
)
def test_a_stack_is_one_kind_of_work(files: list[str], kind: str) -> None:
    assert kind_of(kind_of_file(name) for name in files) == kind
    assert kind in KINDS


def test_samples_outlive_the_process_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    before = signal.getsignal(signal.SIGPROF)
    try:
        for life in (1, 2):
            Sampler(path).begin()
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
            signal.setitimer(signal.ITIMER_PROF, 0)
            counts = read_samples(path)
            assert counts["loop"] >= 5 * life
            assert sum(counts.values()) == counts["loop"]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), unique=True).map(sorted))
def test_chains_are_cut_exactly_where_a_number_is_missing(numbers: list[int]) -> None:
    found = runs([(number, b"") for number in numbers])
    assert [number for run in found for number, _ in run] == numbers
    assert all(b[0] == a[0] + 1 for run in found for a, b in pairwise(run))
    assert all(a[-1][0] + 1 < b[0][0] for a, b in pairwise(found))
