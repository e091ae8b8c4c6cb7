"""`ReleaseError`: a step of a rollover that was refused. Nothing has changed then."""

from __future__ import annotations

from enum import StrEnum


class ReleaseCode(StrEnum):
    """Stable codes; the sentence of each is fixed."""

    MEASUREMENTS_INVALID = "MEASUREMENTS_INVALID"
    NAME_INVALID = "RELEASE_NAME_INVALID"
    UNKNOWN = "RELEASE_UNKNOWN"
    EXISTS = "RELEASE_EXISTS"
    OVERLAPS = "RELEASE_OVERLAPS"
    RETIRED = "RELEASE_RETIRED"
    STATE = "RELEASE_STATE"
    NOT_PROVEN = "RELEASE_NOT_PROVEN"
    LAST_PROVEN = "RELEASE_LAST_PROVEN"
    PROMOTED = "RELEASE_PROMOTED"
    BUSY = "RELEASE_BUSY"
    KEY_POLICY = "RELEASE_KEY_POLICY"

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    ReleaseCode.MEASUREMENTS_INVALID: "The file holds no measurements of an image: PCR0, 1 and 2 are needed.",
    ReleaseCode.NAME_INVALID: "A release's name has 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a-z or 0-9.",
    ReleaseCode.UNKNOWN: "There is no such release.",
    ReleaseCode.EXISTS: "A release of this name has other measurements.",
    ReleaseCode.OVERLAPS: "Another release has the same image: an enclave must belong to one release.",
    ReleaseCode.RETIRED: "The release is retired: say --again if it is to run once more.",
    ReleaseCode.STATE: "The release is in a state from which this step does not lead on.",
    ReleaseCode.NOT_PROVEN: "No enclave of the release has proven itself: nothing could carry the traffic.",
    ReleaseCode.LAST_PROVEN: "No enclave of another release is proven: retiring this one would stop the service.",
    ReleaseCode.PROMOTED: "The release has the traffic: promote another one first.",
    ReleaseCode.BUSY: "Requests are still under way in enclaves of the release: it is retiring; say retire again.",
    ReleaseCode.KEY_POLICY: "The key policy cannot be written.",
}


class ReleaseError(Exception):
    """`code` is stable; `field` names a release, a PCR or a file of ours, or is empty."""

    def __init__(self, code: ReleaseCode, field: str = "") -> None:
        super().__init__(f"{code.text} ({field})" if field else code.text)
        self.code = code
        self.field = field
