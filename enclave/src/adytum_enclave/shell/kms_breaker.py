"""A circuit breaker: after several failures in a row, stop asking for a while, then let one call find out.

>>> now = 0.0
>>> breaker = Breaker(threshold=1, cooldown_s=2.0, monotonic=lambda: now)
>>> breaker.admit(); breaker.failed(); breaker.state
'open'
>>> now = 2.0
>>> breaker.admit(); breaker.succeeded(); breaker.state
'closed'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from adytum_wire.errors import AdytumError, Code

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Each `admit` that returned is answered by exactly one of `succeeded`, `failed` and `abandoned`."""

    __slots__ = ("_code", "_cooldown_s", "_failures", "_monotonic", "_opened_at", "_threshold", "state")

    def __init__(
        self, *, threshold: int, cooldown_s: float, monotonic: Callable[[], float], code: Code = Code.KMS_UNAVAILABLE
    ) -> None:
        self._code = code
        self._threshold, self._cooldown_s, self._monotonic = threshold, cooldown_s, monotonic
        self._failures = 0
        self._opened_at = 0.0
        self.state: State = "closed"

    def admit(self) -> None:
        """Errors: `code` with a hint when to come back, while open, or while the one probe is under way."""
        if self.state == "closed":
            return
        wait_s = self._opened_at + self._cooldown_s - self._monotonic()
        if self.state == "half-open" or wait_s > 0:
            raise AdytumError(self._code, "circuit", retry_after_ms=max(1, int(wait_s * 1000)))
        self.state = "half-open"

    def succeeded(self) -> None:
        """The peer is there (whatever it said)."""
        self.state, self._failures = "closed", 0

    def failed(self) -> None:
        self._failures += 1
        if self.state != "closed" or self._failures >= self._threshold:
            self.state, self._opened_at = "open", self._monotonic()

    def abandoned(self) -> None:
        """Nothing was learned. A probe's place is free again for the next call."""
        if self.state == "half-open":
            self.state = "open"
