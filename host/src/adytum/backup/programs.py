"""PostgreSQL's own `pg_dump` and `pg_restore`: from a directory that is named, the embedded server's wheel, or PATH.

The password of a connection string goes through the environment, never onto a command line that others can list.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from adytum.backup.errors import BackupCode, BackupError
from adytum.storage.embedded import EmbeddedPostgresError, binary

_MAX_LINE: Final = 200


def find(name: str, directory: Path | None) -> Path:
    """`name`: "pg_dump" or "pg_restore". Errors: BACKUP_PROGRAM when there is none."""
    if directory is not None:
        found = directory / name
    else:
        try:
            found = binary(name)
        except EmbeddedPostgresError:
            found = Path(shutil.which(name) or name)
    if not found.is_file():
        raise BackupError(BackupCode.PROGRAM, f"{name} is not installed; --pg-bin names where it is")
    return found


def split_dsn(dsn: str) -> tuple[str, dict[str, str]]:
    """(the connection string without its password, what the environment says instead).

    >>> split_dsn("postgresql://ada:se%20cret@db:5432/adytum?sslmode=require")
    ('postgresql://ada@db:5432/adytum?sslmode=require', {'PGPASSWORD': 'se cret'})
    """
    parts = urlsplit(dsn)
    user, at, place = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    if not (at and colon):
        return dsn, {}
    return urlunsplit(parts._replace(netloc=f"{name}@{place}")), {"PGPASSWORD": unquote(password)}


async def run(program: Path, arguments: list[str], *, environment: Mapping[str, str]) -> None:
    """Errors: BACKUP_PROGRAM, with the program's last line. Cancelled, the program is ended too."""
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or [f"{program.name} said nothing"]
        raise BackupError(BackupCode.PROGRAM, lines[-1][:_MAX_LINE])
