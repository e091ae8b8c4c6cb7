"""Coverage-guided fuzzing of what a client's file goes through: each parser parses or raises IMPORT_INVALID, and no
slot stays taken.

    python enclave/fuzz/fuzz_imports.py -max_total_time=180 -max_len=4096
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import cast

import atheris

with atheris.instrument_imports(
    include=["adytum_enclave.core.imports", "adytum_wire.strict_json", "adytum_wire.recovery"]
):
    from adytum_enclave.core.imports import bip39, keystore, mpcenc
    from adytum_enclave.core.imports.parts import Parts
    from adytum_wire.errors import AdytumError, Code
    from adytum_wire.recovery import parse_recovery

from adytum_enclave.core.secrets import Arena, Slot

ARENA = Arena(1 << 17)


def seed_of(parts: Parts) -> Slot:
    with closing(bip39.make_seed(parts, ARENA)) as steps:
        next(steps).work()
        try:
            steps.send(b"")
        except StopIteration as stop:
            return cast(Slot, stop.value)
    raise RuntimeError("a mnemonic is stretched once")


def one(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 4, data[1:]
    try:
        if kind == 0:
            found = keystore.parse(data)
            if not found.cost.is_affordable or len(found.ciphertext) != 32:
                raise RuntimeError("a keystore that must not be taken")
        elif kind == 1:
            file = mpcenc.parse(b"MPCENC\0\0\0\1\0\0" + data)
            if not file.cost.is_affordable or file.wrapped_key == b"":
                raise RuntimeError("a share file that must not be taken")
        elif kind == 2:
            parse_recovery(data)
        elif data:
            with ARENA.take(len(data)) as slot:
                slot.view[:] = data
                seed_of(Parts.of(slot)).wipe()
    except AdytumError as error:
        if error.code not in (Code.IMPORT_INVALID, Code.RECORD_INVALID):
            raise
    if ARENA.in_use:
        raise RuntimeError("a slot stays taken")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
