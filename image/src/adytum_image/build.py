"""Build the enclave image: locks and sources in, an EIF and its provenance out. No root, no container, no clock.

    built = build(Source.find(), store, Options())
    Path("adytum.eif").write_bytes(built.eif)

The steps, each in its own module: fetch what the locks pin (`fetch`, `rootfs.wheels`), choose files
(`rootfs.contents`), compile and compress with the image's own interpreter (`rootfs.interpreter`), archive
(`rootfs.cpio`), wrap (`eif`).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adytum_image import records
from adytum_image.eif import Measurements, SectionType, measure, read, write
from adytum_image.errors import BuildError
from adytum_image.fetch import Store
from adytum_image.locks import Lock, read_lock
from adytum_image.rootfs import contents, cpio, kernel, wheels
from adytum_image.rootfs.debs import read_deb
from adytum_image.rootfs.interpreter import PinnedInterpreter
from adytum_image.rootfs.tree import Tree

VERSION: Final = "0.1.0"
Say = Callable[[str], None]
_MODULE_ROOT: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkout: its root, with `core/`, `enclave/` and `image/packages.lock` below it."""

    root: Path

    @classmethod
    def find(cls, start: Path = _MODULE_ROOT) -> Source:
        """The checkout that `start` lies in. Errors: BuildError(SOURCE_MISSING)."""
        for folder in (start, *start.parents):
            if (folder / "image" / "packages.lock").is_file() and (folder / "enclave" / "requirements.lock").is_file():
                return cls(root=folder)
        raise BuildError("SOURCE_MISSING", "not inside a checkout: name it with --source")

    @property
    def packages_lock(self) -> Path:
        return self.root / "image" / "packages.lock"

    @property
    def wheels_lock(self) -> Path:
        return self.root / "enclave" / "requirements.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`blobs`: a folder with AWS's files. `kernel`: a linux-image package. With neither, the locked Debian kernel."""

    blobs: Path | None = None
    kernel: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """`eif`: the image, unsigned. `root`: its root file system as it is inside. `provenance`, `sbom`: JSON values."""

    eif: bytes
    measurements: Measurements
    root: Tree
    provenance: dict[str, Any]
    sbom: dict[str, Any]


def build(source: Source, store: Store, options: Options, say: Say = lambda _line: None) -> Built:
    """Errors: BuildError, EifError. Nothing is written but the cache of `store`."""
    lock = read_lock(source.packages_lock)
    boot = _boot(lock, store, options)
    found = wheels.fetch(source.wheels_lock, store.root, say)
    own = contents.own_code(source.root)
    root, removed = _plain_root(lock, store, found, own)
    packages = [*lock.used_for("image"), *([] if boot.package is None else [boot.package])]
    listed = records.contents(version=VERSION, packages=packages, wheels=found, own=own, library=contents.LIBRARY)
    root.add_file(records.CONTENTS_PATH, records.dump(listed))
    say("compile and compress with the image's own interpreter")
    with interpreter(lock, store) as python:
        root = python.compile(root)
        python.import_all(root)  # is anything missing that was removed?
        for place in ("dev", "proc", "sys"):
            root.add_directory(place)
        archives = [cpio.write(boot.ramdisk), cpio.write(_second_ramdisk(root, boot))]
        # AWS's kernel knows gzip only
        ramdisks = [gzip.compress(data, 9, mtime=0) if boot.aws else python.zstd(data) for data in archives]
    eif = write(
        [
            (SectionType.KERNEL, boot.kernel),
            (SectionType.CMDLINE, boot.cmdline),
            (SectionType.METADATA, _metadata(boot)),
            *((SectionType.RAMDISK, data) for data in ramdisks),
        ]
    )
    measurements = measure(read(eif))
    provenance = records.provenance(
        root=source.root,
        contents_list=listed,
        inputs=[source.packages_lock, source.wheels_lock],
        eif=eif,
        measurements=measurements,
        python=_python(root=own),
        removed=removed,
        version=VERSION,
    )
    sbom = records.sbom(listed, measurements)
    return Built(eif=eif, measurements=measurements, root=root, provenance=provenance, sbom=sbom)


@contextlib.contextmanager
def interpreter(lock: Lock, store: Store) -> Iterator[PinnedInterpreter]:
    """The locked interpreter in a temporary folder: the image's packages whole, and the tools'."""
    runtime = Tree()
    for use in ("image", "tool"):
        for package in lock.used_for(use):
            runtime.merge(read_deb(store.package(package)))
    with tempfile.TemporaryDirectory(prefix="adytum-image-") as folder:
        yield PinnedInterpreter(Path(folder), runtime)


def _boot(lock: Lock, store: Store, options: Options) -> kernel.Boot:
    if options.blobs is not None:
        return kernel.from_blobs(options.blobs)
    if options.kernel is not None:
        return kernel.from_debian(options.kernel.read_bytes())
    (package,) = lock.used_for("kernel")
    return kernel.from_debian(store.package(package), package)


def _plain_root(lock: Lock, store: Store, found: list[wheels.Wheel], own: Tree) -> tuple[Tree, list[str]]:
    """The root file system before compilation, checked, and what was removed."""
    rules = contents.read_rules()
    root = Tree()
    for package in lock.used_for("image"):
        root.merge(contents.take(rules, package.name, read_deb(store.package(package))))
    for wheel in found:
        root.merge(wheels.unpack(wheel), prefix=contents.LIBRARY + "/")
    root.merge(own)
    removed = contents.remove(rules, root)
    contents.check(root)
    return root, removed


def _python(root: Tree) -> tuple[int, int]:
    """Files and lines of Python in a tree."""
    files = [data for path, data in root.files() if path.endswith(".py")]
    return len(files), sum(data.count(b"\n") for data in files)


def _second_ramdisk(root: Tree, boot: kernel.Boot) -> Tree:
    if not boot.aws:
        return root
    tree = Tree()  # AWS's init moves to /rootfs and runs /cmd with the environment in /env
    tree.merge(root, prefix="rootfs/")
    tree.add_file("rootfs/init", kernel.INIT.read_bytes(), 0o755)
    for place in ("run", "tmp"):
        tree.add_directory("rootfs/" + place)
    tree.add_file("cmd", b"/init\n")
    tree.add_file("env", b"LANG=C.UTF-8\n")
    return tree


def _metadata(boot: kernel.Boot) -> bytes:
    """Not measured, display only; no time of building, since the same inputs must give the same file."""
    value = {
        "ImageName": "adytum-enclave",
        "ImageVersion": VERSION,
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00+00:00",
            "BuildTool": "adytum-image",
            "BuildToolVersion": VERSION,
            "OperatingSystem": "Debian 12 (files only)",
            "KernelVersion": boot.release,
        },
        "DockerInfo": {},
        "CustomMetadata": {},
    }
    return json.dumps(value, separators=(",", ":")).encode()
