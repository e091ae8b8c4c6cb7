"""Memory for secrets: an arena of wipeable slots, and a comparison that takes constant time.

An arena is one mapping: `memfd_secret(2)` where the kernel has it (unreadable even through /proc/self/mem), else
anonymous memory that is locked, never dumped and never inherited by a child. A slot is a piece of it. Native code gets
its address; Python code gets a memoryview to copy public bytes into.

Who owns a slot: whoever called `take`, until the slot is given to a function whose docstring says "takes ownership".
The owner wipes it, on every path; `with` does so. A view or pointer of a slot must not outlive the slot: a wiped slot's
memory is given to the next caller. A slot that was forgotten is wiped when it is collected, which is a belt, no rule.

Left out: threads. An arena, its slots and the keys on them belong to one thread.

>>> arena = Arena(4096)
>>> with arena.take(32) as secret:
...     secret.view[:] = bytes(32)
>>> arena.in_use
0
"""

from __future__ import annotations

import ctypes
import mmap
import os
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self

from nacl._sodium import ffi as _ffi
from nacl._sodium import lib as _sodium

from adytum_wire.errors import AdytumError, Code

Kind = Literal["memfd_secret", "locked", "unlocked"]

ALIGNMENT: Final = 64  # bytes; the smallest block, a cache line
_MEMFD_SECRET: Final = 447  # the system call's number on x86-64 and aarch64
_MADV_WIPEONFORK: Final = 18  # <linux/mman.h>; the mmap module does not name it


class Arena:
    """`size_bytes` (rounded up to whole pages) of memory for secrets.

    `kind` says what the kernel gave: "memfd_secret", "locked" (mlock worked) or "unlocked" (RLIMIT_MEMLOCK is too
    small: the pages may be swapped). The caller decides whether "unlocked" will do. `in_use`: bytes in live slots,
    counted as blocks.

    Blocks are powers of two of at least 64 bytes; free ones are merged with their buddies when a larger one is wanted,
    so that no sequence of sizes wears the arena out.

    Errors: RESOURCE_EXHAUSTED when the kernel gives no memory at all.
    """

    __slots__ = ("__weakref__", "_address", "_anchor", "_blocks", "_free", "_map", "_memory", "in_use", "kind", "size")

    def __init__(self, size_bytes: int, *, prefer_memfd_secret: bool = True) -> None:
        if size_bytes <= 0:
            raise ValueError("an arena has at least one byte")
        if _sodium.sodium_init() < 0:
            raise AdytumError(Code.INTERNAL)
        self.size: Final = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        mapping = _map_secret(self.size) if prefer_memfd_secret else None
        self.kind: Kind = "memfd_secret"
        if mapping is None:
            mapping, self.kind = _map_anonymous(self.size)
        self._map = mapping
        self._memory = memoryview(mapping)
        self._anchor = ctypes.c_char.from_buffer(mapping)  # keeps the mapping from being closed under its slots
        self._address = ctypes.addressof(self._anchor)
        self.in_use = 0
        self._blocks: dict[int, int] = {}  # offset of a whole region -> its block size, for merging
        self._free: dict[int, dict[int, None]] = {}  # block size -> offsets; a dict is an ordered set
        self._add_regions()

    def _add_regions(self) -> None:
        """Cut the mapping into power-of-two regions, largest first."""
        offset = 0
        while offset < self.size:
            block = 1 << ((self.size - offset).bit_length() - 1)
            self._blocks[offset] = block
            self._free.setdefault(block, {})[offset] = None
            offset += block

    def take(self, size: int) -> Slot:
        """A slot of `size` bytes, zeroed, its address a multiple of 64. The caller owns it.

        Errors: RESOURCE_EXHAUSTED when no free block is large enough; nothing changed then.
        """
        if size <= 0:
            raise ValueError("a slot has at least one byte")
        block = max(ALIGNMENT, 1 << (size - 1).bit_length())
        free = self._free.get(block)
        if free:
            offset, _ = free.popitem()
        else:
            offset = self._split(block)
        self.in_use += block
        return Slot(self, offset, size, block)

    def _split(self, block: int) -> int:
        for attempt in range(2):
            larger = min((size for size, offsets in self._free.items() if size >= block and offsets), default=0)
            if larger:
                break
            if attempt == 0:
                self._merge()
        else:
            raise AdytumError(Code.RESOURCE_EXHAUSTED)
        offset, _ = self._free[larger].popitem()
        while larger > block:
            larger //= 2
            self._free.setdefault(larger, {})[offset + larger] = None
        return offset

    def _merge(self) -> None:
        """Join free buddies, smallest first. Only when a block is wanted that is not there: usually a take is O(1)."""
        for size in sorted(self._free):
            self._merge_size(size)

    def _merge_size(self, size: int) -> None:
        pending = [(size, offset) for offset in sorted(self._free[size])]
        for size, offset in pending:
            start = max(region for region in self._blocks if region <= offset)
            if self._blocks[start] == size or offset not in self._free[size]:
                continue
            buddy = start + ((offset - start) ^ size)
            if buddy in self._free[size]:
                del self._free[size][offset], self._free[size][buddy]
                whole = min(offset, buddy)
                self._free.setdefault(2 * size, {})[whole] = None
                pending.append((2 * size, whole))

    def _zero(self, offset: int, block: int) -> None:
        _sodium.sodium_memzero(_ffi.cast("void *", self._address + offset), block)

    def _give_back(self, offset: int, block: int) -> None:
        self.in_use -= block
        self._free.setdefault(block, {})[offset] = None

    def __repr__(self) -> str:
        return f"<Arena {self.size} bytes, {self.kind}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an arena cannot be copied or pickled")


