"""Take a pending request to the enclave, with the approvals that count, and write down what it said."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from adytum.service.carry import Carried, carry
from adytum.service.metrics import Metrics
from adytum.service.pool import Pool
from adytum.service.requests.cases import Case
from adytum.storage.batcher import AuditBatcher
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

_PLACE: Final = re.compile(r"\$\.approvals\[([0-9]{1,3})\]")


class Carrier:
    """`timeout_s`: for each attempt. `pending_ms`: how old a request may become while it waits. `guard`: raises while
    nothing may be taken."""

    def __init__(
        self,
        *,
        pool: Pool,
        batcher: AuditBatcher,
        metrics: Metrics,
        timeout_s: float,
        pending_ms: int,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._guard = guard
        self._pool = pool
        self._batcher = batcher
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._pending_ms = pending_ms

    async def carry(self, case: Case) -> Carried:
        """The enclave's last word. It is durable; `error` says why it is no result. The enclave refuses the whole
        request for one approval that it cannot verify, so such a one is left out, and the rest is tried again.

        Errors: as `carry` and `AuditBatcher.commit`. ATTESTATION_FAILED when the receipt is of no proven enclave.
        """
        admitted, found = case.admitted, case.preview
        if admitted is None or found is None:
            raise AdytumError(Code.INTERNAL)
        self._guard()
        self._pool.require()
        sending = list(found.sending)
        route = self._pool.route(admitted)
        while True:
            with self._metrics.stage("enclave"):
                carried = await carry(
                    route,
                    admitted,
                    case.record,
                    timeout_s=self._timeout_s,
                    approvals=tuple(sending),
                    pending_ms=self._pending_ms,
                )
            if carried.outcome is not None:
                route.require_boot(carried.outcome)
                with self._metrics.stage("audit"):
                    await self._batcher.commit(carried.outcome)
                await route.confirm(carried.outcome.receipt.chain)
            place = _refused_at(carried.error)
            if place is None or place >= len(sending) or len(sending) == 1:
                return carried
            del sending[place]


def _refused_at(error: AdytumError | None) -> int | None:
    """The place of the approval that the enclave did not verify."""
    if error is None or not error.code.value.startswith("APPROVAL_"):
        return None
    found = _PLACE.match(error.field)
    return int(found.group(1)) if found is not None and int(found.group(1)) < limits.MAX_APPROVALS else None
