"""`python -m adytum_sim.bench.sampled CONFIG.json`: the enclave stand-in, and what it is busy with.

Every 5 milliseconds of its processor time the stack is looked at and counted as one of `KINDS`. The counts stand in
the file `samples` beside CONFIG, which also holds when the process is killed, and goes on at the next start.
"""

from __future__ import annotations

import mmap
import re
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

from adytum_sim.enclave.__main__ import main as run_enclave

INTERVAL_S: Final = 0.005

# What KMS's protocol asks for, by what the innermost file on the stack says; else our own work, else the event loop's.
KMS_KINDS: Final = ("envelope", "tls", "http", "sigv4", "calls")
KINDS: Final = (*KMS_KINDS, "own", "loop")
_FILES: Final = {
    "adytum_enclave/core/cms.py": "envelope",
    "adytum_enclave/core/recipient.py": "envelope",
    "adytum_enclave/shell/kms_tls.py": "tls",
    "asyncio/sslproto.py": "tls",  # of all connections of the enclave, only KMS's have TLS here
    "adytum_enclave/shell/kms_http.py": "http",
    "adytum_enclave/shell/sigv4.py": "sigv4",
    "adytum_enclave/shell/aws.py": "calls",
    "adytum_enclave/shell/kms.py": "calls",
    "adytum_enclave/shell/kms_breaker.py": "calls",
    "adytum_enclave/shell/kms_document.py": "calls",
}
_OWN: Final = re.compile("/adytum_(enclave|wire|policy)/")
_FORMAT: Final = f"<{len(KINDS)}Q"


def kind_of_file(name: str) -> str:
    """One of `KINDS`; "" for a file that says nothing, like the standard library's."""
    if "/h11/" in name:
        return "http"
    ending = "/".join(name.rsplit("/", 3)[-3:])
    found = _FILES.get(ending) or _FILES.get(ending.partition("/")[2])
    return found or ("own" if _OWN.search(name) else "")


def kind_of(kinds: Iterable[str]) -> str:
    """Of a stack; `kinds`: of its frames' files, the innermost first."""
    found = "loop"
    for kind in kinds:
        if kind in KMS_KINDS:
            return kind
        found = kind or found
    return found


class Sampler:
    """Counts into a file. Installs a signal handler; `begin` after that starts the timer."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(struct.calcsize(_FORMAT))
            self._counts = mmap.mmap(file.fileno(), struct.calcsize(_FORMAT))
        self._kinds: dict[CodeType, str] = {}

    def begin(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def _look(self, _signum: int, frame: FrameType | None) -> None:
        at = 8 * KINDS.index(kind_of(self._frames(frame)))
        [count] = struct.unpack_from("<Q", self._counts, at)
        struct.pack_into("<Q", self._counts, at, count + 1)

    def _frames(self, frame: FrameType | None) -> Iterator[str]:
        while frame is not None:
            code = frame.f_code
            kind = self._kinds.get(code)
            if kind is None:
                kind = self._kinds[code] = kind_of_file(code.co_filename)
            yield kind
            frame = frame.f_back


def read_samples(path: Path) -> dict[str, int]:
    """How often each kind was seen so far."""
    return dict(zip(KINDS, struct.unpack(_FORMAT, path.read_bytes()), strict=True))


def main(argv: list[str]) -> int:
    Sampler(Path(argv[1]).with_name("samples")).begin()
    return run_enclave(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