class Wiped:
    """What owns secrets: a context manager that wipes them when it is left. It can be neither copied nor pickled."""

    __slots__ = ()

    def wipe(self) -> None:
        """Wipe the secrets. A second call does nothing."""
        raise TypeError("who owns secrets says how they are wiped")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.wipe()

    def __reduce__(self) -> NoReturn:
        raise TypeError("what owns secrets cannot be copied or pickled")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, _memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()


class Slot(Wiped):
    """`size` bytes of an arena. A context manager: leaving it wipes. After `wipe` every use raises `ValueError`.

    It has no `bytes()`, no length, no equality but identity, and can be neither copied nor pickled.
    """

    __slots__ = ("__weakref__", "_block", "_offset", "_view", "arena", "size")

    def __init__(self, arena: Arena, offset: int, size: int, block: int) -> None:
        """Only `Arena.take` makes slots."""
        self.arena: Final = arena
        self.size: Final = size
        self._offset = offset
        self._block = block
        self._view: memoryview | None = arena._memory[offset : offset + size]

    @property
    def view(self) -> memoryview:
        """The bytes, writable, in place. Released by `wipe`; do not keep it, and do not slice it and keep the slice."""
        view = self._view
        if view is None:
            raise ValueError("the slot was wiped")
        return view

    @property
    def pointer(self) -> int:
        """The address of the first byte."""
        if self._view is None:
            raise ValueError("the slot was wiped")
        return self.arena._address + self._offset

    @property
    def alive(self) -> bool:
        """False once wiped."""
        return self._view is not None

    def cdata(self, ffi: Any) -> Any:
        """The address as `unsigned char *` of this cffi instance. Must not outlive the slot."""
        return ffi.cast("unsigned char *", self.pointer)

    def zero(self) -> None:
        """Overwrite the bytes with zeros; the slot stays the owner's."""
        if self._view is None:
            raise ValueError("the slot was wiped")
        self.arena._zero(self._offset, self._block)

    def wipe(self) -> None:
        """Overwrite the whole block with zeros and give it back. A second call does nothing.

        Errors: BufferError when somebody still holds the view's buffer (a bug of the owner): the bytes are zeroed then,
        and the block is not given to anybody else.
        """
        view, self._view = self._view, None
        if view is not None:
            self.arena._zero(self._offset, self._block)
            view.release()
            self.arena._give_back(self._offset, self._block)

    def __del__(self) -> None:
        if getattr(self, "_view", None) is not None:
            self.wipe()

    def __repr__(self) -> str:
        return f"<Slot {self.size} bytes>"


def equal(a: memoryview | bytes, b: memoryview | bytes) -> bool:
    """True when both hold the same bytes, in a time that depends on their lengths alone (libsodium, sodium_memcmp)."""
    if len(a) != len(b):
        return False
    left, right = _ffi.from_buffer(a), _ffi.from_buffer(b)
    try:
        return bool(_sodium.sodium_memcmp(left, right, len(a)) == 0)
    finally:
        _ffi.release(left)
        _ffi.release(right)


def copy(source: memoryview, target: Slot, offset: int = 0) -> None:
    """Copy bytes from memory to a slot (memmove); nothing in between. Errors: ValueError when it does not fit."""
    target.view[offset : offset + len(source)] = source


def _map_secret(size: int) -> mmap.mmap | None:
    """A memfd_secret mapping, or None where the kernel does not offer one."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_MEMFD_SECRET, os.O_CLOEXEC)
    if descriptor < 0:
        return None
    try:
        os.ftruncate(descriptor, size)
        mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
    except OSError:  # the pages count against RLIMIT_MEMLOCK
        return None
    finally:
        os.close(descriptor)
    _advise(mapping, (mmap.MADV_DONTDUMP, mmap.MADV_DONTFORK))
    return mapping


def _map_anonymous(size: int) -> tuple[mmap.mmap, Kind]:
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise AdytumError(Code.RESOURCE_EXHAUSTED) from None
    _advise(mapping, (mmap.MADV_DONTDUMP, mmap.MADV_DONTFORK, _MADV_WIPEONFORK))
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    locked = libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0
    return mapping, "locked" if locked else "unlocked"


def _advise(mapping: mmap.mmap, advice: tuple[int, ...]) -> None:
    for one in advice:
        mapping.madvise(one)
