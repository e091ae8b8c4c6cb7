"""The Anchor port: where the newest sealed usage snapshot of each tenant is kept, outside the enclave and its host.

An anchor is believed for one thing: that `read` gives what was written last. It is not believed for what is written
there; that is sealed. Implementations: DynamoDB over TLS that ends in the enclave (`anchor_dynamodb`), memory (`sim`).
With `manifest.anchor.kind` "host" there is none: the snapshots travel in answers and come back by `put_usage`.
"""

from __future__ import annotations

from typing import Protocol

from adytum_enclave.core.effects import Anchored


class Anchor(Protocol):
    """All errors are `AdytumError`: ANCHOR_UNAVAILABLE when there was no answer that passes its checks (a write may
    have happened then), DEADLINE_EXCEEDED."""

    async def read(self, tenant: str, *, timeout_s: float) -> Anchored | None:
        """What was written last, None when nothing ever was."""
        ...

    async def write(self, tenant: str, expected: int | None, anchored: Anchored, *, timeout_s: float) -> bool:
        """Write if the version there is `expected` (None: nothing is there). False when it is not; nothing was written
        then."""
        ...

    async def aclose(self) -> None: ...
