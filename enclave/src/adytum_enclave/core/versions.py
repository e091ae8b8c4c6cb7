"""The highest version seen of each record, so that the host cannot go back to an older one within this boot.

A version counts as seen when it has *opened*, not when it was made: an answer that was lost on the way to the database
must not lock its key. Older versions across boots are the business of the anchor (design 04) and of `min_version`.
"""

from __future__ import annotations

from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header

MAX_RECORDS = 1_000_000
_NEVER = 2**54  # above every version


class VersionMemory:
    """Bounded: of more than `MAX_RECORDS` resealed records in one boot, the later ones are not remembered."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def require(self, header: Header) -> None:
        """Errors: RECORD_ROLLBACK."""
        if header.version < self._highest.get(header.key_id, 0):
            raise AdytumError(Code.RECORD_ROLLBACK, "$.version")

    def retire(self, key_id: str) -> None:
        """No version of this record is opened any more: it was deleted."""
        self._highest[key_id] = _NEVER

    def note(self, header: Header) -> None:
        """Remember an opened record's version."""
        highest = self._highest.get(header.key_id, 0)
        # Version 1 needs no entry: there is nothing older, and most keys never get a second version.
        if header.version > max(highest, 1) and (highest or len(self._highest) < MAX_RECORDS):
            self._highest[header.key_id] = header.version
