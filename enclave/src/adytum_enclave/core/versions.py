"""The newest version seen of each record, so that the host cannot go back to an older one within this boot, nor to
another one of the same version: two successors of one version may have been made, and only one of them has a future.

A version counts as seen when it has *opened*, not when it was made: an answer that was lost on the way to the database
must not lock its key (ADR 6). Older versions across boots are the business of the anchor (design 04) and of
`min_generation`.
"""

from __future__ import annotations

from typing import Final

from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header
from adytum_wire.types import sha256

MAX_RECORDS: Final = 1_000_000
MAX_SUPERSEDED: Final = 100_000  # beyond that, so that a long rotation leaves room to stop a key
_NEVER: Final = 2**54  # above every version
_VERSION_BYTES: Final = 8


class VersionMemory:
    """Bounded: of more than `MAX_RECORDS` resealed records in one boot, the later ones are not remembered. An entry is
    two bytes objects: the record's id, and the version with the SHA-256 of its header.

    `header` is the parsed one, `encoded` its bytes as they stand in the record."""

    def __init__(self, *, max_records: int = MAX_RECORDS, max_superseded: int = MAX_SUPERSEDED) -> None:
        self._max_records = max_records
        self._max_superseded = max_superseded
        self._newest: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._newest)

    def require(self, header: Header) -> None:
        """Errors: RECORD_ROLLBACK for an older version."""
        if header.version < _version(self._newest.get(_name(header.key_id))):
            raise AdytumError(Code.RECORD_ROLLBACK, "$.version")

    def require_proven(self, header: Header, encoded: bytes, *, is_stop: bool = False) -> None:
        """`header` is proven: the record opened under it, or is warm. `is_stop`: the request does nothing but take a
        right from the key, so it may also be made of another record of the version; that is the way out when the host
        stored that one. Errors: RECORD_ROLLBACK for an older version, or another record of the same one."""
        self.require(header)
        newest = self._newest.get(_name(header.key_id))
        if newest is None or header.version > _version(newest) or is_stop:
            return
        if sha256(encoded) != newest[_VERSION_BYTES:]:
            raise AdytumError(Code.RECORD_ROLLBACK, "$.version")

    def note(self, header: Header, encoded: bytes) -> None:
        """Remember an opened record's version."""
        newest = self._newest.get(_name(header.key_id))
        # Version 1 needs no entry: there is nothing older, and most keys never get a second version.
        if header.version > max(_version(newest), 1) and (newest is not None or len(self._newest) < self._max_records):
            self._newest[_name(header.key_id)] = _entry(header.version, encoded)

    def supersede(self, header: Header, encoded: bytes) -> None:
        """This one counts at once, and no other version of it or before it. Errors: RECORD_ROLLBACK when a newer one
        opened meanwhile; RESOURCE_EXHAUSTED. Nothing has changed then."""
        self.require_proven(header, encoded)
        self._put(_name(header.key_id), _entry(header.version, encoded))

    def retire(self, key_id: str) -> None:
        """No version of this record is opened any more: it was deleted. Errors: RESOURCE_EXHAUSTED."""
        self._put(_name(key_id), _entry(_NEVER, b""))

    def _put(self, name: bytes, entry: bytes) -> None:
        if name not in self._newest and len(self._newest) >= self._max_records + self._max_superseded:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.record")
        self._newest[name] = entry


def _name(key_id: str) -> bytes:
    return bytes.fromhex(key_id.removeprefix("key-"))


def _entry(version: int, encoded: bytes) -> bytes:
    return version.to_bytes(_VERSION_BYTES, "big") + sha256(encoded)


def _version(entry: bytes | None) -> int:
    return 0 if entry is None else int.from_bytes(entry[:_VERSION_BYTES], "big")
