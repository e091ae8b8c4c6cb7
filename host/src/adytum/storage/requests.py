"""Requests that wait for approvals, and the approvals: plain SQL, one function a question.

Two rows a request: the one in `requests` says how it stands, and the enclave's answers change it (`batcher`); the one
in `pending_requests` keeps what is needed to ask again. Whoever carries a pending request to the enclave, cancels it or
lets it expire locks the second row first, so that only one of them does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from adytum.storage.database import Database
from adytum.storage.rows import PENDING, RequestRow
from adytum.storage.schema import REQUEST_STATES
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code

MAX_PAGE: Final = 100
MAX_APPROVALS_EACH: Final = 8  # of one person about one request
CLAIM_S: Final = 10.0  # renewed while the request is carried: a host that dies holds it no longer than this
_RETRY_S: Final = 2.0  # the first time, then doubled
_MAX_RETRY_S: Final = 300.0

_approval = msgspec.msgpack.Decoder(Approval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """`stamp`: MessagePack. `considered`: how many approvals were weighed when it was last looked at. `is_claimed`:
    somebody carries it to the enclave now. Times in ms."""

    body: bytes
    stamp: bytes
    issued_at: int
    expires_at: int
    considered: int
    last_code: str
    is_claimed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredApproval:
    """`principal`: whose it was by the policy that was in force when it came."""

    principal: str
    digest: bytes
    decision: str
    policy_version: int
    issued_at: int
    expires_at: int
    approval: Approval


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """`waiting`: None for a request that never waited."""

    row: RequestRow
    created_at: datetime
    waiting: Waiting | None
    approvals: tuple[StoredApproval, ...]


_REQUEST = """
SELECT r.tenant, r.request_id, r.body_hash, r.stamp_key, r.operation, r.result, c.envelope AS receipt, r.code, r.field,
       r.created_at, p.body, p.stamp, p.issued_at, p.expires_at, p.considered, p.last_code,
       (p.claim <> '' AND p.claimed_until > now()) AS is_claimed
