"""Turns at what there is one of (`effects.InTurn`): the memory that a password's KDF takes.

Tenants take turns, each its requests in their order, so that one with many files delays another by one of them. Of one
tenant `limits.MAX_WAITING_IMPORTS` may wait; beyond that the answer is to come again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from adytum_enclave.core.effects import Answer, Effect, InTurn
from adytum_enclave.shell.together import drive
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code


class Turns:
    """`perform`: carries out the effects of the steps."""

    def __init__(self, perform: Callable[[Effect, float], Awaitable[Answer]]) -> None:
        self._perform = perform
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by tenant; none is empty
        self._busy = False

    async def run(self, effect: InTurn, deadline: float) -> None:
        """Errors: those of the steps, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED (the steps have not begun then)."""
        mine = self._waiting.get(effect.tenant, ())
        if len(mine) >= limits.MAX_WAITING_IMPORTS:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, retry_after_ms=limits.RETRY_IMPORT_MS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(effect.tenant, deque()).append(turn)
        if not self._busy:
            self._pass_on()
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait((turn,))  # which leaves the turn as it is when the time is up
        except BaseException as error:
            self._leave(effect.tenant, turn)
            if isinstance(error, TimeoutError):
                raise AdytumError(Code.DEADLINE_EXCEEDED) from None
            raise
        try:
            await drive(effect.steps(), self._perform, deadline)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the next tenant that waits, and put that one behind the others."""
        self._busy = bool(self._waiting)
        if self._busy:
            tenant, waiting = self._waiting.popitem(last=False)
            waiting.popleft().set_result(None)
            if waiting:
                self._waiting[tenant] = waiting

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """Somebody gave up. The turn may have come in the same moment: it goes to the next."""
        if turn.done():
            self._pass_on()
            return
        waiting = self._waiting[tenant]
        waiting.remove(turn)
        if not waiting:
            del self._waiting[tenant]
