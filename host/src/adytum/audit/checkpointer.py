"""Asks one enclave for checkpoints, every so many receipts or seconds, and keeps them.

A checkpoint is kept once every receipt that it covers is stored: until then an export would show it and lack them. A
receipt that never comes does not hold it back for ever: that it is missing is then what the checkpoint shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from adytum.audit import store
from adytum.service.gate import Proof
from adytum.storage.database import Database
from adytum.storage.reads import list_receipts
from adytum_verify import Checkpoint, verify_checkpoint
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import next_link, parse_envelope, parse_receipt
from adytum_wire.types import sha256

log = logging.getLogger("adytum.audit")

PATIENCE_S = 30.0  # far beyond the time in which a lost answer's receipt is fetched (adytum.service.trail)


class CheckpointSource(Protocol):
    async def checkpoint(self, *, timeout_s: float | None = None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    checkpoint: Checkpoint
    envelope: bytes
    since_s: float


class Checkpointer:
    """Of one enclave. Call `step` again and again with what `Health` said. `kept`: called after each that was stored.

    `problem`: why the last step failed, as a code; "" when it did not.
    """

    def __init__(
        self,
        source: CheckpointSource,
        database: Database,
        *,
        every_receipts: int,
        every_s: float,
        proof: Callable[[], Proof | None],
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._database = database
        self._every_receipts = every_receipts
        self._every_s = every_s
        self._proof = proof
        self._kept = kept
        self._chain = ""
        self._last = 0
        self._last_s = 0.0
        self._waiting: _Waiting | None = None
        self.problem = ""

    async def step(self, chain: str, length: int, now_s: float) -> None:
        """`chain`: the boot id. `length`: its number of receipts. `now_s`: monotonic seconds. Raises nothing: what
        failed is tried again in the next step."""
        try:
            await self._step(chain, length, now_s)
            self._note("")
        except AdytumError as error:
            self._note(error.code.value)

    async def _step(self, chain: str, length: int, now_s: float) -> None:
        if chain != self._chain:
            self._last = await store.newest_checkpoint(self._database, chain)
            self._chain, self._last_s, self._waiting = chain, now_s, None
        if self._waiting is None:
            new = length - self._last
            if new < self._every_receipts and (new <= 0 or now_s - self._last_s < self._every_s):
                return
            self._waiting = await self._ask(now_s)
        if self._waiting is not None:
            await self._keep(self._waiting, now_s)

    async def _ask(self, now_s: float) -> _Waiting | None:
        """Errors: RECEIPT_INVALID when it is not this boot's, not signed by its attested key, or an old one."""
        proof = self._proof()
        if proof is None or proof.boot_id != self._chain:
            return None
        envelope = await self._source.checkpoint()
        found = verify_checkpoint(envelope, receipt_key=bytes.fromhex(proof.verified.binding.receipt_key))
        if found.chain != self._chain:
            raise AdytumError(Code.RECEIPT_INVALID, "$.body.chain")
        if found.sequence < self._last:
            raise AdytumError(Code.RECEIPT_INVALID, "$.body.sequence")
        if found.sequence == self._last:  # what is new is not sealed yet
            return None
        return _Waiting(found, envelope, now_s)

    async def _keep(self, waiting: _Waiting, now_s: float) -> None:
        found = waiting.checkpoint
        stored = await store.count_receipts(self._database, found.chain, after=self._last, up_to=found.sequence)
        lacking = found.sequence - self._last - stored
        if lacking and now_s - waiting.since_s < PATIENCE_S:
            return
        if lacking:
            log.error("checkpoint %d covers %d receipts that are not stored", found.sequence, lacking)
        elif not await self._fits(found):
            log.error("checkpoint %d contradicts the stored receipts: they are not what was signed", found.sequence)
        await store.put_checkpoint(self._database, found, waiting.envelope)
        self._waiting, self._last, self._last_s = None, found.sequence, now_s
        self._kept()

    async def _fits(self, found: Checkpoint) -> bool:
        """Does the stored receipt lead to the signed head? A quick look; the audit takes the long one."""
        rows = await list_receipts(self._database, found.chain, after=found.sequence - 1, limit=1)
        if not rows or rows[0][0] != found.sequence:
            return False
        try:
            body = parse_envelope(rows[0][1]).body.encode()
            return next_link(bytes.fromhex(parse_receipt(body).previous), sha256(body)) == found.link
        except AdytumError:
            return False

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("no checkpoint: %s", problem)
        self.problem = problem
