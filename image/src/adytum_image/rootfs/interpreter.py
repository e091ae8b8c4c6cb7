"""The image's own CPython, run on the build machine through the image's own dynamic loader.

So the byte code and the compression come from locked packages, whatever the build machine has. x86-64 Linux only.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.rootfs.tree import Tree

_TIMEOUT_S: Final = 300
MAX_PLAIN: Final = 1 << 28  # bytes of a decompressed ramdisk
_INSIDE: Final = Path(__file__).with_name("inside.py")
_LIBRARY_FOLDERS: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


class PinnedInterpreter:
    """`folder` (empty, ours) gets the files of `runtime`: libc, CPython with its library, and libzstd."""

    def __init__(self, folder: Path, runtime: Tree) -> None:
        if platform.machine() != "x86_64" or platform.system() != "Linux":
            raise BuildError("MACHINE_UNSUPPORTED", "an image is built on Linux on x86-64")
        self._root = folder / "runtime"
        self._work = folder / "work"
        self._work.mkdir(parents=True)
        write_out(runtime, self._root)

    def compile(self, tree: Tree) -> Tree:
        """`tree` with a .pyc in the place of each .py. Errors: BuildError(COMPILE_FAILED)."""
        folder = self._work / "compile"
        sources = Tree({path: node for path, node in tree if path.endswith(".py") and node.is_file})
        write_out(sources, folder)
        self._run("COMPILE_FAILED", "compile", str(folder))
        result = Tree({path: node for path, node in tree if path not in sources})
        for path, _ in sources.files():
            result.add_file(path + "c", (folder / (path + "c")).read_bytes())
            (folder / (path + "c")).unlink()
        return result

    def import_all(self, tree: Tree) -> int:
        """Import each of our modules in `tree`, run by the interpreter and the library that `tree` holds; how many.

        Errors: BuildError(IMPORT_FAILED).
        """
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            write_out(tree, Path(folder))
            return int(self._run("IMPORT_FAILED", "import", folder, root=Path(folder)))

    def zstd(self, data: bytes) -> bytes:
        """Compress. Errors: BuildError(COMPRESS_FAILED)."""
        return self._convert("COMPRESS_FAILED", "zstd", data)

    def unzstd(self, data: bytes) -> bytes:
        """Decompress one frame of at most `MAX_PLAIN` bytes. Errors: BuildError(DECOMPRESS_FAILED)."""
        return self._convert("DECOMPRESS_FAILED", "unzstd", data, str(MAX_PLAIN))

    def _convert(self, code: str, command: str, data: bytes, *more: str) -> bytes:
        source, target = self._work / "source", self._work / "target"
        source.write_bytes(data)
        (library,) = (self._root / _LIBRARY_FOLDERS[1]).glob("libzstd.so.1.*")
        self._run(code, command, str(library), str(source), str(target), *more)
        return target.read_bytes()

    def _run(self, code: str, *arguments: str, root: Path | None = None) -> str:
        root = root or self._root
        python = str(root / "usr/bin/python3.11")
        command = [str(root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "--argv0", python, "--library-path"]
        command += [":".join(str(root / folder) for folder in _LIBRARY_FOLDERS), python, "-B", "-s", "-S"]
        environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        command += [str(_INSIDE), *arguments]
        try:
            done = subprocess.run(  # noqa: S603
                command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:  # a module that does not come back from its import, for one
            raise BuildError(code, f"not done after {_TIMEOUT_S} s") from None
        if done.returncode:
            raise BuildError(code, done.stderr.strip()[-500:])
        return done.stdout


def write_out(tree: Tree, folder: Path) -> None:
    """Write the files and links of `tree` below `folder`; absolute links are made relative to it."""
    for path, node in tree:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if node.is_file:
            place.write_bytes(node.data)
            place.chmod(node.mode & 0o777)
        elif node.is_link:
            target = node.data.decode("ascii")
            place.symlink_to(str(folder / target.lstrip("/")) if target.startswith("/") else target)
