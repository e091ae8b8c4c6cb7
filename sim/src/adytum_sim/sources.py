"""Python sources as trees, for what reads the project's own code.

CPython 3.11's `ast.parse` counts its depth in one place for the whole process. When it is entered again on its way, by
another thread or by a finaliser, it raises SystemError over a source that is right (python/cpython#106905).

>>> parse("x = 1").body[0].targets[0].id
'x'
"""

from __future__ import annotations

import ast
import contextlib
from typing import Final

_ATTEMPTS: Final = 5


def parse(source: str) -> ast.Module:
    """The tree of `source`. Errors: SyntaxError; SystemError when CPython fails that many times in a row."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)
