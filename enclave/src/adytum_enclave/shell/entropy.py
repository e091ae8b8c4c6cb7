"""Random bytes from the kernel (getrandom(2), which the NSM's hardware feeds), written straight into a buffer.

`os.urandom` would make a `bytes` object first, which for a secret is one copy too many.
"""

from __future__ import annotations

import ctypes
import errno
from functools import cache

from adytum_wire.errors import AdytumError, Code


def fill(view: memoryview) -> None:
    """Fill `view` (writable, contiguous bytes) with random bytes; blocks until the kernel's generator is seeded.

    Errors: INTERNAL when the kernel refuses, ValueError or TypeError for a view that cannot be written; the view's
    content is then undefined and must not be used.
    """
    size = view.nbytes
    if size == 0:
        return
    buffer = (ctypes.c_ubyte * size).from_buffer(view)
    address, done = ctypes.addressof(buffer), 0
    libc = _libc()
    while done < size:  # more than 256 bytes may come in parts (getrandom(2), NOTES)
        got = libc.getrandom(address + done, size - done, 0)
        if got > 0:
            done += got
        elif ctypes.get_errno() != errno.EINTR:
            raise AdytumError(Code.INTERNAL, "entropy")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getrandom.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    libc.getrandom.restype = ctypes.c_ssize_t
    return libc
