"""Decide what is in the root file system: locked packages, locked wheels, our own two distributions, and nothing else.

`contents.toml` names what is kept of each package and what is removed; `check` then refuses an image that holds a
shell, a module of the untrusted side, or a stand-in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.rootfs.tree import Tree

LIBRARY: Final = "usr/lib/adytum"  # wheels and our own code; guest/init.py puts it on the path
STDLIB: Final = "usr/lib/python3.11"
OWN_SOURCES: Final = ("core/src/adytum_wire", "core/src/adytum_policy", "enclave/src/adytum_enclave")
DATA: Final = Path(__file__).with_name("contents.toml")

_FORBIDDEN_NAME: Final = re.compile(r"(^|[_.\-])(sim|mock|mocks|fake|fakes|stub_?kms|moto)($|[_.\-])", re.IGNORECASE)
_FORBIDDEN_PACKAGE: Final = frozenset(
    {"adytum", "adytum_sim", "adytum_image", "adytum_verify", "boto3", "pip", "pytest"}
)
_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox", "toybox", "env", "perl", "gdb", "strace", "nc", "socat"}
)
_FOREIGN_IMPORT: Final = re.compile(
    rb"^\s*(?:from|import)\s+(adytum|adytum_sim|adytum_image|adytum_verify)\b", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`contents.toml`. `keep`: patterns by package. `remove`: patterns over the whole, by group."""

    keep: Mapping[str, list[str]]
    remove: Mapping[str, list[str]]


def read_rules(path: Path = DATA) -> Rules:
    """Errors: BuildError(CONTENTS_INVALID)."""
    try:
        value = tomllib.loads(path.read_text("ascii"))
    except (OSError, ValueError):
        raise BuildError("CONTENTS_INVALID", path.name) from None
    if set(value) != {"keep", "remove"}:
        raise BuildError("CONTENTS_INVALID", "tables")
    return Rules(keep=value["keep"], remove=value["remove"])


def take(rules: Rules, name: str, package: Tree) -> Tree:
    """Of the files of package `name`, those to keep. Errors: CONTENTS_INVALID for a pattern without a match."""
    if name not in rules.keep:
        raise BuildError("CONTENTS_INVALID", f"nothing is said about package {name}")
    kept, unused = package.select(rules.keep[name])
    if unused:
        raise BuildError("CONTENTS_INVALID", f"{name}: {unused[0]} matches nothing")
    return kept


def remove(rules: Rules, tree: Tree) -> list[str]:
    """Take away what is not needed. Returns the removed files. Errors: BuildError(CONTENTS_INVALID)."""
    removed: list[str] = []
    for group, patterns in rules.remove.items():
        gone, unused = tree.drop(patterns)
        if unused:
            raise BuildError("CONTENTS_INVALID", f"{group}: {unused[0]} matches nothing")
        removed += gone
    tree.drop_empty_directories()
    return sorted(removed)


def own_code(source: Path) -> Tree:
    """The sources of `adytum-core` and `adytum-enclave` below `LIBRARY`. `source`: the root of the checkout."""
    tree = Tree()
    for place in OWN_SOURCES:
        folder = source / place
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
        if not files:
            raise BuildError("SOURCE_MISSING", place)
        for file in files:
            if file.suffix not in {".py", ".pem", ".der", ".json"} and file.name != "py.typed":
                raise BuildError("SOURCE_INVALID", f"{place}: {file.name}")
            if file.suffix != ".typed":
                tree.add_file(f"{LIBRARY}/{folder.name}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return tree


def check(tree: Tree) -> None:
    """The wall around the image. Errors: BuildError(IMAGE_FORBIDDEN) naming the path."""
    for path, node in tree:
        parts = path.split("/")
        stem = parts[-1].split(".")[0]
        if path.startswith(LIBRARY + "/") and (parts[3] in _FORBIDDEN_PACKAGE):
            raise BuildError("IMAGE_FORBIDDEN", path)
        if any(_FORBIDDEN_NAME.search(part) for part in parts):
            raise BuildError("IMAGE_FORBIDDEN", path)
        if ("bin" in parts[:-1] or "sbin" in parts[:-1]) and stem in _SHELLS:
            raise BuildError("IMAGE_FORBIDDEN", path)
        if node.mode & 0o7022 and not node.is_link:
            raise BuildError("IMAGE_FORBIDDEN", f"{path}: mode")
        own = f"{LIBRARY}/adytum_"
        if path.startswith(own) and path.endswith(".py") and _FOREIGN_IMPORT.search(node.data):
            raise BuildError("IMAGE_FORBIDDEN", f"{path}: imports from outside the wall")
