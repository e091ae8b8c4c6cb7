"""Make a backup: a directory with the dump and its manifest, both of one snapshot, while the service goes on.

    manifest = await create(dsn, Path("backup-2026-11-23"), now_ms=clock)

`pg_dump` takes the very snapshot that the manifest was read from, so that what commits meanwhile is in neither.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from adytum.backup import facts, programs
from adytum.backup.connection import connected
from adytum.backup.errors import BackupCode, BackupError
from adytum.backup.manifest import DUMP, MANIFEST, BackupManifest, write


async def create(dsn: str, out: Path, *, now_ms: Callable[[], int], pg_bin: Path | None = None) -> BackupManifest:
    """Write `out`, a directory that must not be there yet; it appears whole or not at all, readable by its owner only.

    `dsn`: of the owner of the tables, a login that has `adytum_migrator`. `pg_bin`: where `pg_dump` is.
    Errors: BackupError, STORAGE_UNAVAILABLE, OSError. After an error there is no `out`.
    """
    program = programs.find("pg_dump", pg_bin)
    if out.exists():
        raise BackupError(BackupCode.EXISTS, str(out))
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        manifest = await _dump(dsn, made / DUMP, program, now_ms())
        size, digest = measure(made / DUMP)
        manifest = msgspec.structs.replace(manifest, size=size, sha256=digest)
        write(made / MANIFEST, manifest)
        for name in (DUMP, MANIFEST):
            (made / name).chmod(0o600)
            _sync(made / name)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


async def _dump(dsn: str, file: Path, program: Path, now_ms: int) -> BackupManifest:
    place, environment = programs.split_dsn(dsn)
    async with connected(dsn, snapshot=True) as connection:
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        manifest = await facts.gather(connection, now_ms=now_ms)
        wanted = ["--format=custom", "--compress=gzip:1", "--no-owner", "--no-privileges"]
        wanted += [f"--snapshot={snapshot}", f"--file={file}", f"--dbname={place}"]
        await programs.run(program, wanted, environment=environment)
    return manifest


def measure(file: Path) -> tuple[int, str]:
    """(size in bytes, SHA-256 in hex). Errors: OSError."""
    with file.open("rb") as data:
        return os.fstat(data.fileno()).st_size, hashlib.file_digest(data, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
