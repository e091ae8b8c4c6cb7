"""Read a Debian package without dpkg: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.

No root, no maintainer scripts, no owners: the files of `data.tar` become a `Tree`. The package's SHA-256 was checked
before (`fetch`), so this reader is strict but need not survive hostile input.

    tree = read_deb(path.read_bytes())
"""

from __future__ import annotations

import io
import lzma
import tarfile
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.rootfs.tree import Tree

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60


def ar_members(data: bytes) -> dict[str, bytes]:
    """The members of an `ar` archive by name. Errors: BuildError(DEB_INVALID)."""
    if not data.startswith(_AR_MAGIC):
        raise BuildError("DEB_INVALID", "no ar archive")
    members = {}
    at = len(_AR_MAGIC)
    while at < len(data):
        head = data[at : at + _AR_HEADER]
        size = head[48:58].strip()
        if len(head) != _AR_HEADER or head[58:] != b"`\n" or not size.isdigit():
            raise BuildError("DEB_INVALID", "ar header")
        at += _AR_HEADER
        members[head[:16].decode("ascii").strip().rstrip("/")] = data[at : at + int(size)]
        at += int(size) + int(size) % 2
    return members


def read_deb(data: bytes) -> Tree:
    """The files of a package. Errors: BuildError(DEB_INVALID)."""
    members = ar_members(data)
    if "data.tar.xz" in members:
        archive = lzma.decompress(members["data.tar.xz"])
    elif "data.tar" in members:
        archive = members["data.tar"]
    else:
        raise BuildError("DEB_INVALID", "data.tar is not compressed with xz")
    return read_tar(archive)


def read_tar(archive: bytes, strip: int = 0) -> Tree:
    """The files of an uncompressed tar archive, without the first `strip` folders of each path."""
    tree = Tree()
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            path = "/".join(member.name.removeprefix("./").split("/")[strip:])
            if path in ("", "."):
                continue
            if member.isdir():
                tree.add_directory(path)
            elif member.issym():
                tree.add_link(path, member.linkname)
            elif member.islnk():
                target = "/".join(member.linkname.removeprefix("./").split("/")[strip:])
                tree.add(path, tree.nodes[target])
            elif member.isfile():
                stream = tar.extractfile(member)
                tree.add_file(path, b"" if stream is None else stream.read(), member.mode)
            else:
                raise BuildError("DEB_INVALID", path)
    return tree
