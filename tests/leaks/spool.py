"""Where the processes of a test run put what they saw: a private directory, read when the run is over.

    spool = Spool(directory)
    spool.secret("KMS data key", key)
    spool.file("dump", data)

One file of lines a process (facts), one file each for what is searched (files), and raw files of 32-byte secrets that
the enclaves write themselves. Lines are whole: each is one `write` to a file opened for appending, so that a process
may be killed at any time. The directory holds secrets: it is private, and removed when the run ends.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS = ".facts"
RANDOM = ".random"
VARIABLE = "ADYTUM_TEST_SPOOL"  # tells a child process of a test where its parent's spool is
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class File:
    """Something to search. `kind`: "dump", "service log" and so on. `label`: the test that ran."""

    kind: str
    label: str
    data: bytes


class Spool:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count()
        self._opened: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def secret(self, name: str, secret: bytes) -> None:
        self._write({"secret": name, "hex": bytes(secret).hex(), "label": label()})

    def sealed(self, blob: bytes, plaintext: bytes) -> None:
        """What KMS sealed: a secret, and how the records that carry `blob` are opened."""
        self._write({"sealed": bytes(blob).hex(), "hex": bytes(plaintext).hex(), "label": label()})

    def record(self, header: bytes, ciphertext: bytes, data_key: bytes) -> None:
        self._write({"record": [header.hex(), ciphertext.hex(), data_key.hex()], "label": label()})

    def path_used(self, key_id: str, path: str) -> None:
        self._write({"path": path, "key": key_id, "label": label()})

    def count(self, what: str) -> None:
        """For the report and its floors: "database", "enclave" and so on."""
        self._write({"count": what, "label": label()})

    def file(self, kind: str, data: bytes) -> None:
        """Something to search."""
        if data.strip():
            file = self.open_file(kind)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            finally:
                os.close(file)

    def open_file(self, kind: str) -> int:
        """A new file to search, open for appending. When the run is over, nobody reads it any more."""
        if not self.directory.exists():
            return os.open(os.devnull, os.O_WRONLY)
        name = f"{os.getpid()}-{next(self._numbers)}.file"
        self._write({"file": name, "kind": kind, "label": label()})
        return os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def random_file(self) -> Path:
        """A new name for an enclave's secrets, see `adytum_sim.enclave.witness.telling`."""
        return self.directory / f"{os.getpid()}-{next(self._numbers)}{RANDOM}"

    def _write(self, fact: dict[str, Any]) -> None:
        line = json.dumps(fact).encode() + b"\n"
        with self._lock:
            if not self.directory.exists():
                return
            if self._opened is None or self._opened[0] != os.getpid():  # also after a fork
                path = self.directory / f"{os.getpid()}{FACTS}"
                self._opened = os.getpid(), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(self._opened[1], line)

    def facts(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.directory.glob(f"*{FACTS}")):
            for line in path.read_bytes().splitlines():
                yield json.loads(line)

    def random(self) -> Iterator[bytes]:
        for path in sorted(self.directory.glob(f"*{RANDOM}")):
            data = path.read_bytes()
            for at in range(0, len(data) - SECRET_BYTES + 1, SECRET_BYTES):
                yield data[at : at + SECRET_BYTES]


def label() -> str:
    """The test that runs, as pytest names it; a child process inherits it."""
    return os.environ.get("PYTEST_CURRENT_TEST", "before the first test").rsplit(" (", 1)[0]
