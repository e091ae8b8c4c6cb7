"""Runs inside the pinned interpreter of the image, on the build machine: what depends on its exact version.

    inside.py compile ROOT             every .py below ROOT becomes a .pyc in its place, checked by nobody at run time
    inside.py import ROOT              import every module below ROOT's library folder: is anything missing?
    inside.py zstd LIBRARY SOURCE TARGET
    inside.py unzstd LIBRARY SOURCE TARGET LIMIT

The compiler and the compressor are thus those of the lock, and not whatever the build machine has: two machines give
the same bytes. The .pyc carry the hash of their source, so that a changed comment is a changed image.
"""

import ctypes
import importlib
import importlib.util
import marshal
import sys
from collections.abc import Callable
from pathlib import Path

_ZSTD_LEVEL, _ZSTD_WINDOW_LOG, _ZSTD_CHECKSUM = 100, 101, 201
_LEVEL = 12  # 19 takes ten times as long for a tenth less
_WINDOW = 22  # 4 MiB; Linux takes at most 8 MiB for an initramfs
_UNCHECKED_HASH = 0b01
_OWN = ("adytum_wire", "adytum_policy", "adytum_enclave")


def compile_tree(root: str) -> None:
    for path in sorted(Path(root).rglob("*.py")):
        source = path.read_bytes()
        code = compile(source, "/" + path.relative_to(root).as_posix(), "exec", dont_inherit=True, optimize=0)
        # once through marshal: the references that the compiler happened to share with other code are gone
        body = marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302 (our own bytes)
        head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(source)
        path.with_suffix(".pyc").write_bytes(head + body)
        path.unlink()


def import_all(root: str) -> None:
    library = Path(root, "usr/lib/adytum")
    sys.path.append(str(library))
    count = 0
    for name in _OWN:
        for path in sorted(library.joinpath(name).rglob("*.pyc")):
            importlib.import_module(".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__"))
            count += 1
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    foreign = [name for name, file in files.items() if name != "__main__" and file and not file.startswith(root)]
    if not count or foreign:
        raise SystemExit(f"nothing to import, or imported from elsewhere: {foreign}")
    print(count)  # noqa: T201


def _zstd(library: str) -> ctypes.CDLL:
    lib = ctypes.CDLL(library)
    lib.ZSTD_createCCtx.restype = ctypes.c_void_p
    for name in ("compressBound", "compress2", "CCtx_setParameter", "decompress"):
        getattr(lib, f"ZSTD_{name}").restype = ctypes.c_size_t
    lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    return lib


def _check(lib: ctypes.CDLL, code: int) -> int:
    if lib.ZSTD_isError(ctypes.c_size_t(code)):
        raise SystemExit("zstd refused")
    return code


def zstd(library: str, source: str, target: str) -> None:
    lib = _zstd(library)
    data = Path(source).read_bytes()
    context = ctypes.c_void_p(lib.ZSTD_createCCtx())
    for parameter, value in ((_ZSTD_LEVEL, _LEVEL), (_ZSTD_WINDOW_LOG, _WINDOW), (_ZSTD_CHECKSUM, 1)):
        _check(lib, lib.ZSTD_CCtx_setParameter(context, parameter, value))
    capacity = ctypes.c_size_t(lib.ZSTD_compressBound(ctypes.c_size_t(len(data))))
    out = ctypes.create_string_buffer(capacity.value)
    size = _check(lib, lib.ZSTD_compress2(context, out, capacity, ctypes.c_char_p(data), ctypes.c_size_t(len(data))))
    Path(target).write_bytes(out.raw[:size])


def unzstd(library: str, source: str, target: str, limit: str) -> None:
    lib = _zstd(library)
    data = Path(source).read_bytes()
    expected = lib.ZSTD_getFrameContentSize(ctypes.c_char_p(data), ctypes.c_size_t(len(data)))
    if expected > int(limit):  # also "unknown" and "error", which are the largest numbers
        raise SystemExit("zstd: unknown or too large")
    out = ctypes.create_string_buffer(max(expected, 1))
    size = ctypes.c_size_t(len(data))
    if _check(lib, lib.ZSTD_decompress(out, ctypes.c_size_t(expected), ctypes.c_char_p(data), size)) != expected:
        raise SystemExit("zstd: short")
    Path(target).write_bytes(out.raw[:expected])


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "compile": compile_tree,
        "import": import_all,
        "zstd": zstd,
        "unzstd": unzstd,
    }
    commands[sys.argv[1]](*sys.argv[2:])
