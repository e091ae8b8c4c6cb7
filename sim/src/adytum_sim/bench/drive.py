"""Sends prepared frames down one connection and keeps `depth` of them in flight; takes the time of each answer.

A plain blocking socket on purpose: whatever the client spends is missing from the server's second core. Frames are
encoded before and answers are decoded after the timed part.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adytum_wire import messages
from adytum_wire.frames import FrameReader, Kind, encode_frame
from adytum_wire.messages import ExecuteReply

_READ_SIZE = 256 * 1024
_TIMEOUT_S = 30.0
_DEADLINE_MS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """`seconds`: from the first byte out to the last answer in. `cpu_seconds`: what the server's process used in that
    time, on all its threads. `latencies`: seconds, in the order of the answers. `errors`: answers that are refusals."""

    count: int
    seconds: float
    cpu_seconds: float
    latencies: list[float]
    errors: int


def frames_of(payloads: Sequence[bytes]) -> list[bytes]:
    """Request frames with the ids 1, 2, ..."""
    return [encode_frame(Kind.REQUEST, at, _DEADLINE_MS, payload) for at, payload in enumerate(payloads, 1)]


def drive(path: Path, frames: Sequence[bytes], *, depth: int, pid: int) -> Driven:
    """Send all of `frames` (of `frames_of`) to the Unix socket at `path`. Blocks: call it on a thread of its own.

    Errors: OSError; TimeoutError when no answer comes; `AdytumError` for a broken stream.
    """
    answers: list[bytes] = []
    latencies: list[float] = []
    sent_at = [0.0] * (len(frames) + 1)
    reader = FrameReader(Kind.REPLY)
    clock = time.perf_counter
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.connect(str(path))
        cpu = process_seconds(pid)
        started = clock()
        following = 0
        room = depth
        while len(answers) < len(frames):
            if room and following < len(frames):
                until = min(following + room, len(frames))
                now = clock()
                sent_at[following + 1 : until + 1] = [now] * (until - following)
                sock.sendall(b"".join(frames[following:until]))
                following, room = until, 0
            data = sock.recv(_READ_SIZE)
            if not data:
                raise ConnectionError("the enclave closed the connection")
            arrived = reader.feed(data)
            now = clock()
            for frame in arrived:
                latencies.append(now - sent_at[frame.request_id])
                answers.append(frame.payload)
            room += len(arrived)
        seconds = clock() - started
        cpu = process_seconds(pid) - cpu
    errors = sum(not isinstance(messages.decode_reply(answer), ExecuteReply) for answer in answers)
    return Driven(count=len(answers), seconds=seconds, cpu_seconds=cpu, latencies=latencies, errors=errors)


def process_seconds(pid: int) -> float:
    """Processor time of another process so far, as clock_getcpuclockid(3) finds it on Linux."""
    return time.clock_gettime((~pid << 3) | 2)
