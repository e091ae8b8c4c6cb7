"""The audit write: group commit. All outcomes that wait become one transaction and one fsync.

Order inside the transaction: requests first, because their primary key decides who was first (a request that waits for
approvals gives its place to the enclave's final word, which also counts when the host had given the request up); then
keys and envelopes of the winners only; then every receipt, since each decision happened. If the transaction fails,
every waiter gets AUDIT_UNAVAILABLE, nothing was stored, and no answer leaves the host. If one row of many is at fault
(not the database), the batch is written again one by one, so that it fails alone. A deleted key stays deleted: a record
of it that comes later is dropped, and a shred waits for those who write one now.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import asyncpg
import msgspec

from adytum.storage.coalescer import Coalescer
from adytum.storage.database import Database
from adytum.storage.rows import PENDING, Outcome, PendingRow, ReceiptRow, RecordRow, RequestRow, to_base64
from adytum.storage.usage import keep_newest
from adytum_policy.content import address_of
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header
from adytum_wire.types import Algorithm, RecordKind

log = logging.getLogger("adytum.storage")

MAX_BATCH = 256
_REMEMBERED_S = 10.0

_REQUESTS = """
INSERT INTO requests (tenant, request_id, body_hash, stamp_key, operation, state, result, code, field,
                      receipt_chain, receipt_sequence)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::bytea[],
                     $8::text[], $9::text[], $10::text[], $11::bigint[])
ON CONFLICT (tenant, request_id) DO UPDATE SET
    stamp_key = excluded.stamp_key, operation = excluded.operation, state = excluded.state, result = excluded.result,
    code = excluded.code, field = excluded.field, receipt_chain = excluded.receipt_chain,
    receipt_sequence = excluded.receipt_sequence
WHERE requests.state IN ('pending', 'cancelled', 'expired') AND excluded.state <> 'pending'
      AND requests.body_hash = excluded.body_hash
RETURNING tenant, request_id
"""
_PENDING = """
INSERT INTO pending_requests (tenant, request_id, body, stamp, issued_at, expires_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[])
ON CONFLICT DO NOTHING
"""
_STORED_REQUESTS = """
SELECT r.tenant, r.request_id, r.body_hash, r.stamp_key, r.operation, r.result, c.envelope AS receipt, r.code, r.field
FROM unnest($1::text[], $2::text[]) AS q(tenant, request_id) JOIN requests r USING (tenant, request_id)
JOIN receipts c ON c.chain = r.receipt_chain AND c.sequence = r.receipt_sequence
"""
_RECEIPTS = """
INSERT INTO receipts (chain, sequence, envelope, body_hash, tenant, request_id, "time", decision, code)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::bigint[],
                     $8::text[], $9::text[])
ON CONFLICT DO NOTHING RETURNING chain, sequence
"""
_STORED_RECEIPTS = """
SELECT r.chain, r.sequence, r.body_hash
FROM unnest($1::text[], $2::bigint[]) AS q(chain, sequence) JOIN receipts r USING (chain, sequence)
"""
_KEYS = """
INSERT INTO keys (key_id, tenant, public_key, algorithm, kind, status, labels, address, deletion_date)
SELECT key_id, tenant, public_key, algorithm, kind, status, labels, address,
       CASE WHEN due > 0 THEN to_timestamp(due / 1000.0) END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::text[],
            $9::bigint[]) AS q(key_id, tenant, public_key, algorithm, kind, labels, status, address, due)
ON CONFLICT (key_id) DO UPDATE SET
    updated_at = now(), status = excluded.status, deletion_date = excluded.deletion_date
