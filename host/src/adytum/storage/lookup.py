"""The read before the enclave: is the request stored, and which record does it name? One query for all that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adytum.storage.coalescer import Coalescer
from adytum.storage.database import Database
from adytum.storage.rows import RequestRow, record_of
from adytum_wire.errors import AdytumError
from adytum_wire.record import Record

MAX_BATCH = 256

# LATERAL with LIMIT keeps the plan at index look-ups, whatever the statistics say about a young table.
_QUERY = """
SELECT q.n, r.body_hash, r.stamp_key, r.operation, r.result, r.receipt, r.code, r.field,
       e.header, e.ciphertext_blob, e.data_key_ciphertext
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS q(tenant, request_id, key_id, n)
LEFT JOIN LATERAL (
    SELECT s.body_hash, s.stamp_key, s.operation, s.result, c.envelope AS receipt, s.code, s.field
    FROM requests s JOIN receipts c ON c.chain = s.receipt_chain AND c.sequence = s.receipt_sequence
    WHERE s.tenant = q.tenant AND s.request_id = q.request_id LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT header, ciphertext_blob, data_key_ciphertext FROM key_envelopes k
    WHERE k.key_id = q.key_id ORDER BY version DESC LIMIT 1
) e ON true
"""


@dataclass(frozen=True, slots=True)
class Question:
    """`key_id` is "" when the body names no record."""

    tenant: str
    request_id: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """`request`: the stored answer. `record`: the latest version of the record that the body names."""

    request: RequestRow | None
    record: Record | None


class Lookup:
    """Answers questions in batches, over at most two connections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._coalescer: Coalescer[Question, Found] = Coalescer(self._flush, max_items=MAX_BATCH, workers=2)

    async def find(self, question: Question) -> Found:
        """Errors: STORAGE_UNAVAILABLE; RECORD_INVALID when the stored columns are not base64."""
        return await self._coalescer.submit(question)

    async def close(self) -> None:
        await self._coalescer.close()

    async def _flush(self, questions: Sequence[Question]) -> Sequence[Found | BaseException]:
        rows = await self._database.fetch(
            _QUERY,
            [q.tenant for q in questions],
            [q.request_id for q in questions],
            [q.key_id for q in questions],
        )
        found: list[Found | BaseException] = [Found(None, None)] * len(questions)
        for row in rows:
            n = row["n"] - 1
            question = questions[n]
            request = None
            if row["body_hash"] is not None:
                request = RequestRow(
                    tenant=question.tenant,
                    request_id=question.request_id,
                    body_hash=row["body_hash"],
                    stamp_key=row["stamp_key"],
                    operation=row["operation"],
                    result=row["result"],
                    receipt=row["receipt"],
                    code=row["code"],
                    field=row["field"],
                )
            try:
                record = None
                if row["header"] is not None:
                    record = record_of(row["header"], row["ciphertext_blob"], row["data_key_ciphertext"])
                found[n] = Found(request, record)
            except AdytumError as error:
                found[n] = error
        return found
