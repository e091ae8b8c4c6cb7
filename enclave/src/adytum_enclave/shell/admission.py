"""Boot admission: is this machine one on which secrets may be handled? Each check has a name, and can fail.

The enclave refuses to serve while `failed_checks` names any, and says which. `harden` brings about what a process can
bring about by itself (no core dumps, locked memory) and is called first; the checks then look at the result and do not
take its word.

`Machine` is the operating system as the checks see it, so that a test can break one thing at a time; `this_machine` is
the real one. No check can be switched off.

>>> failed_checks(this_machine(arena_kind="locked"))  # doctest: +SKIP
('nsm-device', 'rng-source')
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum_enclave.core.secrets import Kind
from adytum_enclave.shell.nsm import DEVICE

RNG_CURRENT: Final = "/sys/class/misc/hw_random/rng_current"
CLOCKSOURCE: Final = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
STATUS: Final = "/proc/self/status"
NSM_RNG: Final = "nsm-hwrng"

# kvm-clock: Nitro on x86-64. tsc: what Linux prefers to it where the TSC is invariant, and what the QEMU rig shows.
# arch_sys_counter: Nitro on Graviton. Each is a counter of the processor, which the parent cannot set. The trusted time
# comes from the NSM; these only carry it from one refresh to the next. Emulated devices (hpet, acpi_pm) and the timer
# interrupt (jiffies, refined-jiffies) lose time under load and are refused.
SANE_CLOCKSOURCES: Final = frozenset({"kvm-clock", "tsc", "arch_sys_counter"})

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
# ONFAULT: a page is locked once it is touched, so that thread stacks do not take their 8 MiB each at once
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_GRND_NONBLOCK: Final = 1
_UNLOCKABLE_KIB: Final = 1024  # room for the kernel's own mappings (vdso and the like), which mlockall passes over


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The operating system, as far as admission asks. Every function may raise OSError, which fails its check."""

    mode_of: Callable[[str], int]  # st_mode of a path, links followed
    read_text: Callable[[str], str]  # of a small file
    getrandom: Callable[[int, int], bytes]  # (size, flags), as os.getrandom
    core_limit: Callable[[], tuple[int, int]]  # RLIMIT_CORE, soft and hard, in bytes
    dumpable: Callable[[], int]  # PR_GET_DUMPABLE
    arena_kind: Kind  # of the arena that will hold the secrets


def this_machine(*, arena_kind: Kind) -> Machine:
    """The machine that we run on. `arena_kind`: of the arena that will hold the secrets."""
    return Machine(
        mode_of=lambda path: Path(path).stat().st_mode,
        read_text=lambda path: Path(path).read_text(encoding="ascii", errors="replace"),
        getrandom=os.getrandom,
        core_limit=lambda: resource.getrlimit(resource.RLIMIT_CORE),
        dumpable=lambda: int(_libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)),
        arena_kind=arena_kind,
    )


def harden() -> None:
    """Core dumps off (RLIMIT_CORE 0, not dumpable), all memory locked. What fails here, a check finds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = _libc()
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def failed_checks(machine: Machine) -> tuple[str, ...]:
    """The names of the checks that fail, in the order of `CHECKS`; empty means admitted."""
    return tuple(name for name, check in CHECKS.items() if not _passes(check, machine))


def _passes(check: Callable[[Machine], bool], machine: Machine) -> bool:
    try:
        return check(machine)
    except (OSError, ValueError, LookupError):  # what cannot be found out has failed
        return False


def _nsm_device(machine: Machine) -> bool:
    return stat.S_ISCHR(machine.mode_of(DEVICE))


def _rng_source(machine: Machine) -> bool:
    return machine.read_text(RNG_CURRENT).strip() == NSM_RNG


def _rng_ready(machine: Machine) -> bool:
    return len(machine.getrandom(16, _GRND_NONBLOCK)) == 16  # BlockingIOError (an OSError) until the pool is seeded


def _clock_source(machine: Machine) -> bool:
    return machine.read_text(CLOCKSOURCE).strip() in SANE_CLOCKSOURCES


def _no_core_dumps(machine: Machine) -> bool:
    return machine.core_limit() == (0, 0) and machine.dumpable() == 0


def _memory_locked(machine: Machine) -> bool:
    """The arena itself must be locked, and so must the rest of the process, where OpenSSL's working memory lies."""
    if machine.arena_kind not in ("memfd_secret", "locked"):
        return False
    fields = dict(line.split(":", 1) for line in machine.read_text(STATUS).splitlines() if ":" in line)
    locked_kib, resident_kib = (int(fields[name].split()[0]) for name in ("VmLck", "VmRSS"))
    return locked_kib + _UNLOCKABLE_KIB >= resident_kib


CHECKS: Final[dict[str, Callable[[Machine], bool]]] = {
    "nsm-device": _nsm_device,
    "rng-source": _rng_source,
    "rng-ready": _rng_ready,
    "clock-source": _clock_source,
    "no-core-dumps": _no_core_dumps,
    "memory-locked": _memory_locked,
}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
