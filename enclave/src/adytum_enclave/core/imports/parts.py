"""What a client seals for `import_file`: u32 big-endian length of the password, the password, the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adytum_enclave.core.secrets import Slot, copy
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

_LENGTH: Final = 4  # bytes


def invalid(what: str = "") -> AdytumError:
    """The refusal of every file that does not open. `what`: one of our own words, never the file's."""
    return AdytumError(Code.IMPORT_INVALID, f"$.sealed ({what})" if what else "$.sealed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`slot` stays the caller's. Password: from 4 to `middle`; file: from there to the end."""

    slot: Slot
    middle: int

    @classmethod
    def of(cls, slot: Slot) -> Parts:
        """Errors: IMPORT_INVALID for lengths that do not fit; a file is never empty, a password may be."""
        if slot.size <= _LENGTH:
            raise invalid("length")
        size = int.from_bytes(slot.view[:_LENGTH], "big")
        if size > limits.MAX_PASSWORD or _LENGTH + size >= slot.size:
            raise invalid("length")
        return cls(slot=slot, middle=_LENGTH + size)

    @property
    def password_start(self) -> int:
        return _LENGTH

    @property
    def password_size(self) -> int:
        return self.middle - _LENGTH

    @property
    def file_size(self) -> int:
        return self.slot.size - self.middle

    def file(self) -> bytes:
        """The file, for formats in which it is worth nothing without its password."""
        return bytes(self.slot.view[self.middle :])

    def copy_password(self, target: Slot, offset: int = 0) -> None:
        copy(self.slot.view[_LENGTH : self.middle], target, offset)

    def copy_file(self, target: Slot, offset: int = 0) -> None:
        copy(self.slot.view[self.middle :], target, offset)
