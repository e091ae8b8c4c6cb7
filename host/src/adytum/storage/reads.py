"""The cold reads and small writes: keys, policies, receipts, requests, enclaves. Plain SQL, one function a question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from adytum.storage.database import Database
from adytum.storage.rows import RequestRow
from adytum_wire.binding import Binding
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

MAX_PAGE = 1000


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the API shows it. Times are RFC 3339. `version` is 0 when no record is stored. `address`: EIP-55, of
    secp256k1 keys. `deletion_date`: set while the deletion is pending; from then on the key can be deleted."""

    key_id: str
    tenant: str
    public_key: str
    algorithm: str
    kind: str
    status: str
    labels: list[str]
    address: str
    version: int
    kms_key_id: str
    created_at: datetime
    updated_at: datetime
    deletion_date: datetime | None


_KEYS = """
SELECT k.key_id, k.tenant, k.public_key, k.algorithm, k.kind, k.status, k.labels::text AS labels, k.address,
       k.created_at, k.updated_at, k.deletion_date,
       coalesce(e.version, 0) AS version, coalesce(e.kms_key_id, '') AS kms_key_id
FROM keys k LEFT JOIN LATERAL (
    SELECT version, kms_key_id FROM key_envelopes x WHERE x.key_id = k.key_id ORDER BY version DESC LIMIT 1
) e ON true
"""


# Each by an index of its own, which an OR over all three would not use.
_NAMED = """
 AND k.key_id IN (
    SELECT key_id FROM keys WHERE key_id = {same}
    UNION ALL SELECT key_id FROM keys WHERE public_key <> '' AND public_key = {same}
    UNION ALL SELECT key_id FROM keys WHERE address <> '' AND address = {same}
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """What a list of keys is narrowed to; empty means any. `named`: a key id, a public key or an address, whole.
    `due`: only those whose waiting period is over."""

    status: str = ""
    label: str = ""
    kind: str = ""
    algorithm: str = ""
    named: str = ""
    due: bool = False


EVERY_KEY: Final = KeyFilter()


async def list_keys(
    database: Database, tenant: str, *, after: str, limit: int, only: KeyFilter = EVERY_KEY
) -> list[KeyView]:
    """At most `limit` keys of `tenant` whose id is greater than `after`, in order of id."""
    arguments: list[object] = [tenant, after, limit]
    query = _KEYS + "WHERE k.tenant = $1 AND k.key_id > $2"
    for column, value in (("status", only.status), ("kind", only.kind), ("algorithm", only.algorithm)):
        if value:
            arguments.append(value)
            query += f" AND k.{column} = ${len(arguments)}"
    if only.label:
        arguments.append(msgspec.json.encode([only.label]).decode())
        query += f" AND k.labels @> ${len(arguments)}::jsonb"
    if only.named:
        arguments.append(only.named)
        same = f"${len(arguments)}"
        query += _NAMED.format(same=same)
    if only.due:
        query += " AND k.status = 'pending_deletion' AND k.deletion_date <= now()"
    query += " ORDER BY k.key_id LIMIT $3"
    async with database.connection() as connection:
        if not (only.label or only.status or only.due):
            return [_key(row) for row in await connection.fetch(query, *arguments)]
        # Whether to go by the filter or by the order depends on how many keys pass it: planned for this one's value.
        async with connection.transaction():
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            return [_key(row) for row in await connection.fetch(query, *arguments)]


async def get_key(database: Database, key_id: str) -> KeyView:
    """Errors: NOT_FOUND."""
    rows = await database.fetch(_KEYS + "WHERE k.key_id = $1", key_id)
    if not rows:
        raise AdytumError(Code.NOT_FOUND)
    return _key(rows[0])


def _key(row: asyncpg.Record) -> KeyView:
    values = dict(row.items())
    values["labels"] = msgspec.json.decode(values["labels"])
    return KeyView(**values)


async def get_request(database: Database, tenant: str, request_id: str) -> RequestRow:
    """Errors: NOT_FOUND."""
    rows = await database.fetch(
        "SELECT r.tenant, r.request_id, r.body_hash, r.stamp_key, r.operation, r.result, c.envelope AS receipt, r.code,"
        " r.field FROM requests r JOIN receipts c ON c.chain = r.receipt_chain AND c.sequence = r.receipt_sequence"
        " WHERE r.tenant = $1 AND r.request_id = $2",
        tenant,
        request_id,
    )
    if not rows:
        raise AdytumError(Code.NOT_FOUND)
    return RequestRow(**dict(rows[0].items()))


# --- policies


async def put_policy(database: Database, tenant: str, version: int, envelope: bytes, digest: bytes) -> None:
    """Store a policy that the enclave has accepted. The same version again is a no-op: the enclave keeps one digest."""
    await database.execute(
        "INSERT INTO policies (tenant, version, envelope, digest) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        tenant,
        version,
        envelope,
        digest,
    )


async def newest_policies(database: Database) -> list[tuple[str, int, bytes]]:
    """(tenant, version, envelope) of each tenant's newest policy."""
    rows = await database.fetch(
        "SELECT DISTINCT ON (tenant) tenant, version, envelope FROM policies ORDER BY tenant, version DESC"
    )
    return [(row["tenant"], row["version"], row["envelope"]) for row in rows]


