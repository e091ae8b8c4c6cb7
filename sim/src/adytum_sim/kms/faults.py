"""What a test may break, one thing at a time. Each count is how many of the next answers it spoils.

Transport: `throttle`, `refuse` (HTTP 500), `hang_up` (close without an answer), `delay_ms` (every answer, until reset),
`swap` (the next two requests get each other's answers). Content, as a host that relays KMS's answers could do it:
`forge` (the attacker's data key, enveloped to the right recipient), `wrong_recipient` (enveloped to somebody else),
`plaintext_beside`, `other_key_id`, `replay` (the previous answer of the same operation), `no_envelope`.

Example:
    faults.set(forge=1)            # the next answer that has an envelope is forged
    faults.forged                  # afterwards: the plaintexts that the attacker chose
"""

from __future__ import annotations

import threading
from typing import Final

from adytum_sim.kms.errors import invalid

COUNTED: Final = (
    "throttle", "refuse", "hang_up", "swap", "forge", "wrong_recipient", "plaintext_beside", "other_key_id",
    "replay", "no_envelope",
)  # fmt: skip
MAX_COUNT: Final = 1_000_000
MAX_DELAY_MS: Final = 600_000


class Faults:
    """Safe for use by several threads. All zero means: nothing is broken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTED, 0)
        self._delay_ms = 0
        self.forged: list[bytes] = []

    def set(self, **values: int) -> None:
        """Set counts and `delay_ms`; what is not named stays. Errors: ValidationException, and nothing changes."""
        for name, value in values.items():
            limit = MAX_DELAY_MS if name == "delay_ms" else MAX_COUNT
            if name != "delay_ms" and name not in COUNTED:
                raise invalid("There is no such fault.")
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
                raise invalid("A fault is a number from 0.")
        with self._lock:
            for name, value in values.items():
                if name == "delay_ms":
                    self._delay_ms = value
                else:
                    self._counts[name] = value

    def reset(self) -> None:
        with self._lock:
            self._counts = dict.fromkeys(COUNTED, 0)
            self._delay_ms = 0
            self.forged = []

    def take(self, name: str) -> bool:
        """True when this answer is to be spoiled so; counts down."""
        with self._lock:
            if self._counts[name] == 0:
                return False
            self._counts[name] -= 1
            return True

    @property
    def delay_ms(self) -> int:
        return self._delay_ms

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return {**self._counts, "delay_ms": self._delay_ms}
