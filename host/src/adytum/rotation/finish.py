"""The end of a rotation: the enclave's statement, then the old ciphertext is removed.

Removed is only what the policy and the manifest in force keep every enclave from using: an older version of a record
that has a newer one, below the floor or under a KMS key that the manifest no longer lists. The rest stays.

What this cannot do: backups and the write-ahead log keep what they have. The floor is what protects from those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from adytum.client.checks import Answer
from adytum.rotation import job as jobs
from adytum.rotation.errors import RotationCode, RotationError
from adytum.rotation.job import Job
from adytum.rotation.plan import PAGE, Target, is_stale, pages, read_header
from adytum.rotation.worker import Resealer
from adytum.storage.database import Database
from adytum_wire.errors import AdytumError
from adytum_wire.requests import RotationStatement
from adytum_wire.results import RotationStatementResult
from adytum_wire.strict_json import encode

_OLDER: Final = """
SELECT e.key_id, e.node_id, e.version, e.kms_key_id, e.header
FROM key_envelopes e JOIN keys k USING (key_id)
WHERE k.tenant = $1 AND (e.key_id, e.node_id, e.version) > ($2, $3, $4)
  AND e.version < (SELECT max(version) FROM key_envelopes x WHERE x.key_id = e.key_id AND x.node_id = e.node_id)
ORDER BY e.key_id, e.node_id, e.version LIMIT $5
"""
_REMOVE: Final = """
DELETE FROM key_envelopes e USING unnest($1::text[], $2::text[], $3::bigint[]) AS q(key_id, node_id, version)
WHERE e.key_id = q.key_id AND e.node_id = q.node_id AND e.version = q.version RETURNING 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """`statement`: what the enclave said, verified. `shredded`: versions that were removed."""

    job: Job
    statement: RotationStatementResult
    shredded: int


async def finish(database: Database, client: Resealer, job_id: str, target: Target, *, issued_at: int) -> Finished:
    """`target`: by the policy and the manifest in force now. Errors: RotationError STATE (only a complete job), FLOOR,
    LEFT, STATEMENT; what the enclave refuses. Nothing was removed then; say it again."""
    job = await jobs.get(database, job_id)
    if job.state not in ("complete", "finished"):
        raise RotationError(RotationCode.STATE, job.state)
    if target.min_generation < job.generation:
        raise RotationError(RotationCode.FLOOR, f"min_generation {target.min_generation}, not {job.generation}")
    await _require_nothing_left(database, target)
    request_id = f"{job_id}-{issued_at}"
    body = encode(RotationStatement(v=1, tenant=job.tenant, request_id=request_id, issued_at=issued_at))
    answer = await client.repeat(body)
    statement = _statement(answer, job)
    await database.execute(
        "UPDATE jobs SET statement = $2, statement_body = $3, statement_receipt = $4 WHERE id = $1",
        job_id,
        answer.result_bytes,
        body,
        answer.receipt_bytes,
    )
    shredded = 0
    async with database.connection() as connection:
        place = ("", "", 0)
        while rows := await connection.fetch(_OLDER, job.tenant, *place, PAGE):
            place = (rows[-1]["key_id"], rows[-1]["node_id"], rows[-1]["version"])
            dead = [row for row in rows if _is_refused(row, statement.min_generation, target)]
            async with connection.transaction():
                removed = await connection.fetch(
                    _REMOVE,
                    [row["key_id"] for row in dead],
                    [row["node_id"] for row in dead],
                    [row["version"] for row in dead],
                )
                await connection.execute("UPDATE jobs SET shredded = shredded + $2 WHERE id = $1", job_id, len(removed))
            shredded += len(removed)
    await database.execute("UPDATE jobs SET state = 'finished', changed_at = clock_timestamp() WHERE id = $1", job_id)
    return Finished(job=await jobs.get(database, job_id), statement=statement, shredded=shredded)


def _statement(answer: Answer, job: Job) -> RotationStatementResult:
    said = answer.result
    if not isinstance(said, RotationStatementResult) or said.tenant != job.tenant:
        raise RotationError(RotationCode.STATEMENT, "operation")
    if said.min_generation < job.generation:  # the enclave has an older policy than the database
        raise RotationError(RotationCode.STATEMENT, f"min_generation {said.min_generation}")
    if said.kms_key_arn != job.kms_key_id:
        raise RotationError(RotationCode.STATEMENT, "kms_key_arn")
    return said


def _is_refused(row: asyncpg.Record, floor: int, target: Target) -> bool:
    """True when no enclave of this policy and manifest uses that version. One that cannot be read stays: whoever
    looks into a defect needs it."""
    try:
        generation = read_header(row["header"]).generation
    except AdytumError:
        return False
    return generation < floor or row["kms_key_id"] not in target.kms_keys


async def _require_nothing_left(database: Database, target: Target) -> None:
    left = 0
    async with database.connection() as connection:
        async for page in pages(connection, target.tenant):
            left += sum(found.generation < target.min_generation or is_stale(found, target) for found in page)
    if left:
        raise RotationError(RotationCode.LEFT, str(left))
