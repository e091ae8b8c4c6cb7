"""An anchor in memory, for tests of what uses one: it keeps the port's promises, and breaks one when told to."""

from __future__ import annotations

from collections.abc import Callable

from adytum_enclave.core.effects import Anchored
from adytum_wire.errors import AdytumError, Code


class MemoryAnchor:
    """An `adytum_enclave.shell.anchor.Anchor`. `before_write`: called at each write; it may raise, or write first, as
    another enclave would. `lose_answers`: so many writes happen and say ANCHOR_UNAVAILABLE."""

    def __init__(self) -> None:
        self.items: dict[str, Anchored] = {}
        self.writes = 0
        self.lose_answers = 0
        self.before_write: Callable[[], None] | None = None

    async def read(self, tenant: str, *, timeout_s: float) -> Anchored | None:
        return self.items.get(tenant)

    async def write(self, tenant: str, expected: int | None, anchored: Anchored, *, timeout_s: float) -> bool:
        if self.before_write is not None:
            self.before_write()
        found = self.items.get(tenant)
        if (None if found is None else found.version) != expected:
            return False
        self.items[tenant] = anchored
        self.writes += 1
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise AdytumError(Code.ANCHOR_UNAVAILABLE)
        return True

    async def aclose(self) -> None:
        """Nothing to close."""