async def newest_policy(database: Database, tenant: str) -> tuple[int, bytes, bytes]:
    """(version, envelope, digest). Errors: NOT_FOUND."""
    rows = await database.fetch(
        "SELECT version, envelope, digest FROM policies WHERE tenant = $1 ORDER BY version DESC LIMIT 1", tenant
    )
    if not rows:
        raise AdytumError(Code.NOT_FOUND)
    return rows[0]["version"], rows[0]["envelope"], rows[0]["digest"]


# --- receipts and the enclaves that signed them


async def list_receipts(database: Database, chain: str, *, after: int, limit: int) -> list[tuple[int, bytes]]:
    """(sequence, envelope bytes) in order, from the first sequence greater than `after`."""
    rows = await database.fetch(
        "SELECT sequence, envelope FROM receipts WHERE chain = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        chain,
        after,
        limit,
    )
    return [(row["sequence"], row["envelope"]) for row in rows]


class ChainView(msgspec.Struct, frozen=True, kw_only=True):
    chain: str
    build: str
    receipt_key: str
    manifest_hash: str
    first_seen: datetime
    last_seen: datetime
    receipts: int


async def list_chains(database: Database) -> list[ChainView]:
    """The enclaves that were verified, oldest first, with the highest receipt stored for each."""
    rows = await database.fetch(
        "SELECT e.chain, e.build, e.receipt_key, e.manifest_hash, e.first_seen, e.last_seen,"
        " coalesce((SELECT max(sequence) FROM receipts r WHERE r.chain = e.chain), 0) AS receipts"
        " FROM enclaves e ORDER BY e.first_seen, e.chain"
    )
    return [ChainView(**dict(row.items())) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttestation:
    document: bytes
    binding: bytes
    verified_at: int  # ms, host clock


async def put_attestation(database: Database, binding: Binding, stored: StoredAttestation) -> None:
    """Remember a verified document: the first of its boot, which covers the chain from its start, and the newest."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO enclaves (chain, build, receipt_key, manifest_hash) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (chain) DO UPDATE SET last_seen = now()",
            binding.boot_id,
            binding.build,
            binding.receipt_key,
            binding.manifest_hash,
        )
        await connection.execute(
            "INSERT INTO attestations (chain, digest, document, binding, verified_at) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT DO NOTHING",
            binding.boot_id,
            sha256(stored.document),
            stored.document,
            stored.binding,
            stored.verified_at,
        )
        await connection.execute(
            "DELETE FROM attestations WHERE chain = $1 AND verified_at NOT IN ("
            " SELECT min(verified_at) FROM attestations WHERE chain = $1"
            " UNION ALL SELECT max(verified_at) FROM attestations WHERE chain = $1)",
            binding.boot_id,
        )


async def get_attestation(database: Database, chain: str) -> StoredAttestation:
    """The first verified document of a boot. Errors: NOT_FOUND."""
    rows = await database.fetch(
        "SELECT document, binding, verified_at FROM attestations WHERE chain = $1 ORDER BY verified_at LIMIT 1", chain
    )
    if not rows:
        raise AdytumError(Code.NOT_FOUND)
    return StoredAttestation(
        document=rows[0]["document"], binding=rows[0]["binding"], verified_at=rows[0]["verified_at"]
    )
