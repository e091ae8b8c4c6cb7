"""Fixtures of the tests marked `image`: images built once a session, and the rig. The cache is outside the tree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adytum_image import build as builder
from adytum_image.build import Built, Source
from adytum_image.fetch import Store, apt_mirrors, cache_root
from adytum_image.locks import read_lock
from adytum_image.rig import Rig, prepare
from adytum_image.rootfs.contents import OWN_SOURCES

PROBE = Path(__file__).with_name("probe") / "main.py"


@pytest.fixture(scope="session")
def store() -> Store:
    return Store(cache_root(), apt_mirrors(), print)


@pytest.fixture(scope="session")
def rig(store: Store) -> Rig:
    return prepare(read_lock(Source.find().packages_lock), store, print)


@pytest.fixture(scope="session")
def real(store: Store) -> Built:
    """The image of this checkout."""
    return builder.build(Source.find(), store, builder.Options(), print)


@pytest.fixture(scope="session")
def build_copy(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], None]], Built]:
    """Build a copy of this checkout in another folder, after `change` was called with its root."""

    def build(change: Callable[[Path], None]) -> Built:
        root, source = tmp_path_factory.mktemp("another place") / "checkout", Source.find()
        for folder in OWN_SOURCES:
            shutil.copytree(source.root / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (source.packages_lock, source.wheels_lock):
            (root / file.relative_to(source.root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file.relative_to(source.root))
        change(root)
        return builder.build(Source(root=root), store, builder.Options(), print)

    return build


@pytest.fixture(scope="session")
def probe(build_copy: Callable[[Callable[[Path], None]], Built]) -> Built:
    """An image whose enclave program is `probe/main.py`, which says what it sees; everything else is the real thing."""
    return build_copy(lambda root: put_probe(root))


def put_probe(root: Path) -> None:
    shutil.copy(PROBE, root / "enclave/src/adytum_enclave/shell/main.py")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write an image to a file of its own."""

    def write(data: bytes) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.eif"
        path.write_bytes(data)
        return path

    return write
