"""The wheels of `enclave/requirements.lock`: fetched by pip, checked against the lock by us, and merely unpacked.

A wheel is a zip file; installing a pure or a manylinux one means unpacking it. Scripts, headers and other `.data`
folders are refused rather than guessed at. Nothing is compiled: `--only-binary :all:`.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.fetch import write_atomically
from adytum_image.rootfs.tree import Tree

# newest first: pip prefers what comes first. All need a glibc no newer than bookworm's 2.36.
_PLATFORMS: Final = (
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2010_x86_64",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    name: str
    version: str
    filename: str
    sha256: str
    data: bytes


def locked(lock_text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """`{name: (version, SHA-256 hashes)}` of a requirements file. Errors: WHEEL_LOCK for a line without a pin."""
    result = {}
    joined = re.sub(r"\\\n", " ", lock_text)
    for line in joined.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", line)
        if found is None:
            raise BuildError("WHEEL_LOCK", line.split(" ")[0])
        result[_normal(found[1])] = (found[2], frozenset(re.findall(r"[0-9a-f]{64}", found[3])))
    if not result:
        raise BuildError("WHEEL_LOCK", "empty")
    return result


def fetch(lock_file: Path, cache: Path, say: Callable[[str], None]) -> list[Wheel]:
    """The wheels of a lock, sorted by name, one each. Errors: BuildError(WHEEL_LOCK, WHEEL_FETCH, WHEEL_HASH)."""
    text = lock_file.read_text("utf-8")
    pins = locked(text)
    folder = cache / "wheels" / hashlib.sha256(text.encode()).hexdigest()
    if not folder.is_dir() or len(list(folder.glob("*.whl"))) != len(pins):
        say(f"fetch {len(pins)} wheels")
        with tempfile.TemporaryDirectory() as temporary:
            _download(lock_file, Path(temporary))
            for file in sorted(Path(temporary).iterdir()):
                write_atomically(folder / file.name, file.read_bytes())
    wheels = [_checked(file, pins) for file in sorted(folder.glob("*.whl"))]
    if sorted(wheel.name for wheel in wheels) != sorted(pins):
        raise BuildError("WHEEL_FETCH", "the wheels are not those of the lock")
    return sorted(wheels, key=lambda wheel: wheel.name)


def _download(lock_file: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11"]
    command += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    done = subprocess.run(  # noqa: S603
        [*command, "--dest", str(target), "--requirement", str(lock_file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError("WHEEL_FETCH", done.stderr.strip()[-500:])


def _checked(file: Path, pins: dict[str, tuple[str, frozenset[str]]]) -> Wheel:
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    name = _normal(file.name.split("-")[0])
    if name not in pins or digest not in pins[name][1]:
        raise BuildError("WHEEL_HASH", file.name)
    return Wheel(name=name, version=pins[name][0], filename=file.name, sha256=digest, data=data)


def unpack(wheel: Wheel) -> Tree:
    """The files of a wheel as they would lie in site-packages. Errors: BuildError(WHEEL_CONTENT)."""
    tree = Tree()
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if ".data/" in info.filename or info.filename.endswith(".pth"):
                raise BuildError("WHEEL_CONTENT", f"{wheel.filename}: {info.filename}")
            tree.add_file(info.filename, archive.read(info))
    return tree


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
