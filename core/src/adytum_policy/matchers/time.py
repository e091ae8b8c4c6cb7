"""Conditions on the time of the week, in UTC.

>>> from adytum_policy.shape import TimeEntry
>>> TimeMatcher([TimeEntry(days=["thu"], start="00:00", end="00:01")]).holds(59_999)  # 1970-01-01 was a Thursday
True
"""

from __future__ import annotations

from collections.abc import Iterable

from adytum_policy.shape import TimeEntry

_DAY_MS = 86_400_000
_DAYS = ("thu", "fri", "sat", "sun", "mon", "tue", "wed")  # the epoch began on a Thursday


class TimeMatcher:
    """Compiled to spans of each day, in ms since midnight."""

    __slots__ = ("_spans",)

    def __init__(self, entries: Iterable[TimeEntry]) -> None:
        self._spans: tuple[list[tuple[int, int]], ...] = tuple([] for _ in _DAYS)
        for entry in entries:
            for day in entry.days:
                self._spans[_DAYS.index(day)].append((_ms(entry.start), _ms(entry.end)))

    def holds(self, now_ms: int) -> bool:
        day, moment = divmod(now_ms, _DAY_MS)
        return any(start <= moment < end for start, end in self._spans[day % 7])


def _ms(text: str) -> int:
    hours, minutes = text.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000
