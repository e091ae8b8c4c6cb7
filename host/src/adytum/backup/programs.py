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
from adytum.storage.errors import Fault, StorageError

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
    """(the connection string without its password, what the environment says instead). The password may stand before
    the host or among the options; where there are two, the first counts, as for the driver.

    Errors: BACKUP_PROGRAM for what cannot be handed on without showing it to others: the passphrase of a key file
    (`sslpassword`), and strings that are no URI.

    >>> split_dsn("postgresql://ada:se%20cret@db:5432/adytum?sslmode=require")
    ('postgresql://ada@db:5432/adytum?sslmode=require', {'PGPASSWORD': 'se cret'})
    >>> split_dsn("postgresql://ada@db/adytum?password=secret&sslmode=require")
    ('postgresql://ada@db/adytum?sslmode=require', {'PGPASSWORD': 'secret'})
    """
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise StorageError(Fault.DSN) from None
    if parts.scheme not in ("postgresql", "postgres") or parts.fragment:
        raise StorageError(Fault.DSN)
    user, at, place = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    kept = []
    for option in filter(None, parts.query.split("&")):
        key, _, value = option.partition("=")  # a plus sign is itself here, not a space
        match unquote(key).strip().lower():
            case "password":
                password = password or value
            case "sslpassword":
                raise BackupError(BackupCode.PROGRAM, "sslpassword cannot be handed to pg_dump: use a key file without")
            case _:
                kept.append(option)
    bare = urlunsplit(parts._replace(netloc=f"{name}{at}{place}", query="&".join(kept)))
    # urlunsplit leaves out an empty host together with its slashes.
    bare = bare if "://" in bare else bare.replace(":", "://", 1)
    return bare, {"PGPASSWORD": unquote(password)} if password else {}


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
