"""Arena, and a way to run what the formats do without a shell."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports.parts import Parts
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire.errors import AdytumError, Code


class Bench:
    """`run`: drive a generator as the shell does. `parts`: password and file as a client seals them."""

    def __init__(self) -> None:
        self.arena = Arena(1 << 18)
        self._kept: list[Slot] = []

    def slot(self, value: bytes) -> Slot:
        slot = self.arena.take(len(value))
        slot.view[:] = value
        self._kept.append(slot)
        return slot

    def parts(self, password: bytes, file: bytes) -> Parts:
        return Parts.of(self.slot(len(password).to_bytes(4, "big") + password + file))

    def run(self, steps: Generator[Stretch, Any, Any]) -> Any:
        try:
            effect = next(steps)
            while True:
                assert isinstance(effect, Stretch)
                try:
                    effect.work()
                except AdytumError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(b"")
        except StopIteration as stop:
            return stop.value

    def refused(self, make: Callable[[Parts], Any], password: bytes, file: bytes) -> str:
        """The field of the IMPORT_INVALID that `make` ends in; no slot stays taken."""
        parts = self.parts(password, file)
        before = self.arena.in_use
        with pytest.raises(AdytumError) as caught:
            make(parts)
        assert caught.value.code is Code.IMPORT_INVALID
        assert self.arena.in_use == before
        return caught.value.field

    def wipe(self) -> None:
        for slot in self._kept:
            slot.wipe()


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    bench.wipe()
    assert bench.arena.in_use == 0
