"""`image/packages.lock`: every byte that comes from outside the tree and is not a wheel, with its SHA-256.

TOML, one table a package: where it is used, its archive, its path in that archive's pool, size and hash. No host is
named: the mirror comes from the machine's own apt sources, and a file that a mirror no longer holds can come from any
other one (`--mirror`), since only the hash decides.

    lock = read_lock(Path("image/packages.lock"))
    [package.name for package in lock.used_for("image")]
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError

USES: Final = ("image", "kernel", "tool", "rig")
ARCHIVES: Final = ("debian", "debian-security")
_FIELDS: Final = {"name", "version", "use", "archive", "path", "size", "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One file of a Debian archive. `size` in bytes, `sha256` in hex, `path` below the archive's root."""

    name: str
    version: str
    use: str
    archive: str
    path: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    packages: tuple[Package, ...]

    def used_for(self, use: str) -> tuple[Package, ...]:
        return tuple(package for package in self.packages if package.use == use)

    def one(self, name: str) -> Package:
        for package in self.packages:
            if package.name == name:
                return package
        raise BuildError("LOCK_INVALID", f"{name} is not in the lock")


def read_lock(path: Path) -> Lock:
    """Errors: BuildError(LOCK_INVALID) for unknown or missing fields, unknown uses, duplicates or an empty lock."""
    try:
        entries = tomllib.loads(path.read_text("ascii"))["package"]
    except (OSError, ValueError, KeyError):
        raise BuildError("LOCK_INVALID", path.name) from None
    packages = tuple(_package(entry) for entry in entries)
    if not packages or len({(package.name, package.use) for package in packages}) != len(packages):
        raise BuildError("LOCK_INVALID", "empty, or a package twice")
    return Lock(packages=packages)


def _package(entry: dict[str, object]) -> Package:
    if set(entry) != _FIELDS:
        raise BuildError("LOCK_INVALID", "fields of a package")
    size = entry["size"]
    texts = {key: value for key, value in entry.items() if isinstance(value, str)}
    if not isinstance(size, int) or len(texts) != len(_FIELDS) - 1:
        raise BuildError("LOCK_INVALID", "type of a field")
    package = Package(size=size, **texts)
    if package.use not in USES or package.archive not in ARCHIVES:
        raise BuildError("LOCK_INVALID", package.name)
    if (
        not re.fullmatch(r"[0-9a-f]{64}", package.sha256)
        or not package.path.startswith("pool/")
        or ".." in package.path
    ):
        raise BuildError("LOCK_INVALID", package.name)
    return package


def write_lock(lock: Lock) -> str:
    """The text of a lock file, sorted by use and name."""
    lines = ["# Written by `adytum image lock`. Everything here is checked against its SHA-256 before it is opened."]
    for package in sorted(lock.packages, key=lambda item: (USES.index(item.use), item.name)):
        lines += ["", "[[package]]"]
        lines += [f'{name} = "{getattr(package, name)}"' for name in ("name", "version", "use", "archive", "path")]
        lines += [f"size = {package.size}", f'sha256 = "{package.sha256}"']
    return "\n".join(lines) + "\n"
