"""How fast this machine's time stamp counter runs, for guests under software emulation.

With ACPI's reduced hardware Linux finds no timer to calibrate against, and QEMU's emulation passes the host's counter
through: so the rig tells the guest's kernel its frequency, on the part of the command line that QEMU appends and nobody
measures. On Nitro and under KVM the kernel has kvm-clock and needs none of this.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import time
from typing import Final

from adytum_image.errors import RigError

_RDTSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURE_S: Final = 0.2
_READS: Final = 100


@functools.cache
def host_tsc_khz() -> int:
    """The frequency in kHz, to about one part in ten thousand. Errors: RigError(TSC)."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_RDTSC)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def now() -> tuple[int, int]:
        """The counter, and nanoseconds: the pair that was read with the least between, on a busy machine too."""
        pairs = [(time.monotonic_ns(), int(rdtsc()), time.monotonic_ns()) for _ in range(_READS)]
        before, counter, after = min(pairs, key=lambda pair: pair[2] - pair[0])
        return counter, (before + after) // 2

    begin_tsc, begin_ns = now()
    time.sleep(_MEASURE_S)
    end_tsc, end_ns = now()
    khz = round((end_tsc - begin_tsc) * 1_000_000 / (end_ns - begin_ns))
    if khz < 100_000:
        raise RigError("TSC", "the time stamp counter of this machine does not run")
    return khz