FROM requests r JOIN receipts c ON c.chain = r.receipt_chain AND c.sequence = r.receipt_sequence
LEFT JOIN pending_requests p ON p.tenant = r.tenant AND p.request_id = r.request_id
"""
_APPROVALS = """
SELECT request_id, principal, digest, decision, policy_version, issued_at, expires_at, approval FROM approvals
WHERE tenant = $1 AND request_id = ANY($2::text[]) ORDER BY created_at, digest
"""
_REQUEST_COLUMNS = (
    "tenant", "request_id", "body_hash", "stamp_key", "operation", "result", "receipt", "code", "field",
)  # fmt: skip


async def load(database: Database, tenant: str, request_id: str) -> StoredRequest:
    """Errors: NOT_FOUND."""
    found = await _read(database, _REQUEST + "WHERE r.tenant = $1 AND r.request_id = $2", tenant, request_id)
    if not found:
        raise AdytumError(Code.NOT_FOUND)
    return found[0]


async def page(database: Database, tenant: str, *, state: str, after: str, limit: int) -> list[StoredRequest]:
    """At most `limit` requests of `tenant` whose id is greater than `after`, in order of id. `state`: one of
    `REQUEST_STATES`, or "" for all."""
    # Written out, not an argument: the indexes are partial, and a plan for any state could not use them.
    wanted = f"AND r.state = '{state}'" if state in REQUEST_STATES else ""
    query = f"{_REQUEST} WHERE r.tenant = $1 AND r.request_id > $2 {wanted} ORDER BY r.request_id LIMIT $3"
    return await _read(database, query, tenant, after, limit)


async def _read(database: Database, query: str, tenant: str, *arguments: object) -> list[StoredRequest]:
    async with database.connection() as connection:
        rows = await connection.fetch(query, tenant, *arguments)
        waiting = [row["request_id"] for row in rows if row["body"] is not None]
        given = await connection.fetch(_APPROVALS, tenant, waiting) if waiting else []
    by_request: dict[str, list[StoredApproval]] = {}
    for row in given:
        by_request.setdefault(row["request_id"], []).append(_stored_approval(row))
    return [_stored(row, tuple(by_request.get(row["request_id"], ()))) for row in rows]


def _stored(row: asyncpg.Record, approvals: tuple[StoredApproval, ...]) -> StoredRequest:
    waiting = None
    if row["body"] is not None:
        names = ("body", "stamp", "issued_at", "expires_at", "considered", "last_code", "is_claimed")
        waiting = Waiting(**{name: row[name] for name in names})
    request = RequestRow(**{name: row[name] for name in _REQUEST_COLUMNS})
    return StoredRequest(row=request, created_at=row["created_at"], waiting=waiting, approvals=approvals)


def _stored_approval(row: asyncpg.Record) -> StoredApproval:
    values = dict(row.items())
    del values["request_id"]
    values["approval"] = _approval.decode(values["approval"])
    return StoredApproval(**values)


async def put_approval(database: Database, tenant: str, request_id: str, given: StoredApproval) -> bool:
    """Store an approval of a pending request. True when it is new, False when it is there already.

    Errors: RESOURCE_EXHAUSTED when this person has said enough about the request; REQUEST_CONFLICT when it does not
    wait any more.
    """
    async with database.connection() as connection, connection.transaction():
        known = await connection.fetchval(
            "SELECT 1 FROM approvals WHERE tenant = $1 AND request_id = $2 AND principal = $3 AND digest = $4",
            tenant,
            request_id,
            given.principal,
            given.digest,
        )
        if known:
            return False
        if not await _lock(connection, tenant, request_id):
            raise AdytumError(Code.REQUEST_CONFLICT, "$.state")
        count = await connection.fetchval(
            "SELECT count(*) FROM approvals WHERE tenant = $1 AND request_id = $2 AND principal = $3",
            tenant,
            request_id,
            given.principal,
        )
        if count >= MAX_APPROVALS_EACH:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.approvals")
        added = await connection.fetchval(
            "INSERT INTO approvals (tenant, request_id, principal, digest, approval, decision, policy_version,"
            " issued_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING 1",
            tenant,
            request_id,
            given.principal,
            given.digest,
            msgspec.msgpack.encode(given.approval),
            given.decision,
            given.policy_version,
            given.issued_at,
            given.expires_at,
        )
    return bool(added)


async def _lock(connection: asyncpg.Connection, tenant: str, request_id: str) -> bool:
    """Lock the waiting row to the end of the transaction. True when the request is pending, seen after the lock."""
    await connection.fetchval(
        "SELECT 1 FROM pending_requests WHERE tenant = $1 AND request_id = $2 FOR UPDATE", tenant, request_id
    )
    state = await connection.fetchval(
        "SELECT state FROM requests WHERE tenant = $1 AND request_id = $2", tenant, request_id
    )
    return bool(state == PENDING)


# --- who carries it


async def claim(database: Database, tenant: str, request_id: str, token: str) -> bool:
    """From now on `token` carries the request, for `CLAIM_S` unless `renew`ed. False when it ended, or others do."""
    async with database.connection() as connection, connection.transaction():
        if not await _lock(connection, tenant, request_id):
            return False
        claimed = await connection.fetchval(
            "UPDATE pending_requests SET claim = $3, claimed_until = now() + $4 * interval '1 second'"
            " WHERE tenant = $1 AND request_id = $2 AND (claim = '' OR claimed_until <= now()) RETURNING 1",
            tenant,
            request_id,
            token,
            CLAIM_S,
        )
        return bool(claimed)


async def renew(database: Database, tenant: str, request_id: str, token: str) -> bool:
    """`token` still carries the request: for another `CLAIM_S` from now. False when the claim is over."""
    rows = await database.fetch(
        "UPDATE pending_requests SET claimed_until = now() + $4 * interval '1 second'"
        " WHERE tenant = $1 AND request_id = $2 AND claim = $3 RETURNING 1",
        tenant,
        request_id,
        token,
        CLAIM_S,
    )
    return bool(rows)


async def release(
    database: Database, tenant: str, request_id: str, token: str, *, considered: int, code: str, again: bool
) -> None:
    """End a claim. `code`: what came of it, "" when carried out. `again`: nobody decided; try later, and later."""
    await database.execute(
        "UPDATE pending_requests SET claim = '', claimed_until = NULL, last_code = $5,"
        " considered = CASE WHEN $6 THEN considered ELSE greatest(considered, $4) END,"
        " attempts = CASE WHEN $6 THEN attempts + 1 ELSE 0 END,"
        " retry_at = CASE WHEN $6 THEN now() + least($7 * 2 ^ least(attempts, 16), $8) * interval '1 second' END"
        " WHERE tenant = $1 AND request_id = $2 AND claim = $3",
        tenant,
        request_id,
        token,
        considered,
        code,
        again,
        _RETRY_S,
        _MAX_RETRY_S,
    )


async def note_considered(database: Database, tenant: str, request_id: str, considered: int) -> None:
    """So many approvals were weighed and do not suffice."""
    await database.execute(
        "UPDATE pending_requests SET considered = greatest(considered, $3) WHERE tenant = $1 AND request_id = $2",
        tenant,
        request_id,
        considered,
    )


async def restamp(database: Database, tenant: str, request_id: str, stamp: bytes) -> None:
    """Keep another stamp of the same key: that of a session would not outlive the session."""
    await database.execute(
        "UPDATE pending_requests SET stamp = $3 WHERE tenant = $1 AND request_id = $2", tenant, request_id, stamp
    )


# --- how it ends without the enclave


async def cancel(database: Database, tenant: str, request_id: str) -> bool:
    """True when the request was pending, nobody carried it, and it is cancelled now."""
    async with database.connection() as connection, connection.transaction():
        if not await _lock(connection, tenant, request_id):
            return False
        ended = await connection.fetchval(
            "UPDATE requests r SET state = 'cancelled', code = 'REQUEST_CANCELLED', field = ''"
            " FROM pending_requests p WHERE r.tenant = $1 AND r.request_id = $2 AND r.state = 'pending'"
            " AND p.tenant = r.tenant AND p.request_id = r.request_id AND (p.claim = '' OR p.claimed_until <= now())"
            " RETURNING 1",
            tenant,
            request_id,
        )
        return bool(ended)


async def expire(database: Database, now_ms: int) -> list[tuple[str, str]]:
    """End what has waited too long. (tenant, request id) of each."""
    async with database.connection() as connection, connection.transaction():
        due = await connection.fetch(
            "SELECT p.tenant, p.request_id FROM pending_requests p JOIN requests r USING (tenant, request_id)"
            " WHERE r.state = 'pending' AND p.expires_at < $1 AND (p.claim = '' OR p.claimed_until <= now())"
            " LIMIT 500 FOR UPDATE OF p SKIP LOCKED",
            now_ms,
        )
        if not due:
            return []
        ended = await connection.fetch(
            "UPDATE requests r SET state = 'expired', code = 'REQUEST_EXPIRED', field = '$.issued_at'"
            " FROM unnest($1::text[], $2::text[]) AS q(tenant, request_id)"
            " WHERE r.tenant = q.tenant AND r.request_id = q.request_id AND r.state = 'pending'"
            " RETURNING r.tenant, r.request_id",
            [row["tenant"] for row in due],
            [row["request_id"] for row in due],
        )
    return [(row["tenant"], row["request_id"]) for row in ended]


async def unconsidered(database: Database) -> list[tuple[str, str]]:
    """Pending requests with approvals that nobody has weighed yet: their host stopped, or the enclave was away."""
    rows = await database.fetch(
        "SELECT p.tenant, p.request_id FROM requests r JOIN pending_requests p USING (tenant, request_id)"
        " WHERE r.state = 'pending' AND (p.claim = '' OR p.claimed_until <= now())"
        " AND (p.retry_at IS NULL OR p.retry_at <= now()) AND p.considered <"
        " (SELECT count(*) FROM approvals a WHERE a.tenant = p.tenant AND a.request_id = p.request_id) LIMIT 100"
    )
    return [(row["tenant"], row["request_id"]) for row in rows]
