"""Derivation paths as numbers (BIP-32's notation; the grammar is `types.Path`).

>>> parse_path("m/44'/60'/0'/0/7")
(2147483692, 2147483708, 2147483648, 0, 7)
>>> format_path((2147483692, 7))
"m/44'/7"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adytum_wire.errors import AdytumError, Code

HARDENED: Final = 2**31


def parse_path(path: str) -> tuple[int, ...]:
    """The indices of a path that `types.Path` admits, hardened ones with `HARDENED` added; none for "".

    Errors: REQUEST_INVALID "$.path" for an index of 2^31 or more.
    """
    indices = []
    for part in path.split("/")[1:]:
        index = int(part.rstrip("'"))
        if index >= HARDENED:
            raise AdytumError(Code.REQUEST_INVALID, "$.path")
        indices.append(index + HARDENED if part.endswith("'") else index)
    return tuple(indices)


def format_path(indices: Sequence[int]) -> str:
    """The inverse of `parse_path`."""
    return "m" + "".join(f"/{index - HARDENED}'" if index >= HARDENED else f"/{index}" for index in indices)
