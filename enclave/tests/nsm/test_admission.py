"""Boot admission: each check with a test that breaks it alone; and the real machine, in a child that hardens itself."""

from __future__ import annotations

import dataclasses
import errno
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from adytum_enclave.shell import admission
from adytum_enclave.shell.admission import CHECKS, Machine, failed_checks

FILES = {
    admission.RNG_CURRENT: "nsm-hwrng\n",
    admission.CLOCKSOURCE: "kvm-clock\n",
    admission.STATUS: "Name:\tadytum\nVmLck:\t   50000 kB\nVmRSS:\t   50100 kB\n",
}


def raises(number: int) -> Callable[..., Any]:
    def fail(*_arguments: object) -> Any:
        raise OSError(number, "scripted")

    return fail


def reader(**change: str) -> Callable[[str], str]:
    files = FILES | {getattr(admission, name): text for name, text in change.items()}
    return lambda path: files[path]


GOOD = Machine(
    mode_of=lambda path: {"/dev/nsm": stat.S_IFCHR | 0o666}[path],
    read_text=reader(),
    getrandom=lambda size, flags: bytes(size),
    core_limit=lambda: (0, 0),
    dumpable=lambda: 0,
    arena_kind="memfd_secret",
)

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("nsm-device", {"mode_of": raises(errno.ENOENT)}),
    ("nsm-device", {"mode_of": lambda path: stat.S_IFREG | 0o666}),
    ("nsm-device", {"mode_of": lambda path: stat.S_IFSOCK | 0o666}),
    ("rng-source", {"read_text": reader(RNG_CURRENT="virtio_rng.0\n")}),
    ("rng-source", {"read_text": reader(RNG_CURRENT="none\n")}),
    ("rng-source", {"read_text": reader(RNG_CURRENT="")}),
    ("rng-ready", {"getrandom": raises(errno.EAGAIN)}),
    ("rng-ready", {"getrandom": lambda size, flags: bytes(size - 1)}),
    ("clock-source", {"read_text": reader(CLOCKSOURCE="jiffies\n")}),
    ("clock-source", {"read_text": reader(CLOCKSOURCE="refined-jiffies")}),
    ("clock-source", {"read_text": reader(CLOCKSOURCE="hpet")}),
    ("clock-source", {"read_text": reader(CLOCKSOURCE="acpi_pm")}),
    ("clock-source", {"read_text": reader(CLOCKSOURCE="kvm-clock tsc")}),
    ("no-core-dumps", {"core_limit": lambda: (0, 1)}),  # the soft limit could be raised again
    ("no-core-dumps", {"core_limit": lambda: (-1, -1)}),
    ("no-core-dumps", {"dumpable": lambda: 1}),
    ("no-core-dumps", {"dumpable": lambda: 2}),
    ("no-core-dumps", {"dumpable": lambda: -1}),
    ("memory-locked", {"arena_kind": "unlocked"}),
    ("memory-locked", {"read_text": reader(STATUS="VmLck:\t 0 kB\nVmRSS:\t 50100 kB\n")}),
    ("memory-locked", {"read_text": reader(STATUS="VmLck:\t 4096 kB\nVmRSS:\t 50100 kB\n")}),  # the arena alone
    ("memory-locked", {"read_text": reader(STATUS="VmRSS:\t 50100 kB\n")}),
    ("memory-locked", {"read_text": reader(STATUS="VmLck:\t kB\nVmRSS:\t1 kB\n")}),
]


def test_a_good_machine_is_admitted() -> None:
    assert failed_checks(GOOD) == ()
    for source in admission.SANE_CLOCKSOURCES:
        assert failed_checks(dataclasses.replace(GOOD, read_text=reader(CLOCKSOURCE=source + "\n"))) == ()
    assert failed_checks(dataclasses.replace(GOOD, arena_kind="locked")) == ()


@pytest.mark.parametrize(("name", "change"), BROKEN, ids=[f"{i}-{b[0]}" for i, b in enumerate(BROKEN)])
def test_each_check_fails_alone(name: str, change: dict[str, Any]) -> None:
    assert failed_checks(dataclasses.replace(GOOD, **change)) == (name,)


def test_every_check_was_broken_once() -> None:
    assert {name for name, _ in BROKEN} == set(CHECKS)


def test_a_machine_that_tells_nothing_fails_everything() -> None:
    silent = Machine(
        mode_of=raises(errno.EACCES),
        read_text=raises(errno.EACCES),
        getrandom=raises(errno.ENOSYS),
        core_limit=raises(errno.EPERM),
        dumpable=raises(errno.EPERM),
        arena_kind="locked",
    )
    assert failed_checks(silent) == tuple(CHECKS)


def test_readiness_is_asked_without_waiting() -> None:
    flags: list[int] = []

    def getrandom(size: int, flag: int) -> bytes:
        flags.append(flag)
        return bytes(size)

    failed_checks(dataclasses.replace(GOOD, getrandom=getrandom))
    assert flags == [1]  # GRND_NONBLOCK


CHILD = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
from adytum_enclave.shell import admission
machine = admission.this_machine(arena_kind="locked")
before = admission.failed_checks(machine)
admission.harden()
print(",".join(before), ",".join(admission.failed_checks(machine)), sep="|")
"""


def test_hardening_a_real_process_is_seen_by_the_checks() -> None:
    """Whether all of memory may be locked is the machine's affair; the check must say what the kernel says."""
    run = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=True)
    before, after = (set(part.split(",")) for part in run.stdout.strip().split("|"))
    assert {"no-core-dumps", "memory-locked"} <= before
    assert "no-core-dumps" not in after
    assert not after - before
