"""A database beside what was noted of it elsewhere: the manifest of a backup, and the checkpoints of the second copy.

A chain that ends early fits together as well as a whole one; only something from outside shows that it was cut. The
same goes for a database that was put back to an earlier day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import asyncpg

from adytum.backup import facts
from adytum.backup.findings import Finding, Lack
from adytum.backup.manifest import BackupManifest, PolicyHead
from adytum_verify.checkpoints import verify_checkpoint
from adytum_wire.checkpoints import CheckpointBody, parse_checkpoint, parse_checkpoint_envelope
from adytum_wire.errors import AdytumError

# Rows that a service may remove by itself while it runs.
_PASSING = ("pending_requests", "enclave_reports", "attestations", "job_batches", "recovery_envelopes", "key_envelopes")


async def with_manifest(connection: asyncpg.Connection, manifest: BackupManifest, *, exactly: bool) -> list[Finding]:
    """`exactly`: right after the restore every table has as many rows as were counted; later it has at least those
    that are never removed."""
    found = []
    rows = await facts.row_counts(connection)
    for table, count in sorted(manifest.rows.items()):
        here = rows.get(table, 0)
        passing = table in _PASSING or "." in table
        if here != count if exactly else here < count and not passing:
            found.append(Finding(lack=Lack.ROWS, subject=table, count=abs(count - here), expected=count, found=here))
    stored = {head.chain: head for head in await facts.heads(connection)}
    for head in manifest.chains:
        mine = stored.get(head.chain)
        found += await _ends(connection, head.chain, head.sequence, head.link, 0 if mine is None else mine.sequence)
    found += _policies(manifest, await facts.policies(connection))
    found += older_usage({u.tenant: u.version for u in manifest.usage}, await stored_usage(connection))
    return found


async def with_checkpoints(
    connection: asyncpg.Connection, envelopes: Iterable[bytes], keys: Mapping[str, bytes]
) -> list[Finding]:
    """The newest checkpoint that is held of each chain. `keys`: attested receipt keys by chain; with one, a checkpoint
    must be signed by it. A chain that is not in the database at all has only the second copy's word, and is named."""
    newest: dict[str, CheckpointBody] = {}
    found = []
    for envelope in envelopes:
        try:
            body = parse_checkpoint(parse_checkpoint_envelope(envelope).body.encode())
            if body.chain in keys:
                verify_checkpoint(envelope, receipt_key=keys[body.chain])
        except AdytumError as error:
            found.append(Finding(lack=Lack.CHECKPOINT_FORGED, subject="(second copy)", detail=error.field))
            continue
        if body.chain not in newest or newest[body.chain].sequence < body.sequence:
            newest[body.chain] = body
    rows = await connection.fetch("SELECT chain, max(sequence) AS sequence FROM receipts GROUP BY chain")
    stored = {row["chain"]: int(row["sequence"]) for row in rows}
    for chain, body in sorted(newest.items()):
        if body.sequence:
            found += await _ends(connection, chain, body.sequence, body.head, stored.get(chain, 0))
    return found


async def _ends(connection: asyncpg.Connection, chain: str, sequence: int, link: str, last: int) -> list[Finding]:
    """`sequence`, `link`: where the chain stood, as was noted elsewhere. `last`: the newest that is stored."""
    if last < sequence:
        lack = Lack.CHAIN_SHORT if last else Lack.CHAIN_MISSING
        return [Finding(lack=lack, subject=chain, count=sequence - last, expected=sequence, found=last)]
    here = await facts.link_at(connection, chain, sequence)
    if here is None:
        return [Finding(lack=Lack.CHAIN_GAP, subject=chain, expected=sequence, found=last)]
    return [] if here == link else [Finding(lack=Lack.CHAIN_DIFFERENT, subject=chain, expected=sequence)]


def _policies(manifest: BackupManifest, stored: Iterable[PolicyHead]) -> Iterator[Finding]:
    mine = {head.tenant: head for head in stored}
    for head in manifest.policies:
        have = mine.get(head.tenant)
        if have is None or have.version < head.version:
            version = 0 if have is None else have.version
            yield Finding(lack=Lack.POLICY_OLDER, subject=head.tenant, expected=head.version, found=version)
        elif have.version == head.version and have.digest != head.digest:
            yield Finding(lack=Lack.POLICY_DIFFERENT, subject=head.tenant, expected=head.version, found=have.version)


async def stored_usage(connection: asyncpg.Connection) -> dict[str, int]:
    return {head.tenant: head.version for head in await facts.usage(connection)}


def older_usage(known: Mapping[str, int], stored: Mapping[str, int]) -> list[Finding]:
    """`known`: the newest snapshot's version of each tenant, as the anchor or a manifest has it."""
    return [
        Finding(lack=Lack.USAGE_OLDER, subject=tenant, expected=version, found=stored.get(tenant, 0))
        for tenant, version in sorted(known.items())
        if stored.get(tenant, 0) < version
    ]
