"""The attestation document that goes with KMS calls, used again for a few seconds.

It says the same each time: who we are (PCRs) and the RSA key of this boot; KMS looks at neither nonce nor time of it,
only at its signature and certificates. What makes an answer fresh is TLS and the data key inside, which only that RSA
key opens. So one document may go with many calls, and making one, which the NSM does for one caller at a time, is not
what bounds cold requests. It is kept for seconds, not for the life of its certificate, so that what expires or is
measured meanwhile costs at most one refused call, which is repeated with a new document.

>>> documents = Documents(make, monotonic=time.monotonic)   # doctest: +SKIP
>>> document = await documents.get()                        # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

LIFETIME_S: Final = 5.0


class Documents:
    """`make`: asks the NSM for one. For one event loop; callers that come together share one call."""

    def __init__(
        self,
        make: Callable[[], Awaitable[bytes]],
        *,
        monotonic: Callable[[], float],
        lifetime_s: float = LIFETIME_S,
    ) -> None:
        self._make = make
        self._monotonic = monotonic
        self._lifetime_s = lifetime_s
        self._made: asyncio.Future[bytes] | None = None
        self._until = 0.0

    async def get(self) -> bytes:
        """A document that is at most `lifetime_s` old. Errors: those of `make`; nothing is kept then."""
        now = self._monotonic()
        if self._made is None or now >= self._until:
            self._made = asyncio.ensure_future(self._make())
            self._until = now + self._lifetime_s
        made = self._made
        try:
            return await asyncio.shield(made)
        except BaseException:
            if made.done() and self._made is made:
                self._made = None
            raise

    def drop(self, document: bytes | None = None) -> None:
        """Make a new one next time. With `document`: only if that is the one that is kept."""
        made = self._made
        if document is None or (
            made is not None and made.done() and not made.exception() and made.result() == document
        ):
            self._made = None
