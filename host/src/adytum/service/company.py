"""The answers of one batch, written together: nobody hears of one before all are there, so one transaction keeps them.

company = Company(len(items), release=batcher.release)
place = company.place()              # one for each request
hold_s = place.here()                # it has its answer, which may wait so long for the others
place.gone()                         # it has ended, with an answer or without
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

HOLD_S: Final = 0.25  # seconds


class Company:
    """`size`: how many requests there are. `release`: write what is held back."""

    def __init__(self, size: int, *, release: Callable[[], None]) -> None:
        self._missing = size
        self._release = release

    def place(self) -> Place:
        return Place(self)

    def _arrived(self) -> bool:
        """True for the last one."""
        self._missing -= 1
        return self._missing <= 0


class Place:
    """One request of a company. It counts once, whatever is called how often."""

    __slots__ = ("_company", "_counts")

    def __init__(self, company: Company) -> None:
        self._company = company
        self._counts = True

    def here(self) -> float:
        """How long its answer may wait; 0 for the last one."""
        if not self._counts:
            return 0.0
        self._counts = False
        return 0.0 if self._company._arrived() else HOLD_S

    def gone(self) -> None:
        """The others do not wait for it any longer."""
        if self._counts:
            self._counts = False
            if self._company._arrived():
                self._company._release()
