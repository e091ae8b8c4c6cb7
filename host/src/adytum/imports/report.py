"""The report of an import: a line for each file, written as it comes. Whatever ends the run leaves what is known.

    with Report(Path("report.json")) as report:    # OSError here, and not after the keys are in
        report.begin()
        report.take(Line(...))
    report.counts()

The file is one JSON object when it is complete; of one that was cut off, each line but the first is an object.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from adytum.imports import raw_keys
from adytum.imports.candidates import Candidate

# Of these a user has to do something more.
OPEN = frozenset({"refused", "waiting", "unanswered", "not-reached"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One file. `outcome`: imported; found (an earlier run, or another file with the same content, did it); waiting
    (for approvals); refused; unanswered (it may be in: run again); not-reached (interrupted before it); would-import.

    `address`, `public_key`: as the enclave's receipt names them, in a dry run as the file gives them. `same_as`: the
    file that was sent instead, for it has the same content. `unchecked`: what a dry run cannot see."""

    path: str
    format: str
    bytes: int
    expected: str
    outcome: str
    request_id: str = ""
    key_id: str = ""
    algorithm: str = ""
    public_key: str = ""
    address: str = ""
    same_as: str = ""
    unchecked: str = ""
    code: str = ""
    reason: str = ""


def line_of(candidate: Candidate, outcome: str, **more: str) -> Line:
    return Line(
        path=str(candidate.path),
        format=candidate.format,
        bytes=candidate.size,
        expected=candidate.expected,
        outcome=outcome,
        **more,
    )


def foreseen(candidate: Candidate) -> Line:
    """What a dry run says."""
    if candidate.problem:
        return line_of(candidate, "refused", reason=candidate.problem)
    algorithm = candidate.algorithm.value if candidate.public_key else ""
    address = raw_keys.address(candidate.algorithm, candidate.public_key)
    known = {"algorithm": algorithm, "public_key": candidate.public_key, "address": address}
    return line_of(candidate, "would-import", unchecked=candidate.unchecked, **known)


class Report:
    """`path`: None keeps the lines in memory only. Opening it changes nothing; `begin` empties the file."""

    def __init__(self, path: Path | None) -> None:
        self.lines: list[Line] = []
        self._path = path
        self._file: TextIO | None = None
        self._begun = False
        if path is not None:
            self._was_there = path.exists()
            self._file = path.open("a")

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None or self._path is None:
            return
        with self._file as file:
            if self._begun:
                file.write("\n],\n" + f'"counts": {json.dumps(self.counts())}}}\n')
                file.flush()
                os.fsync(file.fileno())
        if not self._begun and not self._was_there:
            self._path.unlink()

    def begin(self) -> None:
        self._begun = True
        if self._file is not None:
            self._file.truncate(0)
            self._file.write('{"files": [')
            self._file.flush()

    def take(self, line: Line) -> None:
        """Errors: OSError."""
        self.lines.append(line)
        if self._file is not None:
            comma = "," if len(self.lines) > 1 else ""
            self._file.write(f"{comma}\n{json.dumps(asdict(line))}")
            self._file.flush()

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(line.outcome for line in self.lines).items()))

    def data(self) -> dict[str, Any]:
        return {"files": [asdict(line) for line in self.lines], "counts": self.counts()}
