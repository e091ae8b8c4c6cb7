"""The files of a root file system, in memory: no owner, no time and no inode of the build machine can get in.

tree = Tree()
tree.add_file("usr/bin/python3.11", data, mode=0o755)
tree.add_link("usr/lib64", "../lib64")
archive = cpio.write(tree)
"""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from adytum_image.errors import BuildError

DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`mode`: file type and permissions. `data`: content of a file, or the target of a symbolic link."""

    mode: int
    data: bytes = b""

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(slots=True)
class Tree:
    """Paths are relative, normal and printable ASCII; parents appear by themselves; iteration is sorted by path."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, path: str, node: Node) -> None:
        """Add or replace a node; a file never replaces a directory, nor a directory a file. Errors: PATH_INVALID."""
        pure = PurePosixPath(path)
        if (
            not path
            or pure.is_absolute()
            or str(pure) != path
            or ".." in pure.parts
            or not path.isascii()
            or not path.isprintable()
        ):
            raise BuildError("PATH_INVALID", repr(path))
        for parent in reversed(pure.parents[:-1]):
            known = self.nodes.setdefault(str(parent), Node(mode=DIRECTORY_MODE))
            if not known.is_directory:
                raise BuildError("PATH_INVALID", path)
        known = self.nodes.get(path, node)
        if known.is_directory != node.is_directory:
            raise BuildError("PATH_INVALID", path)
        self.nodes[path] = node

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file; of `mode` only "may be executed" is kept: 0755 or 0644."""
        permissions = 0o755 if mode & 0o111 else 0o644
        self.add(path, Node(mode=stat.S_IFREG | permissions, data=data))

    def add_link(self, path: str, target: str) -> None:
        self.add(path, Node(mode=stat.S_IFLNK | 0o777, data=target.encode("ascii")))

    def add_directory(self, path: str) -> None:
        self.add(path, Node(mode=DIRECTORY_MODE))

    def merge(self, other: Tree, prefix: str = "") -> None:
        for path, node in other:
            self.add(prefix + path, node)

    def select(self, patterns: list[str]) -> tuple[Tree, list[str]]:
        """The files and links that match one of the shell patterns, and the patterns that matched nothing."""
        kept = Tree()
        unused = []
        for pattern in patterns:
            found = [path for path in self.nodes if fnmatch.fnmatchcase(path, pattern)]
            found = [path for path in found if not self.nodes[path].is_directory]
            if not found:
                unused.append(pattern)
            for path in found:
                kept.add(path, self.nodes[path])
        return kept, unused

    def drop(self, patterns: list[str]) -> tuple[list[str], list[str]]:
        """Remove what matches a shell pattern, and whole folders. Returns the removed files and the unused patterns."""
        removed: list[str] = []
        unused = []
        for pattern in patterns:
            found = [p for p in self.nodes if fnmatch.fnmatchcase(p, pattern) or fnmatch.fnmatchcase(p, pattern + "/*")]
            if not found:
                unused.append(pattern)
            for path in found:
                if not self.nodes.pop(path).is_directory:
                    removed.append(path)
        return sorted(removed), unused

    def drop_empty_directories(self) -> None:
        used = {str(parent) for path, node in self.nodes.items() if not node.is_directory for parent in _parents(path)}
        self.nodes = {path: node for path, node in self.nodes.items() if not node.is_directory or path in used}

    def files(self) -> Iterator[tuple[str, bytes]]:
        for path, node in self:
            if node.is_file:
                yield path, node.data

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(sorted(self.nodes.items()))

    def __contains__(self, path: str) -> bool:
        return path in self.nodes


def _parents(path: str) -> tuple[PurePosixPath, ...]:
    return tuple(PurePosixPath(path).parents)
