"""What a second copy is: a place that the first one's administrator cannot rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


class SinkError(Exception):
    """The copy could not be written. `reason`: a short code of ours; what was asked for is asked again later."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`line`: as it stands in an audit file (adytum_verify.container), without the line's end."""

    kind: Literal["receipt", "checkpoint"]
    chain: str
    sequence: int
    line: bytes


class Sink(Protocol):
    """`name`: in metrics, in health and in the database (where it has got to): keep it when you move the copy."""

    @property
    def name(self) -> str: ...

    @property
    def takes_receipts(self) -> bool:
        """Whether it is given the receipts too, or the checkpoints only."""
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """Return when all are durable. May be asked for the same again. Errors: SinkError."""
        ...
