"""The second copy as files: JSON lines, only ever appended to, one file a day (UTC), synced before it counts.

Put the directory where the service's role may create and append, and not rewrite (`chattr +a`, a WORM mount, another
machine's export). A line that a crash cut off is ended by the next start; its content comes again as a whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from adytum.audit.ports import Entry, SinkError

MODE = 0o640


class FileSink:
    """`directory` must exist and be writable. `now_ms`: the host's clock, which names the files and no more."""

    def __init__(self, directory: Path, *, receipts: bool, now_ms: Callable[[], int], name: str = "file") -> None:
        self._directory = directory
        self._receipts = receipts
        self._now_ms = now_ms
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def takes_receipts(self) -> bool:
        return self._receipts

    def check(self) -> None:
        """Open today's file, so that a copy that cannot be written is told at start. Errors: OSError."""
        os.close(self._open())

    async def put(self, entries: Sequence[Entry]) -> None:
        try:
            await asyncio.to_thread(self._append, b"".join(entry.line + b"\n" for entry in entries))
        except OSError as error:
            raise SinkError(f"FILE_{os.strerror(error.errno or 0).upper().replace(' ', '_')}") from None

    def _append(self, data: bytes) -> None:
        descriptor = self._open()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        """Today's file for appending; its last line is whole. Errors: OSError."""
        day = datetime.fromtimestamp(self._now_ms() / 1000, UTC).strftime("%Y-%m-%d")
        path = self._directory / f"adytum-audit-{day}.jsonl"
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")
            if is_new:
                self._sync_directory()
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _sync_directory(self) -> None:
        """Or the file's name may be gone after a power failure, and its content with it."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
