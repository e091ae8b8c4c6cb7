"""`fill` writes every byte in place, in parts too, and says so when the kernel does not give."""

from __future__ import annotations

import ctypes
import errno

import pytest

from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell import entropy
from adytum_wire.errors import AdytumError, Code


def test_fills_a_slot_and_nothing_beside_it() -> None:
    arena = Arena(4096)
    with arena.take(64) as slot:
        entropy.fill(slot.view[8:40])
        assert bytes(slot.view[:8]) == bytes(8) and bytes(slot.view[40:]) == bytes(24)
        assert len(set(bytes(slot.view[8:40]))) > 8


@pytest.mark.parametrize("size", [0, 1, 31, 257, 100_000])
def test_every_byte_is_reached(size: int) -> None:
    seen = bytearray(size)
    for _ in range(8):  # a byte that stays zero eight times over: 2**-64
        buffer = bytearray(size)
        entropy.fill(memoryview(buffer))
        for at in range(0, size, max(1, size // 500)):
            seen[at] |= buffer[at]
        if size:
            seen[-1] |= buffer[-1]
    assert all(seen[at] for at in range(0, size, max(1, size // 500)))


def test_does_not_repeat() -> None:
    buffers = [bytearray(16) for _ in range(200)]
    for buffer in buffers:
        entropy.fill(memoryview(buffer))
    assert len({bytes(buffer) for buffer in buffers}) == 200


class Kernel:
    """getrandom(2) with the answers of a script: a count, or an errno as a negative number."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    def getrandom(self, address: int, size: int, flags: int) -> int:
        assert flags == 0
        answer = self.answers.pop(0)
        if answer < 0:
            ctypes.set_errno(-answer)
            return -1
        ctypes.memset(address, 0xAA, min(answer, size))
        return min(answer, size)


def test_a_short_or_interrupted_read_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(100, -errno.EINTR, 100, 256)
    monkeypatch.setattr(entropy, "_libc", lambda: kernel)
    buffer = bytearray(300)
    entropy.fill(memoryview(buffer))
    assert buffer == b"\xaa" * 300 and kernel.answers == []


def test_a_kernel_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "_libc", lambda: Kernel(10, -errno.ENOSYS))
    with pytest.raises(AdytumError) as caught:
        entropy.fill(memoryview(bytearray(32)))
    assert (caught.value.code, caught.value.field) == (Code.INTERNAL, "entropy")


def test_a_view_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(TypeError):
        entropy.fill(memoryview(bytes(8)))
