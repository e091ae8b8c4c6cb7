"""Whose processor time is it, where several parts of a deployment run on one event loop.

What a part starts inherits its context, so a context variable that is set while the part starts is found in every
callback of it, those of its transports included. Left out: the loop's own time between callbacks, and other threads.

    with owned_by("kms"):
        await server.start()
    with counting() as spent:
        ...
    spent["kms"]        # seconds
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import thread_time
from typing import Any, Final

OTHERS: Final = "others"
_owner: ContextVar[str] = ContextVar("adytum_bench_owner", default=OTHERS)


@contextmanager
def owned_by(name: str) -> Iterator[None]:
    """What is started inside belongs to `name`."""
    token = _owner.set(name)
    try:
        yield
    finally:
        _owner.reset(token)


@contextmanager
def counting() -> Iterator[dict[str, float]]:
    """Seconds of each owner's callbacks so far, on asyncio's own loop (not uvloop), while the block runs."""
    spent: dict[str, float] = defaultdict(float)
    handle: Any = asyncio.Handle
    run = handle._run

    def timed(self: Any) -> None:
        begun = thread_time()
        try:
            run(self)
        finally:
            spent[self._context.get(_owner, OTHERS)] += thread_time() - begun

    handle._run = timed
    try:
        yield spent
    finally:
        handle._run = run
