"""Every stored chain of receipts, verified by `adytum_verify` against its stored attestation, and what it says of the
other tables: a key that was used was stored, and a policy that was in force too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from adytum.backup.findings import Finding, Lack, older_policies
from adytum_verify import AllowList, Anchor, AttestationError, ChainVerifier, verify_archived_enclave
from adytum_wire.errors import AdytumError
from adytum_wire.receipts import Receipt, parse_envelope, parse_receipt

_PAGE: Final = 1000
_MAX_SHOWN: Final = 100  # findings of one sort; the count says how many there are
# These read a record that the host had taken out of this database.
_USING: Final = frozenset({"sign", "sign-raw", "unseal", "derive_key", "export"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose receipts are believed: enclaves of these images, under these roots."""

    expected: AllowList
    anchors: tuple[Anchor, ...]


@dataclass(slots=True)
class Verified:
    """`keys`: the attested receipt key of each chain that has one. `receipts`: how many fit."""

    findings: list[Finding] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    receipts: int = 0
    _used: dict[str, int] = field(default_factory=dict)
    _policies: dict[str, int] = field(default_factory=dict)

    def note(self, receipt: Receipt) -> None:
        if receipt.tenant:
            self._policies[receipt.tenant] = max(self._policies.get(receipt.tenant, 0), receipt.policy_version)
        if receipt.decision == "allow" and receipt.operation in _USING and receipt.key_id:
            self._used[receipt.key_id] = max(self._used.get(receipt.key_id, 0), receipt.record_version)

    async def compare(self, connection: asyncpg.Connection) -> None:
        """What the receipts mention, with what the other tables have."""
        self.findings += await older_policies(connection, self._policies.items())
        self.findings += await older_records(connection, self._used)


async def verify(connection: asyncpg.Connection, trust: Trust | None) -> Verified:
    """Without `trust` each chain is verified by the key that the database names, which proves order and not origin.
    Run it in one transaction. Errors: the driver's."""
    verified = Verified()
    names = await connection.fetch("SELECT chain FROM receipts GROUP BY chain ORDER BY chain")
    for chain in [row["chain"] for row in names]:
        key = await _key(connection, chain, trust)
        if key is None:
            verified.findings.append(Finding(lack=Lack.CHAIN_UNATTESTED, subject=chain))
        else:
            if trust is not None:
                verified.keys[chain] = key
            await _walk(connection, chain, key, verified)
    await verified.compare(connection)
    return verified


async def _key(connection: asyncpg.Connection, chain: str, trust: Trust | None) -> bytes | None:
    if trust is None:
        named = await connection.fetchval("SELECT receipt_key FROM enclaves WHERE chain = $1", chain)
        return bytes.fromhex(named) if named else None
    row = await connection.fetchrow(
        "SELECT document, binding FROM attestations WHERE chain = $1 ORDER BY verified_at LIMIT 1", chain
    )
    if row is None:
        return None
    try:
        enclave = verify_archived_enclave(
            row["document"], row["binding"], expected=trust.expected, anchors=trust.anchors
        )
    except (AdytumError, AttestationError):
        return None
    return bytes.fromhex(enclave.binding.receipt_key) if enclave.binding.boot_id == chain else None


async def _walk(connection: asyncpg.Connection, chain: str, key: bytes, verified: Verified) -> None:
    verifier = ChainVerifier(receipt_key=key, chain=chain)
    async for position, envelope in _rows(connection, chain):
        if verifier.take(envelope, position) is not None:
            break
        verified.note(parse_receipt(parse_envelope(envelope).body.encode()))
        verified.receipts += 1
    problem = verifier.report().problem
    if problem is not None:
        found = Finding(lack=Lack.CHAIN_BROKEN, subject=chain, expected=problem.sequence, detail=problem.defect.value)
        verified.findings.append(found)


async def _rows(connection: asyncpg.Connection, chain: str) -> AsyncIterator[tuple[int, bytes]]:
    position = after = 0
    while True:
        rows = await connection.fetch(
            "SELECT sequence, envelope FROM receipts WHERE chain = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
            chain,
            after,
            _PAGE,
        )
        for row in rows:
            position += 1
            yield position, row["envelope"]
        if len(rows) < _PAGE:
            return
        after = rows[-1]["sequence"]


async def older_records(connection: asyncpg.Connection, used: dict[str, int]) -> list[Finding]:
    """Keys that were used (key id to the highest version) and are missing, or stored in an older version only."""
    keys: Sequence[str] = sorted(used)
    rows = await connection.fetch(
        "SELECT u.key_id, k.status, max(e.version) AS version FROM unnest($1::text[]) AS u(key_id)"
        " LEFT JOIN keys k USING (key_id) LEFT JOIN key_envelopes e USING (key_id) GROUP BY u.key_id, k.status"
        " ORDER BY u.key_id",
        keys,
    )
    found = []
    for row in rows:
        stored, version = row["version"] or 0, used[row["key_id"]]
        if stored < version and row["status"] != "deleted":
            lack = Lack.RECORD_OLDER if stored else Lack.RECORD_MISSING
            found.append(Finding(lack=lack, subject=row["key_id"], expected=version, found=stored))
    if len(found) > _MAX_SHOWN:
        more = len(found) - _MAX_SHOWN
        found = [*found[:_MAX_SHOWN], Finding(lack=found[_MAX_SHOWN].lack, subject="(and more keys)", count=more)]
    return found
