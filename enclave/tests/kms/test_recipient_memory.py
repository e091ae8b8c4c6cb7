"""After a data key was used, neither it nor the content-encryption key is anywhere in the process's memory.

The parent knows both keys, the child only ever receives ciphertext. The parent reads the child's memory through /proc:
while the slot lives the data key must be found (else the scan proves nothing); once wiped no 8-byte piece of either
may be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

PIECE = 8  # bytes


class Child:
    def __init__(self, extra: dict[str, str]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "COV_"))} | extra
        script = Path(__file__).with_name("recipient_child.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.spki = bytes.fromhex(self.read())

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def count(self, secret: bytes) -> int:
        """How often any aligned-to-8 piece of `secret` occurs in the child's readable memory."""
        pieces = [secret[at : at + PIECE] for at in range(0, len(secret), PIECE)]
        found = scanned = 0
        with Path(f"/proc/{self.process.pid}/mem").open("rb", buffering=0) as memory:
            for line in Path(f"/proc/{self.process.pid}/maps").read_text().splitlines():
                span, permissions = line.split()[:2]
                if "r" not in permissions or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    continue
                start, end = (int(text, 16) for text in span.split("-"))
                memory.seek(start)
                data = b""
                while len(data) < end - start and (more := memory.read(end - start - len(data))):
                    data += more
                scanned += len(data)
                found += sum(data.count(piece) for piece in pieces)
        assert scanned > 4_000_000  # the glob matched something
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture(params=["plain", "bind-now", "belt"])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    extra = {
        "plain": {},
        "bind-now": {"LD_BIND_NOW": "1"},
        "belt": {
            "LD_BIND_NOW": "1",
            "PYTHONMALLOC": "malloc",
            "GLIBC_TUNABLES": "glibc.malloc.perturb=170:glibc.malloc.tcache_count=0",
        },
    }[request.param]
    started = Child(extra)
    try:
        yield started
    finally:
        started.stop()


def test_no_copy_of_the_data_key_or_the_content_key_stays(child: Child, kit: SimpleNamespace) -> None:
    for turn in range(3):
        data_key, cek = os.urandom(32), os.urandom(32)
        assert child.say(kit.seal_for(child.spki, data_key, cek=cek).hex()) == "open"
        assert child.count(data_key) == 4, turn  # exactly the slot: 4 pieces of 8 bytes
        assert child.count(cek) == 0, turn
        assert child.say("") == "wiped"
        assert child.count(data_key) == 0, turn
        assert child.count(cek) == 0, turn


def test_nothing_stays_after_a_refusal_either(child: Child, kit: SimpleNamespace) -> None:
    for _ in range(2):
        data_key, cek = os.urandom(32), os.urandom(32)
        bent = kit.seal_for(child.spki, data_key, cek=cek, pad=b"\x10" * 15 + b"\x11").hex()
        assert child.say(bent) == "refused KMS_ANSWER_INVALID 0"
        assert child.count(data_key) == child.count(cek) == 0
