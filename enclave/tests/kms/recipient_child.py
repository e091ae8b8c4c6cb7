"""Not a test: the process whose memory `test_recipient_memory.py` scans. Talks in lines of hex on stdin and stdout."""

from __future__ import annotations

import sys

from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena
from adytum_wire.errors import AdytumError


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    # An ordinary mapping: memfd_secret would hide the slot, and the scan must be able to see it while it lives.
    arena = Arena(4096, prefer_memfd_secret=False)
    key = RecipientKey.generate()
    say(key.spki.hex())
    for line in sys.stdin:
        try:
            slot = key.open(bytes.fromhex(line), arena)
        except AdytumError as error:
            say(f"refused {error.code} {arena.in_use}")
            continue
        say("open")
        sys.stdin.readline()  # the parent scans, and says go on
        slot.wipe()
        say("wiped")


main()
