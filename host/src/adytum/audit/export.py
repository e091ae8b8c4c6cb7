"""Write a chain as an audit file (adytum_verify.container): streaming, and going on where an interrupted one stopped.

Nothing is verified here, and nothing needs to be: the file is for somebody who believes nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adytum_verify import AuditHeader, checkpoint_line, checkpoint_of, header_line, read_header
from adytum_wire.checkpoints import parse_checkpoint, parse_checkpoint_envelope
from adytum_wire.errors import AdytumError
from adytum_wire.receipts import parse_envelope, parse_receipt


class ExportError(Exception):
    """The file cannot be gone on with. The message is for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many receipts and checkpoints were written now, and the number of the file's last receipt."""

    receipts: int
    checkpoints: int
    last: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an existing file ends: `size` of its whole lines, number of its last receipt and of its last checkpoint."""

    size: int
    last: int
    checkpoint: int


def write(
    path: Path,
    header: AuditHeader,
    *,
    receipts: Callable[[int], Iterator[bytes]],
    checkpoints: Callable[[int], Iterator[tuple[int, bytes]]],
    resume: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write `path`. `receipts(after)`: envelopes in order; `checkpoints(after)`: (sequence, envelope) in order.

    `resume`: go on with a file that is there; else it must not be. `progress`: told each receipt's number.
    Errors: ExportError; OSError. After an error the file holds what was written, and `resume` goes on.
    """
    place = _Place(0, 0, 0)
    if path.exists():
        if not resume:
            raise ExportError(f"{path} is there already: name another file, or go on with it (--resume)")
        place = _end_of(path, header)
    # Those that are kept by now: the receipts that they cover are stored, so the file will not lack them.
    marks = iter(list(checkpoints(place.checkpoint)))
    with path.open("r+b" if place.size else "wb") as file:
        file.seek(place.size)
        file.truncate()
        if not place.size:
            file.write(header_line(header) + b"\n")
        written = _stream(file, place, receipts(place.last), marks, progress)
        file.flush()
        os.fsync(file.fileno())
    return written


def _stream(
    file: BinaryIO,
    place: _Place,
    receipts: Iterator[bytes],
    marks: Iterator[tuple[int, bytes]],
    progress: Callable[[int], None],
) -> Written:
    number, count, marked = place.last, 0, 0
    mark = next(marks, None)
    for envelope in receipts:
        number = _sequence(envelope)
        while mark is not None and mark[0] < number:
            file.write(checkpoint_line(mark[1]) + b"\n")
            mark, marked = next(marks, None), marked + 1
        file.write(envelope + b"\n")
        count += 1
        progress(number)
    while mark is not None:
        file.write(checkpoint_line(mark[1]) + b"\n")
        mark, marked = next(marks, None), marked + 1
    return Written(receipts=count, checkpoints=marked, last=number)


def _end_of(path: Path, header: AuditHeader) -> _Place:
    """Errors: ExportError when it is not this chain's audit file."""
    last_receipt = last_checkpoint = b""
    with path.open("rb") as file:
        first = file.readline()
        size = len(first)
        if not first.endswith(b"\n") and header_line(header).startswith(first):
            return _Place(0, 0, 0)  # interrupted at its very beginning
        try:
            found = read_header(first.rstrip(b"\n")) if first.endswith(b"\n") else None
        except AdytumError:
            found = None
        if found is None or found.chain != header.chain:
            raise ExportError(f"{path} is not an audit file of chain {header.chain}")
        for line in file:
            if not line.endswith(b"\n"):  # cut off in the middle: that one is written again
                break
            size += len(line)
            if checkpoint_of(line) is None:
                last_receipt = line
            else:
                last_checkpoint = line
    try:
        mark = checkpoint_of(last_checkpoint) if last_checkpoint else None
        checkpoint = 0 if mark is None else parse_checkpoint(parse_checkpoint_envelope(mark).body.encode()).sequence
        return _Place(size, _sequence(last_receipt) if last_receipt else 0, checkpoint)
    except AdytumError:
        raise ExportError(f"{path} ends in a line that is no receipt") from None


def _sequence(envelope: bytes) -> int:
    return parse_receipt(parse_envelope(envelope).body.encode()).sequence
