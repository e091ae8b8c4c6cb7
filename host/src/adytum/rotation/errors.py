"""`RotationError`: a step of a rotation that was refused. Nothing has changed then."""

from __future__ import annotations

from enum import StrEnum


class RotationCode(StrEnum):
    """Stable codes; the sentence of each is fixed."""

    UNKNOWN = "ROTATION_UNKNOWN"
    ACTIVE = "ROTATION_ACTIVE"
    STATE = "ROTATION_STATE"
    NOTHING = "ROTATION_NOTHING"
    POLICY = "ROTATION_POLICY"
    MANIFEST = "ROTATION_MANIFEST"
    SELECTION = "ROTATION_SELECTION"
    FLOOR = "ROTATION_FLOOR"
    LEFT = "ROTATION_LEFT"
    STATEMENT = "ROTATION_STATEMENT"

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    RotationCode.UNKNOWN: "There is no such job.",
    RotationCode.ACTIVE: "The tenant has a rotation that has not ended: let it end, or cancel it.",
    RotationCode.STATE: "The job is in a state from which this step does not lead on.",
    RotationCode.NOTHING: "No record needs it: all have the policy's generation and the tenant's KMS key.",
    RotationCode.POLICY: "The tenant has no policy, or one that cannot be read.",
    RotationCode.MANIFEST: "The manifest is not set, or does not know the tenant.",
    RotationCode.SELECTION: "The selection names records that a reseal would leave as they are.",
    RotationCode.FLOOR: "The policy in force still allows the old records: publish one with a higher min_generation.",
    RotationCode.LEFT: "Records are left that are not as the policy in force would seal them: rotate them first.",
    RotationCode.STATEMENT: "The enclave's statement does not say what the job was for.",
}


class RotationError(Exception):
    """`code` is stable; `field` names a job, an option or a number of ours, or is empty."""

    def __init__(self, code: RotationCode, field: str = "") -> None:
        super().__init__(f"{code.text} ({field})" if field else code.text)
        self.code = code
        self.field = field
