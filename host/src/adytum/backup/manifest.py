"""The manifest of a backup: what a whole copy of that database has. Written from the snapshot that the dump is of.

It is not signed: who can edit the dump can edit it too. The checkpoints in it are signed by the enclaves; those that
you hold elsewhere (the second copy) are what an edited backup cannot get past.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from adytum.backup.errors import BackupCode, BackupError
from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import ChainId
from adytum_wire.types import Hex, Hex32

MANIFEST: Final = "manifest.json"
DUMP: Final = "database.dump"
_MAX: Final = 64 * 1024 * 1024  # bytes; some hundred for each boot of an enclave
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class ChainHead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`receipts`: how many are stored, the newest of them `sequence`; `link`: link[sequence]. `checkpoint`: the newest
    stored checkpoint's envelope, "" for none."""

    chain: ChainId
    receipts: _Count
    sequence: _Count
    link: Hex
    checkpoint: str


class PolicyHead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tenant: str
    version: _Count
    digest: Hex32


class UsageHead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tenant: str
    version: _Count


class BackupManifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`created_at`, `newest_receipt`: ms, the host's clock and the enclave's. `rows`: by table. `boots`: every enclave
    that the host had verified. `size`, `sha256`: of the dump."""

    adytum_backup: Literal[1]
    created_at: _Count
    revision: str
    newest_receipt: _Count
    rows: dict[str, _Count]
    chains: tuple[ChainHead, ...]
    boots: tuple[ChainId, ...]
    policies: tuple[PolicyHead, ...]
    usage: tuple[UsageHead, ...]
    size: _Count = 0
    sha256: Hex = ""


def write(path: Path, manifest: BackupManifest) -> None:
    path.write_bytes(strict_json.encode(manifest) + b"\n")


def read(path: Path) -> BackupManifest:
    """Errors: BACKUP_MANIFEST."""
    try:
        return strict_json.decode(path.read_bytes(), BackupManifest, limit=_MAX, code=Code.REQUEST_INVALID)
    except OSError:
        raise BackupError(BackupCode.MANIFEST, str(path)) from None
    except AdytumError as error:
        raise BackupError(BackupCode.MANIFEST, f"{path} {error.field}".strip()) from None
