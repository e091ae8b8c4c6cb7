"""Which message is taken in which phase. One table; an illegal message changes nothing.

Refused input leaves the phase as it is. Only a broken invariant (a PCR that was extended but not locked) is terminal.
"""

from __future__ import annotations

from enum import StrEnum

from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import (
    Attest,
    Checkpoint,
    Configure,
    Execute,
    GetReceipts,
    GetUsage,
    Health,
    Hello,
    PutAnchorCredentials,
    PutPolicy,
    PutUsage,
    ResetUsage,
    SetCredentials,
)


class Phase(StrEnum):
    AWAITING_MANIFEST = "awaiting-manifest"
    MEASURING = "measuring"  # between the decision to take a manifest and PCR16 being locked
    READY = "ready"
    TERMINAL = "terminal"


_ALWAYS: frozenset[type] = frozenset({Hello, Health})

TAKES: dict[Phase, frozenset[type]] = {
    Phase.AWAITING_MANIFEST: _ALWAYS | {Configure},
    Phase.MEASURING: _ALWAYS,
    Phase.READY: _ALWAYS
    | {SetCredentials, PutPolicy, PutUsage, PutAnchorCredentials, ResetUsage, GetUsage}
    | {Attest, GetReceipts, Checkpoint, Execute},
    Phase.TERMINAL: _ALWAYS,
}

STEPS: frozenset[tuple[Phase, Phase]] = frozenset(
    {
        (Phase.AWAITING_MANIFEST, Phase.MEASURING),
        (Phase.MEASURING, Phase.READY),
        (Phase.MEASURING, Phase.TERMINAL),
        (Phase.READY, Phase.TERMINAL),
    }
)


class PhaseTable:
    """The phase of one enclave. Only this object changes it."""

    def __init__(self) -> None:
        self._phase = Phase.AWAITING_MANIFEST

    @property
    def now(self) -> Phase:
        return self._phase

    def require(self, message: type) -> None:
        """Errors: PHASE_INVALID."""
        if message not in TAKES[self._phase]:
            raise AdytumError(Code.PHASE_INVALID)

    def step(self, to: Phase) -> None:
        """Errors: PHASE_INVALID; the phase stays."""
        if (self._phase, to) not in STEPS:
            raise AdytumError(Code.PHASE_INVALID)
        self._phase = to
