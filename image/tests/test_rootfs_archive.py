"""Trees, archives and packages: the same files give the same bytes, and dpkg-deb agrees about a package."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adytum_image.errors import BuildError, CpioError
from adytum_image.rootfs import cpio
from adytum_image.rootfs.debs import ar_members, read_deb
from adytum_image.rootfs.tree import Tree

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def small_tree() -> Tree:
    tree = Tree()
    tree.add_file("usr/bin/tool", b"program", 0o4755)
    tree.add_file("etc/text", b"text\n")
    tree.add_link("lib", "usr/lib")
    tree.add_directory("proc")
    return tree


@settings(max_examples=100, deadline=None)
@given(
    files=st.dictionaries(PATHS, st.binary(max_size=40), max_size=8), links=st.dictionaries(PATHS, PATHS, max_size=3)
)
def test_an_archive_reads_back_and_does_not_depend_on_order(files, links) -> None:
    entries = [("file", path, data) for path, data in files.items()] + [("link", p, t) for p, t in links.items()]
    trees = []
    for order in (entries, entries[::-1]):
        tree = Tree()
        seen = set()
        for kind, path, value in sorted(order, key=lambda entry: entry[1]) if order is entries else order:
            if path in seen:
                return
            seen.add(path)
            try:
                tree.add_file(path, value) if kind == "file" else tree.add_link(path, value)
            except BuildError:
                return  # one path is a folder of another
        trees.append(tree)
    first, second = (cpio.write(tree) for tree in trees)
    assert first == second
    assert cpio.read(first).nodes == trees[0].nodes


def test_owners_times_and_inodes_are_zero_and_set_id_bits_are_gone() -> None:
    data = cpio.write(small_tree())
    assert len(data) % 512 == 0
    at, names = 0, []
    while True:
        fields = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, name_size, check = fields
        assert (ino, uid, gid, nlink, mtime, major, minor, rmajor, rminor, check) == (0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
        assert not mode & 0o7022 or mode >> 12 == 0o12
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        names.append(name)
        at += 110 + name_size
        at += -at % 4 + size
        at += -at % 4
        if name == "TRAILER!!!":
            break
    assert names == ["etc", "etc/text", "lib", "proc", "usr", "usr/bin", "usr/bin/tool", "TRAILER!!!"]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program")
def test_gnu_cpio_lists_the_same_names() -> None:
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=cpio.write(small_tree()), capture_output=True, check=True)
    assert listed.stdout.decode().split() == [path for path, _ in small_tree()]


@settings(max_examples=300, deadline=None)
@example(at=866, value=49, cut=0)  # the trailer's mode
@given(at=st.integers(0, 2000), value=st.integers(0, 255), cut=st.integers(0, 1100))
def test_fuzz_a_damaged_archive_reads_or_refuses(at, value, cut) -> None:
    data = bytearray(cpio.write(small_tree()))
    data[at % len(data)] = value
    damaged = bytes(data[: len(data) - (cut if cut > 550 else 0)])
    try:
        tree = cpio.read(damaged)
    except CpioError:
        return
    assert cpio.write(tree) == damaged


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_fuzz_arbitrary_bytes_are_no_archive(data) -> None:
    with pytest.raises(CpioError):
        cpio.read(data)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a\0b", "a/../b", "./a", "a//b", "a/", "é", ".."])
def test_attack_paths_that_leave_the_tree_are_refused(path: str) -> None:
    tree = Tree()
    with pytest.raises(BuildError, match="PATH_INVALID"):
        tree.add_file(path, b"")
    assert not tree.nodes


def test_a_file_does_not_replace_a_folder_nor_lie_below_a_file() -> None:
    tree = small_tree()
    before = dict(tree.nodes)
    for path in ("usr", "etc/text/below", "lib/below"):
        with pytest.raises(BuildError, match="PATH_INVALID"):
            tree.add_file(path, b"")
    assert tree.nodes == before


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb program")
def test_a_package_that_dpkg_made_reads_as_dpkg_reads_it(tmp_path) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/x").write_bytes(b"#!x")
    (root / "usr/bin/x").chmod(0o755)
    (root / "usr/bin/y").hardlink_to(root / "usr/bin/x")
    (root / "usr/z").symlink_to("bin/x")
    subprocess.run(["dpkg-deb", "-Zxz", "--root-owner-group", "--build", root, tmp_path / "x.deb"], check=True)
    tree = read_deb((tmp_path / "x.deb").read_bytes())
    assert {path for path, node in tree if not node.is_directory} == {"usr/bin/x", "usr/bin/y", "usr/z"}
    assert tree.nodes["usr/bin/y"].data == b"#!x"
    assert tree.nodes["usr/bin/x"].mode & 0o777 == 0o755
    assert tree.nodes["usr/z"].data == b"bin/x"


@pytest.mark.parametrize("data", [b"", b"!<arch>\n" + b"x" * 59, b"!<arch>\n" + b" " * 58 + b"`\n"])
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(BuildError, match="DEB_INVALID"):
        ar_members(data)
        read_deb(data)
