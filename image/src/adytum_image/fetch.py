"""Fetch pinned files into a cache outside the tree. A file is used only after its SHA-256 was checked, each time.

The mirrors are those of the machine's own apt configuration; no host is written in the tree. Nothing is unpacked here.

    store = Store(cache_root(), mirrors=apt_mirrors())
    data = store.package(lock.one("libc6"))
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.locks import Package

_APT: Final = Path("/etc/apt")
_TIMEOUT_S: Final = 60.0


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/adytum`, or `~/.cache/adytum`."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "adytum"


def apt_mirrors(apt: Path = _APT) -> dict[str, list[str]]:
    """The http(s) roots of the Debian archives that apt uses here: `{"debian": [...], "debian-security": [...]}`.

    A root counts by its last path component; sources of other vendors are left alone.
    """
    roots: dict[str, list[str]] = {"debian": [], "debian-security": []}
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file():
            continue
        for line in file.read_text("utf-8", errors="replace").splitlines():
            if line.lstrip().startswith("#"):
                continue
            for uri in re.findall(r"https?://[^\s\]]+", line):
                name = uri.rstrip("/").rsplit("/", 1)[-1]
                if name in roots and uri.rstrip("/") not in roots[name]:
                    roots[name].append(uri.rstrip("/"))
    for root in list(roots["debian"]):  # most mirrors carry both archives side by side
        sibling = root.removesuffix("/debian") + "/debian-security"
        if sibling not in roots["debian-security"]:
            roots["debian-security"].append(sibling)
    return roots


class Store:
    """A folder of files named by their SHA-256. `say` is told about each download."""

    def __init__(
        self,
        root: Path,
        mirrors: Mapping[str, Iterable[str]],
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.root = root
        self._mirrors = {name: list(uris) for name, uris in mirrors.items()}
        self._say = say

    def package(self, package: Package) -> bytes:
        """The bytes of `package`. Errors: BuildError(FETCH_FAILED) where no mirror has these very bytes."""
        kept = self.root / "files" / package.sha256
        if kept.is_file():
            data = kept.read_bytes()
            if _is(package, data):
                return data
            kept.unlink()
        for root in self._mirrors.get(package.archive, []):
            data = self._get(f"{root}/{urllib.parse.quote(package.path)}", package.size)
            if _is(package, data):
                write_atomically(kept, data)
                return data
        raise BuildError(
            "FETCH_FAILED",
            f"no mirror has {package.filename} with the locked hash. Where the archive has moved on, name one that"
            " keeps old files with --mirror URL, or renew the lock with `adytum image lock` (the measurements change)",
        )

    def _get(self, url: str, size: int) -> bytes:
        """At most one byte more than the `size` that is wanted, which is enough to see that it is another file."""
        self._say(f"fetch {url}")
        request = urllib.request.Request(url, headers={"User-Agent": "adytum-image"})  # noqa: S310 (http roots of apt)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return bytes(answer.read(size + 1))
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError):
            return b""


def _is(package: Package, data: bytes) -> bool:
    return len(data) == package.size and hashlib.sha256(data).hexdigest() == package.sha256


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        temporary.write(data)
    Path(temporary.name).chmod(mode)
    Path(temporary.name).replace(path)
