"""What the gates expect now: the images of the settings and the releases of the database, in one immutable picture.

A retired release is refused whatever else would allow it. Until the database has said which ones are retired, nothing
is accepted: `Images.unknown()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from adytum.releases.release import Release
from adytum_verify import AllowList, PcrPolicy

FIRST: Final = 0  # of the promoted release
SECOND: Final = 1  # accepted; used while no enclave of the promoted release serves


@dataclass(frozen=True, kw_only=True)
class Images:
    """`configured`: the images of `tee.allowedPCRs`. `releases`: all of the database, the retired ones too."""

    configured: tuple[PcrPolicy, ...] = ()
    releases: tuple[Release, ...] = ()
    is_known: bool = True

    @classmethod
    def unknown(cls) -> Images:
        """Before the database was asked: nothing is accepted."""
        return cls(is_known=False)

    @cached_property
    def allowed(self) -> AllowList | None:
        """None when nothing is allowed at all. `refusal` may still refuse what this allows."""
        running = tuple(r.policy for r in self.releases if r.state in ("active", "promoted", "retiring"))
        images = (*self.configured, *running)
        return AllowList(images) if images and self.is_known else None

    def refusal(self, pcrs: Mapping[int, bytes]) -> str:
        """Why an enclave with these PCRs is not accepted, as a code; "" when it is."""
        release = self.release_of(pcrs)
        if release is not None and release.state == "retired":
            return "RELEASE_RETIRED"
        allowed = self.allowed
        if allowed is None or all(image.first_mismatch(pcrs) is not None for image in allowed.images):
            return "PCR_MISMATCH"
        return ""

    def release_of(self, pcrs: Mapping[int, bytes]) -> Release | None:
        """The release that an enclave with these PCRs is of. At most one: `add` refuses releases that overlap."""
        return next((release for release in self.releases if release.matches(pcrs)), None)

    def rank(self, pcrs: Mapping[int, bytes]) -> int | None:
        """FIRST, SECOND, or None for an accepted enclave that gets no new requests (its release is retiring)."""
        release = self.release_of(pcrs)
        state = "" if release is None else release.state
        if state in ("retiring", "retired"):
            return None
        return FIRST if state == "promoted" else SECOND
