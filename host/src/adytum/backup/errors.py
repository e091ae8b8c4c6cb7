"""`BackupError`: a backup or restore that was not made. What was there before is as it was."""

from __future__ import annotations

from enum import StrEnum


class BackupCode(StrEnum):
    """Stable codes; the sentence of each is fixed."""

    EXISTS = "BACKUP_EXISTS"
    PROGRAM = "BACKUP_PROGRAM"
    MANIFEST = "BACKUP_MANIFEST"
    DAMAGED = "BACKUP_DAMAGED"
    NOT_EMPTY = "RESTORE_NOT_EMPTY"
    NEWER = "RESTORE_NEWER_SCHEMA"
    ENCLAVE = "DRILL_ENCLAVE"
    SIGNER = "DRILL_SIGNER"

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    BackupCode.EXISTS: "There is something already where the backup is to go.",
    BackupCode.PROGRAM: "PostgreSQL's program failed.",
    BackupCode.MANIFEST: "The backup has no manifest that can be read.",
    BackupCode.DAMAGED: "The dump is not the one that the manifest describes.",
    BackupCode.NOT_EMPTY: "The database is not empty: a restore goes into a new one.",
    BackupCode.NEWER: "The backup is of a newer schema than this program knows.",
    BackupCode.ENCLAVE: "This enclave served the database that was backed up: a drill needs a boot of its own.",
    BackupCode.SIGNER: "A drill needs the key of a principal that may reseal.",
}


class BackupError(Exception):
    """`code` is stable; `field` names a file, an option or PostgreSQL's last line, or is empty."""

    def __init__(self, code: BackupCode, field: str = "") -> None:
        super().__init__(f"{code.text} ({field})" if field else code.text)
        self.code = code
        self.field = field
