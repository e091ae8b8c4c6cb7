"""One release: a name, the PCRs of its image, and a state.

    planned   written down; no enclave of it is accepted
    active    accepted by the gates, and in the KMS key policy; the traffic goes elsewhere while something else can
              carry it
    promoted  gets the traffic; one release at a time
    retiring  gets nothing new; what is under way in its enclaves comes to its end
    retired   refused by every gate at once, whatever the settings say

>>> may_follow("active", "promoted"), may_follow("planned", "promoted")
(True, False)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum_verify import AttestationError, PcrPolicy

State = Literal["planned", "active", "promoted", "retiring", "retired"]
MANDATORY: Final = (0, 1, 2)
OPTIONAL: Final = (3, 8, 16)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# From -> to. A promoted release becomes active when another is promoted, and can be promoted again.
_STEPS: Final[dict[State, frozenset[State]]] = {
    "planned": frozenset({"active", "retired"}),
    "active": frozenset({"promoted", "retiring"}),
    "promoted": frozenset({"active"}),
    "retiring": frozenset({"active", "retired"}),
    "retired": frozenset({"active"}),
}


def may_follow(now: State, then: State) -> bool:
    return then in _STEPS[now]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`pcrs`: index -> 48 bytes; 0, 1 and 2, and those of 3, 8, 16 that the release fixes. `provenance`: what the build
    said of itself; shown, not believed. Errors on construction: NAME_INVALID, MEASUREMENTS_INVALID."""

    name: str
    pcrs: Mapping[int, bytes]
    state: State = "planned"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    changed_at: datetime | None = None

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ReleaseError(ReleaseCode.NAME_INVALID)
        if strange := set(self.pcrs) - {*MANDATORY, *OPTIONAL}:
            raise ReleaseError(ReleaseCode.MEASUREMENTS_INVALID, f"PCR{min(strange)}")
        try:
            policy = PcrPolicy(self.pcrs)
        except AttestationError as error:
            raise ReleaseError(ReleaseCode.MEASUREMENTS_INVALID, error.field) from None
        object.__setattr__(self, "pcrs", policy.pcrs)

    @property
    def policy(self) -> PcrPolicy:
        return PcrPolicy(self.pcrs)

    def matches(self, pcrs: Mapping[int, bytes]) -> bool:
        """True when an enclave with these PCRs is one of this release."""
        return all(pcrs.get(index) == value for index, value in self.pcrs.items())

    def overlaps(self, other: Release) -> bool:
        """True when an enclave could be of both."""
        return all(other.pcrs[index] == value for index, value in self.pcrs.items() if index in other.pcrs)
