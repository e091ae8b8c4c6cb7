"""Renew `image/packages.lock` from the machine's mirrors: `adytum image lock`. The measurements change with it.

apt does the work (signatures of the archive, choice of the newest version), with its own state in the cache folder, so
that neither root nor the machine's own lists are touched. Which packages there are is decided here, once.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.locks import Lock, Package

_STABLE: Final = ("bookworm", "bookworm-updates", "bookworm-security")
_BACKPORTS: Final = ("bookworm-backports",)
_SID: Final = ("sid",)

# (package, use, suites). The kernel's name is found by following its meta package.
WANTED: Final[tuple[tuple[str, str, Sequence[str]], ...]] = (
    ("libc6", "image", _STABLE),
    ("libexpat1", "image", _STABLE),
    ("libffi8", "image", _STABLE),
    ("libgcc-s1", "image", _STABLE),
    ("libpython3.11-minimal", "image", _STABLE),
    ("libpython3.11-stdlib", "image", _STABLE),
    ("libssl3", "image", _STABLE),
    ("python3.11-minimal", "image", _STABLE),
    ("zlib1g", "image", _STABLE),
    ("libzstd1", "tool", _STABLE),
    ("linux-image-cloud-amd64", "kernel", _BACKPORTS),
    ("qemu-system-data", "rig", _BACKPORTS),
    ("seabios", "rig", _STABLE),
    ("vhost-device-vsock", "rig", _SID),
)
QEMU_SOURCE: Final = ("qemu", "rig", _BACKPORTS)
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class _Apt:
    """An apt with its own sources and state, for one set of suites."""

    def __init__(self, folder: Path, suites: Sequence[str], mirrors: Mapping[str, Sequence[str]]) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("")
        lines = []
        for suite in suites:
            archive = "debian-security" if suite.endswith("-security") else "debian"
            if not mirrors.get(archive):
                raise BuildError("NO_MIRROR", f"apt is configured with no mirror of {archive}")
            for kind in ("deb", "deb-src"):
                lines.append(f"{kind} [signed-by={_KEYRING}] {mirrors[archive][0]} {suite} main")
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        options = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
        }
        self._options = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            [program, *self._options, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError("APT_FAILED", f"{program} {' '.join(arguments)}: {done.stderr.strip()[-300:]}")
        return done.stdout


def renew(cache: Path, mirrors: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> Lock:
    """The lock as of today. Errors: BuildError(APT_FAILED, NO_MIRROR)."""
    apts: dict[Sequence[str], _Apt] = {}

    def apt(suites: Sequence[str]) -> _Apt:
        if suites not in apts:
            apts[suites] = _Apt(cache / "apt" / suites[0], suites, mirrors)
            say(f"apt-get update for {', '.join(suites)}")
            apts[suites].run("apt-get", "update")
        return apts[suites]

    packages = [_binary(apt(suites), name, use) for name, use, suites in WANTED]
    name, use, suites = QEMU_SOURCE
    packages.append(_source(apt(suites), name, use))
    return Lock(packages=tuple(packages))


def _binary(apt: _Apt, name: str, use: str) -> Package:
    record = apt.run("apt-cache", "show", "--no-all-versions", name)
    if use == "kernel":  # the meta package names the kernel
        name = _field(record, "Depends").split(",")[0].split(" ")[0]
        record = apt.run("apt-cache", "show", "--no-all-versions", name)
    uri = apt.run("apt-get", "download", "--print-uris", name).split("'")[1]
    return Package(
        name=name,
        version=_field(record, "Version"),
        use=use,
        archive="debian-security" if "/debian-security/" in uri else "debian",
        path=_field(record, "Filename"),
        size=int(_field(record, "Size")),
        sha256=_field(record, "SHA256"),
    )


def _source(apt: _Apt, name: str, use: str) -> Package:
    """The upstream tarball of a Debian source package."""
    record = apt.run("apt-cache", "showsrc", "--only-source", name)
    sums = record.split("Checksums-Sha256:", 1)[-1]
    found = re.search(r"([0-9a-f]{64}) (\d+) (\S+\.orig\.tar\.xz)", sums)
    if found is None:
        raise BuildError("APT_FAILED", f"no upstream tarball of {name}")
    return Package(
        name=f"{name}-source",
        version=_field(record, "Version"),
        use=use,
        archive="debian",
        path=f"{_field(record, 'Directory')}/{found[3]}",
        size=int(found[2]),
        sha256=found[1],
    )


def _field(record: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+)$", record, re.MULTILINE)
    if found is None:
        raise BuildError("APT_FAILED", f"no {name} in the record")
    return found[1]
