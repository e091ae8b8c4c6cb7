"""Keeps the stored receipts of a running boot without holes.

An answer may be lost between enclave and host: the connection broke, the host was killed, the deadline passed. The
decision is in the enclave's chain all the same, and an audit would report its receipt as missing. So what the enclave
has signed and the database has not is fetched from the enclave and stored.

A hole that the enclave no longer remembers stays: it is said, once, and an audit will name it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome, receipt_row
from adytum_wire.errors import AdytumError, Code

log = logging.getLogger("adytum.trail")

SETTLE_S = 5.0  # younger receipts may still be on their way through the ordinary path

_FIRST_HOLE = """
SELECT s.sequence FROM generate_series($2::bigint, $3::bigint) AS s(sequence)
LEFT JOIN receipts r ON r.chain = $1 AND r.sequence = s.sequence
WHERE r.sequence IS NULL ORDER BY s.sequence LIMIT 1
"""


class ReceiptSource(Protocol):
    async def get_receipts(self, first: int, *, timeout_s: float | None = None) -> list[bytes]: ...


class Trail:
    """Of one enclave. Call `mend` again and again with what `Health` said; it does little when nothing is missing."""

    def __init__(self, source: ReceiptSource, database: Database, batcher: AuditBatcher) -> None:
        self._source = source
        self._database = database
        self._batcher = batcher
        self._chain = ""
        self._whole_up_to = 0  # every number up to here is stored, or given up
        self._seen: deque[tuple[float, int]] = deque()  # (when, length of the chain then)
        self.mended = 0
        self.given_up = 0

    async def mend(self, chain: str, length: int, now_s: float) -> None:
        """`chain`: the boot id. `length`: its number of receipts. `now_s`: monotonic seconds.

        Errors: what the enclave or the database answers; what was mended stays mended, and the next call goes on.
        """
        if chain != self._chain:
            self._chain, self._whole_up_to = chain, 0
            self._seen.clear()
        self._seen.append((now_s, length))
        settled = 0
        while self._seen and self._seen[0][0] <= now_s - SETTLE_S:
            settled = self._seen.popleft()[1]
        while self._whole_up_to < settled:
            rows = await self._database.fetch(_FIRST_HOLE, chain, self._whole_up_to + 1, settled)
            if not rows:
                self._whole_up_to = settled
                return
            await self._fill(int(rows[0]["sequence"]))

    async def _fill(self, first: int) -> None:
        receipts = await self._source.get_receipts(first)
        for number, envelope in enumerate(receipts, start=first):
            row = receipt_row(envelope)
            if row.chain != self._chain or row.sequence != number:
                raise AdytumError(Code.RECEIPT_INVALID, "$.sequence")
            await self._batcher.commit(Outcome(receipt=row))
            self._whole_up_to = number
        if receipts:
            self.mended += len(receipts)
            log.warning("fetched %d receipts from number %d on whose answers were lost", len(receipts), first)
        else:
            self.given_up += 1
            log.error("receipt %d is lost: the enclave no longer remembers it", first)
            self._whole_up_to = first
