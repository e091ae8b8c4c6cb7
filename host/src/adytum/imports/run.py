"""Sending many files at a time, until all have been sent or somebody interrupts it.

Files with the same content are one request: the first of them is sent, the others share what became of it. Sent side by
side they would be two bodies under one request id, of which the enclave refuses one.

After the first interrupt (Ctrl-C, or SIGTERM) no further file is sent; those under way are waited for, and the rest is
not-reached. After the second one nothing is waited for: what was under way is unanswered.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from adytum.imports.candidates import Candidate
from adytum.imports.report import Line, line_of

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def grouped(candidates: Sequence[Candidate], name: Callable[[Candidate], str]) -> dict[str, list[Candidate]]:
    """By request id, in order of the first of each."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(name(candidate), []).append(candidate)
    return groups


def run(
    groups: Mapping[str, Sequence[Candidate]],
    send: Callable[[str, Candidate], Line],
    take: Callable[[Line], None],
    *,
    workers: int,
    stop: threading.Event,
) -> None:
    """Send the first of each group; `take` is called in this thread with a line for each file.

    `send` must not raise. `stop`: once it is set, nothing further is sent. Errors: KeyboardInterrupt when somebody does
    not want to wait, and what `take` raises; every file has had its line by then, as far as `take` took it.
    """
    started: set[str] = set()

    def one(name: str, candidate: Candidate) -> Line:
        if stop.is_set():
            return line_of(candidate, "not-reached", request_id=name)
        started.add(name)
        return send(name, candidate)

    pool = ThreadPoolExecutor(workers)
    left: dict[Future[Line], tuple[str, Sequence[Candidate]]] = {
        pool.submit(one, name, group[0]): (name, group) for name, group in groups.items()
    }
    try:
        for future in as_completed(list(left)):
            _, group = left.pop(future)
            _shared(future.result(), group, take)
    except KeyboardInterrupt:
        for name, group in left.values():
            outcome = "unanswered" if name in started else "not-reached"
            _shared(line_of(group[0], outcome, request_id=name), group, take)
        raise
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first interrupt sets. The second one is a KeyboardInterrupt as ever."""
    stop = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # only it is given signals
        yield stop
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shared(line: Line, group: Sequence[Candidate], take: Callable[[Line], None]) -> None:
    take(line)
    outcome = "found" if line.outcome == "imported" else line.outcome
    for other in group[1:]:
        take(replace(line, path=str(other.path), expected=other.expected, outcome=outcome, same_as=line.path))
