"""The only numbers that leave the enclave besides replies: a fixed list, no labels from input."""

from __future__ import annotations

from adytum_wire.errors import Code

# `kms_us`: microseconds from asking KMS to its answer, of all calls together. The host sees those times anyway.
NAMES = (
    "executed",
    "denied",
    "repeated",
    "kms_calls",
    "warm_hits",
    "warm_misses",
    "resealed",
    "anchor_reads",
    "anchor_writes",
    "documents",
    "kms_us",
)


class Counters:
    """Counters named in `NAMES`, and one for each error code."""

    def __init__(self) -> None:
        self._values = dict.fromkeys((*NAMES, *(f"error_{code.value}" for code in Code)), 0)

    def add(self, name: str, amount: int = 1) -> None:
        self._values[name] += amount

    def error(self, code: Code) -> None:
        self._values[f"error_{code.value}"] += 1

    def snapshot(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: value for name, value in self._values.items() if value}
