"""What a search found and how much it looked at; workers send theirs to the process that reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Verdict:
    """`findings`: (file, secret, form), by name. `counts`: what was there to search, for the report and the floors."""

    findings: list[tuple[str, str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Verdict) -> None:
        self.findings += [finding for finding in other.findings if finding not in self.findings]
        self.counts += other.counts

    def plain(self) -> dict[str, Any]:
        """For another process, which reads it by `read`."""
        return {**asdict(self), "counts": dict(self.counts)}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Verdict:
        return cls([tuple(finding) for finding in plain["findings"]], Counter(plain["counts"]))
