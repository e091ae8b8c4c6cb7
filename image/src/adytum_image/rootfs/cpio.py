"""The initramfs archive: cpio "newc", of which we write and read one fixed form.

Inode, owner, group, time and device numbers are zero, links are one, entries are sorted by path, the end is padded to
512 bytes: the same tree gives the same bytes. Source: Linux, Documentation/driver-api/early-userspace/
buffer-format.rst. The reader is for `describe`, `diff` and `sbom`; it takes what the writer writes and nothing else.
"""

from __future__ import annotations

from typing import Final

from adytum_image.errors import BuildError, CpioError
from adytum_image.rootfs.tree import Node, Tree

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
_HEADER_SIZE: Final = 110
_BLOCK: Final = 512


def write(tree: Tree) -> bytes:
    """The archive of `tree`."""
    parts: list[bytes] = []
    size = 0
    for path, node in [*tree, (_TRAILER, Node(mode=0))]:
        entry = _entry(path, node)
        parts.append(entry)
        size += len(entry)
    parts.append(bytes(-size % _BLOCK))
    return b"".join(parts)


def _entry(path: str, node: Node) -> bytes:
    name = path.encode("ascii") + b"\0"
    fields = [0, node.mode, 0, 0, 1, 0, len(node.data), 0, 0, 0, 0, len(name), 0]
    head = _MAGIC + b"".join(b"%08X" % number for number in fields) + name
    return b"".join([head, bytes(-len(head) % 4), node.data, bytes(-len(node.data) % 4)])


def read(data: bytes) -> Tree:
    """Parse an archive that `write` made. Errors: CpioError; what is returned writes back as the same bytes."""
    tree = Tree()
    at, count, previous = 0, 0, ""
    while True:
        head = data[at : at + _HEADER_SIZE]
        if len(head) != _HEADER_SIZE or head[:6] != _MAGIC:
            raise CpioError("CPIO_HEADER")
        try:
            fields = [int(head[index : index + 8], 16) for index in range(6, _HEADER_SIZE, 8)]
        except ValueError:
            raise CpioError("CPIO_HEADER") from None
        mode, length, name_length = fields[1], fields[6], fields[11]
        name = data[at + _HEADER_SIZE : at + _HEADER_SIZE + name_length]
        start = at + _HEADER_SIZE + name_length
        start += -(start - at) % 4
        if len(data) - start < length or not name_length or name[-1:] != b"\0" or not name.isascii():
            raise CpioError("CPIO_HEADER")
        path = name[:-1].decode("ascii")
        node = Node(mode=mode, data=data[start : start + length])
        end = start + length + -length % 4
        if data[at:end] != _entry(path, node):
            raise CpioError("CPIO_FORM")
        at = end
        if path == _TRAILER:
            if node != Node(mode=0):
                raise CpioError("CPIO_FORM")
            break
        if path <= previous or not (node.is_file or node.is_link or node.is_directory):
            raise CpioError("CPIO_ORDER")
        previous = path
        count += 1
        try:
            tree.add(path, node)
        except BuildError:
            raise CpioError("CPIO_PATH") from None
        if len(tree.nodes) != count:  # a folder that the archive does not list
            raise CpioError("CPIO_PATH")
    if data[at:] != bytes(-at % _BLOCK):
        raise CpioError("CPIO_END")
    return tree
