"""What is wanted, and which records do not have it yet. Reads only: this is also the dry run.

Policy and headers are read here as the host reads everything: to look things up. The enclave judges both again.

    target = await read_target(database, "acme", manifest)
    async for page in stale_pages(database, target, Selection()): ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import asyncpg
import msgspec

from adytum.client.policy import read_policy
from adytum.rotation.errors import RotationCode, RotationError
from adytum.storage.database import Database
from adytum.storage.reads import newest_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import parse_manifest

PAGE: Final = 2000  # keys
KMS_CALLS: Final = 2  # a record: Decrypt, GenerateDataKey
ASSUMED_RATE: Final = 100.0  # records a second, where nothing better is known

# The newest version of each key. LATERAL keeps it at index look-ups.
_PAGE: Final = """
SELECT k.key_id, e.version, e.kms_key_id, e.header
FROM keys k JOIN LATERAL (
    SELECT version, kms_key_id, header FROM key_envelopes x WHERE x.key_id = k.key_id ORDER BY version DESC LIMIT 1
) e ON true
WHERE k.tenant = $1 AND k.key_id > $2 ORDER BY k.key_id LIMIT $3
"""


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of the stale records; all conditions that are set must hold. `kms_key`: sealed under it now.
    `below_generation`: 0 for the policy's. `label`: one of its labels."""

    kms_key: str = ""
    below_generation: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What each record of `tenant` is to have. `kms_keys`: those that the enclave opens records under.
    `request_past_ms`: how old a request may be."""

    tenant: str
    generation: int
    min_generation: int
    policy_version: int
    kms_key: str
    kms_keys: tuple[str, ...]
    request_past_ms: int


@dataclass(frozen=True, slots=True)
class Found:
    """The newest version of a record, as the host reads its header."""

    key_id: str
    version: int
    kms_key: str
    generation: int
    state: str
    kind: str
    labels: tuple[str, ...]


class _Header(msgspec.Struct):
    generation: int
    state: str
    kind: str
    labels: tuple[str, ...]


_header = msgspec.json.Decoder(_Header)


def read_header(header: bytes) -> _Header:
    """Errors: RECORD_INVALID."""
    try:
        return _header.decode(header)
    except (msgspec.DecodeError, UnicodeError):
        raise AdytumError(Code.RECORD_INVALID) from None


async def read_target(database: Database, tenant: str, manifest: bytes | None) -> Target:
    """Errors: RotationError POLICY, MANIFEST; STORAGE_UNAVAILABLE."""
    if manifest is None:
        raise RotationError(RotationCode.MANIFEST, "tee.manifestFile")
    parsed = parse_manifest(manifest)
    mine = next((one for one in parsed.tenants if one.id == tenant), None)
    if mine is None:
        raise RotationError(RotationCode.MANIFEST, "tenant")
    try:
        _, envelope, _ = await newest_policy(database, tenant)
        policy = read_policy(envelope)[1]
    except AdytumError as error:
        if error.code in (Code.NOT_FOUND, Code.POLICY_INVALID):
            raise RotationError(RotationCode.POLICY, error.code.value) from None
        raise
    return Target(
        tenant=tenant,
        generation=policy.generation,
        min_generation=policy.min_generation,
        policy_version=policy.version,
        kms_key=mine.kms_key,
        kms_keys=tuple(parsed.kms.keys),
        request_past_ms=parsed.bounds.request_past_ms,
    )


def check_selection(selection: Selection, target: Target) -> None:
    """Errors: RotationError SELECTION."""
    if selection.kms_key == target.kms_key:
        raise RotationError(RotationCode.SELECTION, "the tenant's own KMS key")
    if selection.below_generation > target.generation:
        raise RotationError(RotationCode.SELECTION, f"the policy says generation {target.generation}")


def is_stale(found: Found, target: Target) -> bool:
    """True when a reseal under the policy and the manifest in force would change its generation or its KMS key."""
    return found.generation < target.generation or found.kms_key != target.kms_key


def is_selected(found: Found, target: Target, selection: Selection) -> bool:
    return (
        is_stale(found, target)
        and selection.kms_key in ("", found.kms_key)
        and (not selection.below_generation or found.generation < selection.below_generation)
        and (not selection.label or selection.label in found.labels)
    )


async def pages(connection: asyncpg.Connection, tenant: str) -> AsyncIterator[list[Found]]:
    """All records of the tenant that have an envelope, by key id. A header that nobody can read is generation 0: the
    reseal will say what is wrong with it."""
    after = ""
    while rows := await connection.fetch(_PAGE, tenant, after, PAGE):
        yield [_found(row) for row in rows]
        after = rows[-1]["key_id"]


def _found(row: asyncpg.Record) -> Found:
    try:
        header = read_header(row["header"])
    except AdytumError:
        return Found(row["key_id"], row["version"], row["kms_key_id"], 0, "unreadable", "unreadable", ())
    return Found(
        row["key_id"],
        row["version"],
        row["kms_key_id"],
        header.generation,
        header.state,
        header.kind,
        header.labels,
    )


@dataclass(slots=True, kw_only=True)
class Inventory:
    """How many records there are by what they have, and how many a job with this selection would reseal."""

    total: int = 0
    needed: int = 0
    by_generation: Counter[int]
    by_version: Counter[int]
    by_kms_key: Counter[str]
    by_kind: Counter[str]
    by_state: Counter[str]


async def take_inventory(database: Database, target: Target, selection: Selection) -> Inventory:
    """Count. Changes nothing. Errors: RotationError SELECTION, STORAGE_UNAVAILABLE."""
    check_selection(selection, target)
    counts = Inventory(
        by_generation=Counter(), by_version=Counter(), by_kms_key=Counter(), by_kind=Counter(), by_state=Counter()
    )
    async with database.connection() as connection:
        async for page in pages(connection, target.tenant):
            for found in page:
                counts.total += 1
                counts.needed += is_selected(found, target, selection)
                counts.by_generation[found.generation] += 1
                counts.by_version[found.version] += 1
                counts.by_kms_key[found.kms_key] += 1
                counts.by_kind[found.kind] += 1
                counts.by_state[found.state] += 1
    return counts


def described(counts: Inventory, target: Target, *, rate: float) -> dict[str, object]:
    """For programs. `rate`: records a second that are expected."""
    return {
        "tenant": target.tenant,
        "target": {
            "generation": target.generation,
            "kms_key": target.kms_key,
            "min_generation": target.min_generation,
            "policy_version": target.policy_version,
        },
        "records": counts.total,
        "needed": counts.needed,
        "kms_calls": KMS_CALLS * counts.needed,
        "expected_seconds": round(counts.needed / rate),
        "expected_rate": rate,
        "by_generation": {str(name): count for name, count in sorted(counts.by_generation.items())},
        "by_version": {str(name): count for name, count in sorted(counts.by_version.items())},
        "by_kms_key": dict(sorted(counts.by_kms_key.items())),
        "by_kind": dict(sorted(counts.by_kind.items())),
        "by_state": dict(sorted(counts.by_state.items())),
    }