WHERE keys.status <> 'deleted'
"""
# A deleted key gets no record again, whoever made one in the meantime: `_KEYS` locks its row, and this reads it then.
_ENVELOPES = """
INSERT INTO key_envelopes (key_id, node_id, version, kind, header, ciphertext_blob, data_key_ciphertext, kms_key_id)
SELECT q.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                       $8::text[]) AS q(key_id, node_id, version, kind, header, blob, data_key, kms_key)
JOIN keys k ON k.key_id = q.key_id AND k.status <> 'deleted'
ON CONFLICT DO NOTHING RETURNING key_id, node_id, version, ciphertext_blob
"""
# As a statement of its own before `_SHRED`, so that the latter sees what others were writing until now: a statement
# sees nothing that was committed after it began, also when it had to wait for it. In one order, against deadlocks.
_LOCK = "SELECT 1 FROM keys WHERE key_id = ANY($1::text[]) ORDER BY key_id FOR UPDATE"
# Crypto-shredding: the sealed record is all there is of a key, so without it the key is gone.
_SHRED = """
WITH gone AS (DELETE FROM key_envelopes WHERE key_id = ANY($1::text[])),
     also AS (DELETE FROM recovery_envelopes WHERE key_id = ANY($1::text[]))
UPDATE keys SET status = 'deleted', updated_at = now() WHERE key_id = ANY($1::text[])
"""
_ANY_DELETED = "SELECT EXISTS (SELECT 1 FROM keys WHERE key_id = ANY($1::text[]) AND status = 'deleted')"
_RECOVERY = """
INSERT INTO recovery_envelopes (key_id, node_id, version, envelope)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) ON CONFLICT DO NOTHING
"""


class _LostError(Exception):
    """A record of the batch cannot be stored: its version number is taken (another request has made that version
    first), or its key was deleted in the meantime."""

    def __init__(self, is_deleted: bool) -> None:
        super().__init__()
        self.is_deleted = is_deleted


class AuditBatcher:
    """The one writer of outcomes. `commit` returns when the outcome is durable."""

    def __init__(
        self, database: Database, *, max_batch: int = MAX_BATCH, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._clock_s = clock_s
        self._failed_s: float | None = None
        self._coalescer: Coalescer[Outcome, RequestRow | None] = Coalescer(self._flush, max_items=max_batch)

    async def commit(self, outcome: Outcome, *, hold_s: float = 0.0) -> RequestRow | None:
        """Make `outcome` durable; `hold_s`: for so long it may wait for others, or until `release`.

        Return the row that stands for its request: `outcome.request`, or the one that another answer to the same
        request had stored before (None when it has no request row).

        Errors: RECORD_ROLLBACK (another request made this version of the record; the receipt is durable),
        KEY_STATE (the record's key was deleted in the meantime; the record is dropped, the receipt is durable),
        AUDIT_UNAVAILABLE (nothing stored), REQUEST_CONFLICT (the id is stored with another body; the receipt
        is durable), RECEIPT_INVALID (another receipt has this number: the chain forked).
        """
        return await self._coalescer.submit(outcome, hold_s=hold_s)

    def release(self) -> None:
        """Write what is held back."""
        self._coalescer.release()

    @property
    def problem(self) -> str:
        """AUDIT_UNAVAILABLE while the last write failed, but at most for ten seconds: without a request nobody would
        find out that it works again."""
        if self._failed_s is None or self._clock_s() - self._failed_s > _REMEMBERED_S:
            return ""
        return Code.AUDIT_UNAVAILABLE.value

    async def settle(self) -> None:
        """Wait until every outcome that was committed before this call is durable, or has failed."""
        await self._coalescer.settle()

    async def close(self) -> None:
        await self._coalescer.close()

    async def _flush(self, outcomes: Sequence[Outcome]) -> Sequence[RequestRow | BaseException | None]:
        try:
            written = await self._write(outcomes)
            self._failed_s = None
            return written
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError) as error:
            if len(outcomes) == 1:  # about this row: others can be written
                _warn(outcomes[0], error)
                return [AdytumError(Code.AUDIT_UNAVAILABLE)]
        except _LostError as lost:
            if len(outcomes) == 1:
                # The enclave said yes to both, as it must: it had not seen the other's record. One stands, or the
                # key's deletion; the other request is told so, and keeps its receipt.
                kept = (await self._flush([Outcome(receipt=outcomes[0].receipt)]))[0]
                if isinstance(kept, BaseException):
                    return [kept]
                if lost.is_deleted:
                    return [AdytumError(Code.KEY_STATE, "$.state")]
                return [AdytumError(Code.RECORD_ROLLBACK, "$.version")]
        except AdytumError as error:
            self._failed_s = self._clock_s()
            return [AdytumError(error.code, error.field, retry_after_ms=error.retry_after_ms) for _ in outcomes]
        except asyncpg.PostgresError as error:
            if len(outcomes) == 1:  # nothing that one row could be guilty of
                _warn(outcomes[0], error)
                self._failed_s = self._clock_s()
                return [AdytumError(Code.AUDIT_UNAVAILABLE)]
        results: list[RequestRow | BaseException | None] = []
        for outcome in outcomes:
            results += await self._flush([outcome])
        return results

    async def _write(self, outcomes: Sequence[Outcome]) -> list[RequestRow | BaseException | None]:
        # The first of a batch wins, as if they had come one after the other.
        first: dict[tuple[str, str], tuple[RequestRow, ReceiptRow]] = {}
        for outcome in outcomes:
            if outcome.request is not None:
                _put_first(first, outcome.request, outcome.receipt)
        receipts: dict[tuple[str, int], ReceiptRow] = {}
        for outcome in outcomes:
            receipts.setdefault((outcome.receipt.chain, outcome.receipt.sequence), outcome.receipt)
        async with self._database.connection(Code.AUDIT_UNAVAILABLE) as connection, connection.transaction():
            stored = await _insert_requests(connection, first)
            winners = [
                outcome.record
                for outcome in outcomes
                if outcome.record is not None
                and (outcome.request is None or stored[_id(outcome.request)] is outcome.request)
            ]
            shredded = sorted({outcome.shredded for outcome in outcomes if outcome.shredded})
            if shredded:
                await connection.execute(_LOCK, sorted({*shredded, *(row.header.key_id for row in winners)}))
            if winners:
                await _insert_records(connection, winners)
            waiting = [
                (outcome.request, outcome.pending)
                for outcome in outcomes
                if outcome.request is not None
                and outcome.pending is not None
                and stored[_id(outcome.request)] is outcome.request
            ]
            if waiting:
                await _insert_pending(connection, waiting)
            if shredded:
                await connection.execute(_SHRED, shredded)
            hashes = await _insert_receipts(connection, receipts)
            await keep_newest(connection, [outcome.usage for outcome in outcomes if outcome.usage is not None])
        return [_result(outcome, stored, hashes) for outcome in outcomes]


def _warn(outcome: Outcome, error: Exception) -> None:
    """Without the driver's message: it may quote the row."""
    receipt, what = outcome.receipt, getattr(error, "sqlstate", None) or type(error).__name__
    log.error("an answer could not be written: chain=%s sequence=%d error=%s", receipt.chain, receipt.sequence, what)


def _address(header: Header) -> str:
    if header.algorithm is not Algorithm.SECP256K1 or header.kind is not RecordKind.SIGNING_KEY:
        return ""
    return address_of(bytes.fromhex(header.public_key))


def _id(request: RequestRow) -> tuple[str, str]:
    return request.tenant, request.request_id


def _put_first(
    first: dict[tuple[str, str], tuple[RequestRow, ReceiptRow]], request: RequestRow, receipt: ReceiptRow
) -> None:
    """The first answer stands; but that a request waits is no answer, and gives way to one about the same body."""
    known = first.setdefault(_id(request), (request, receipt))[0]
    if known.state == PENDING and request.state != PENDING and known.body_hash == request.body_hash:
        first[_id(request)] = request, receipt


async def _insert_pending(connection: asyncpg.Connection, rows: Sequence[tuple[RequestRow, PendingRow]]) -> None:
    await connection.execute(
        _PENDING,
        [request.tenant for request, _ in rows],
        [request.request_id for request, _ in rows],
        [pending.body for _, pending in rows],
        [pending.stamp for _, pending in rows],
        [pending.issued_at for _, pending in rows],
        [pending.expires_at for _, pending in rows],
    )


def _result(
    outcome: Outcome, stored: dict[tuple[str, str], RequestRow], hashes: dict[tuple[str, int], bytes]
) -> RequestRow | BaseException | None:
    receipt, request = outcome.receipt, outcome.request
    if hashes[receipt.chain, receipt.sequence] != receipt.body_hash:
        return AdytumError(Code.RECEIPT_INVALID, "$ (forked chain)")
    if request is None:
        return None
    row = stored[_id(request)]
    if row.body_hash != request.body_hash:
        return AdytumError(Code.REQUEST_CONFLICT)
    return row


async def _insert_requests(
    connection: asyncpg.Connection, rows: dict[tuple[str, str], tuple[RequestRow, ReceiptRow]]
) -> dict[tuple[str, str], RequestRow]:
    """Insert; return what the table now holds for each id."""
    if not rows:
        return {}
    values = [request for request, _ in rows.values()]
    receipts = [receipt for _, receipt in rows.values()]
    inserted = await connection.fetch(
        _REQUESTS,
        [r.tenant for r in values],
        [r.request_id for r in values],
        [r.body_hash for r in values],
        [r.stamp_key for r in values],
        [r.operation for r in values],
        [r.state for r in values],
        [r.result for r in values],
        [r.code for r in values],
        [r.field for r in values],
        [r.chain for r in receipts],
        [r.sequence for r in receipts],
    )
    stored = {key: request for key, (request, _) in rows.items()}
    if len(inserted) != len(values):
        mine = {(row[0], row[1]) for row in inserted}
        lost = [key for key in rows if key not in mine]
        for row in await connection.fetch(_STORED_REQUESTS, [key[0] for key in lost], [key[1] for key in lost]):
            stored[row["tenant"], row["request_id"]] = RequestRow(**dict(row.items()))
    return stored


async def _insert_receipts(
    connection: asyncpg.Connection, rows: dict[tuple[str, int], ReceiptRow]
) -> dict[tuple[str, int], bytes]:
    """Insert; return the body hash that the table now holds for each (chain, sequence)."""
    values = list(rows.values())
    inserted = await connection.fetch(
        _RECEIPTS,
        [r.chain for r in values],
        [r.sequence for r in values],
        [r.envelope for r in values],
        [r.body_hash for r in values],
        [r.tenant for r in values],
        [r.request_id for r in values],
        [r.time for r in values],
        [r.decision for r in values],
        [r.code for r in values],
    )
    hashes = {key: row.body_hash for key, row in rows.items()}
    if len(inserted) != len(values):
        mine = {(row[0], row[1]) for row in inserted}
        lost = [key for key in rows if key not in mine]
        for row in await connection.fetch(_STORED_RECEIPTS, [key[0] for key in lost], [key[1] for key in lost]):
            hashes[row["chain"], row["sequence"]] = row["body_hash"]
    return hashes


async def _insert_records(connection: asyncpg.Connection, rows: Sequence[RecordRow]) -> None:
    by_key = {row.header.key_id: row.header for row in rows}
    headers = [by_key[key_id] for key_id in sorted(by_key)]  # in one order, so that two writers cannot block each other
    await connection.execute(
        _KEYS,
        [h.key_id for h in headers],
        [h.tenant for h in headers],
        [h.public_key for h in headers],
        [str(h.algorithm) for h in headers],
        [str(h.kind) for h in headers],
        [msgspec.json.encode(h.labels).decode() for h in headers],
        [h.state.replace("-", "_") for h in headers],
        [_address(h) for h in headers],
        [h.delete_after for h in headers],
    )
    made = await connection.fetch(
        _ENVELOPES,
        [row.header.key_id for row in rows],
        [row.header.node_id for row in rows],
        [row.header.version for row in rows],
        [str(row.header.kind) for row in rows],
        [row.record.header for row in rows],
        [to_base64(row.record.ciphertext_blob) for row in rows],
        [to_base64(row.record.data_key_ciphertext) for row in rows],
        [row.header.kms_key_arn for row in rows],
    )
    stand = {(one["key_id"], one["node_id"], one["version"]): one["ciphertext_blob"] for one in made}
    if any(
        stand.get((row.header.key_id, row.header.node_id, row.header.version)) != to_base64(row.record.ciphertext_blob)
        for row in rows
    ):
        deleted = await connection.fetchval(_ANY_DELETED, [h.key_id for h in headers])
        raise _LostError(bool(deleted))
    recoverable = [row for row in rows if row.recovery]
    if recoverable:
        await connection.execute(
            _RECOVERY,
            [row.header.key_id for row in recoverable],
            [row.header.node_id for row in recoverable],
            [row.header.version for row in recoverable],
            [row.recovery for row in recoverable],
        )
