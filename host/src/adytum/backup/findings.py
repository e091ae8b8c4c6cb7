"""What a database lacks by its own evidence: rows that name others which are not there.

One transaction writes record, request, receipt and usage together, so none of these is ever seen in a whole database.
A restore that took tables from different moments, or somebody's hand, leaves them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import asyncpg


class Lack(StrEnum):
    """Stable codes of findings."""

    ROWS = "ROWS_MISSING"  # fewer rows than the manifest counts
    CHAIN_MISSING = "CHAIN_MISSING"
    CHAIN_SHORT = "CHAIN_SHORT"
    CHAIN_GAP = "CHAIN_GAP"  # numbers within a chain are not there
    CHAIN_DIFFERENT = "CHAIN_DIFFERENT"  # another history than the signed or noted one
    CHAIN_BROKEN = "CHAIN_BROKEN"  # adytum_verify names the record
    CHAIN_UNATTESTED = "CHAIN_UNATTESTED"  # no stored document of an allowed image vouches for its key
    CHECKPOINT_FORGED = "CHECKPOINT_FORGED"  # a second copy holds one that the chain's key did not sign
    POLICY_OLDER = "POLICY_OLDER"
    POLICY_DIFFERENT = "POLICY_DIFFERENT"
    RECORD_OLDER = "RECORD_OLDER"
    RECORD_MISSING = "RECORD_MISSING"
    USAGE_OLDER = "USAGE_OLDER"
    KEY_WITHOUT_RECORD = "KEY_WITHOUT_RECORD"
    RECORD_WITHOUT_KEY = "RECORD_WITHOUT_KEY"
    DELETED_KEY_HAS_RECORD = "DELETED_KEY_HAS_RECORD"
    REQUEST_WITHOUT_RECEIPT = "REQUEST_WITHOUT_RECEIPT"
    ANSWER_WITHOUT_RECORD = "ANSWER_WITHOUT_RECORD"  # a client was told of a record version that is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`subject`: a chain, tenant, key, request or table. `count`: how many rows or receipts are missing or concerned;
    `expected` and `found`: numbers (a version, a sequence, a count), where two disagree."""

    lack: Lack
    subject: str
    count: int = 1
    expected: int = 0
    found: int = 0
    detail: str = ""

    def shown(self) -> dict[str, Any]:
        return asdict(self) | {"lack": self.lack.value}

    def __str__(self) -> str:
        text = f"{self.lack.value} {self.subject}"
        if self.expected or self.found:
            text += f": expected {self.expected}, found {self.found}"
        if self.count > 1:
            text += f" ({self.count})"
        return f"{text} {self.detail}".rstrip()


# One row each: how many, and the least of them to begin the search with.
_QUESTIONS: Final[dict[Lack, str]] = {
    Lack.KEY_WITHOUT_RECORD: """
SELECT count(*) AS n, min(k.key_id) AS one FROM keys k
WHERE k.status NOT IN ('deleted', 'pending', 'failed')
  AND NOT EXISTS (SELECT 1 FROM key_envelopes e WHERE e.key_id = k.key_id)""",
    Lack.RECORD_WITHOUT_KEY: """
SELECT count(*) AS n, min(e.key_id) AS one FROM key_envelopes e
WHERE NOT EXISTS (SELECT 1 FROM keys k WHERE k.key_id = e.key_id)""",
    Lack.DELETED_KEY_HAS_RECORD: """
SELECT count(*) AS n, min(k.key_id) AS one FROM keys k
WHERE k.status = 'deleted' AND EXISTS (SELECT 1 FROM key_envelopes e WHERE e.key_id = k.key_id)""",
    Lack.REQUEST_WITHOUT_RECEIPT: """
SELECT count(*) AS n, min(q.tenant || '/' || q.request_id) AS one FROM requests q
WHERE NOT EXISTS (SELECT 1 FROM receipts r WHERE r.chain = q.receipt_chain AND r.sequence = q.receipt_sequence)""",
    Lack.ANSWER_WITHOUT_RECORD: """
SELECT count(*) AS n, min(a.key_id) AS one FROM (
    SELECT convert_from(result, 'UTF8')::jsonb ->> 'key_id' AS key_id,
           (convert_from(result, 'UTF8')::jsonb ->> 'record_version')::bigint AS version
    FROM requests WHERE state = 'done' AND operation = ANY($1::text[])
) a
WHERE NOT EXISTS (SELECT 1 FROM key_envelopes e WHERE e.key_id = a.key_id AND e.version >= a.version)
  AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.key_id = a.key_id AND k.status = 'deleted')""",
}
_MAKING: Final = (
    "generate_key", "generate_seed", "import_key", "import_file", "seal", "reseal", "enable_key", "disable_key",
    "schedule_deletion", "cancel_deletion",
)  # fmt: skip
_GAPS: Final = """
SELECT chain, count(*) AS n, max(sequence) AS last FROM receipts GROUP BY chain HAVING count(*) <> max(sequence)
ORDER BY chain
"""
_POLICIES: Final = """
SELECT n.tenant, max(n.version) AS version
FROM (SELECT DISTINCT chain FROM receipts) c CROSS JOIN LATERAL (
    SELECT r.tenant,
           ((convert_from(r.envelope, 'UTF8')::jsonb ->> 'body')::jsonb ->> 'policy_version')::bigint AS version
    FROM receipts r WHERE r.chain = c.chain ORDER BY r.sequence DESC LIMIT 100
) n
WHERE n.tenant <> '' GROUP BY n.tenant
"""


async def look(connection: asyncpg.Connection) -> list[Finding]:
    """A few queries; none reads all receipts, only numbers and the newest of each chain. Errors: the driver's."""
    found = []
    for lack, question in _QUESTIONS.items():
        row = await connection.fetchrow(question, *([_MAKING] if lack is Lack.ANSWER_WITHOUT_RECORD else []))
        if row is not None and row["n"]:
            found.append(Finding(lack=lack, subject=row["one"] or "", count=row["n"]))
    for row in await connection.fetch(_GAPS):
        missing = row["last"] - row["n"]
        found.append(
            Finding(lack=Lack.CHAIN_GAP, subject=row["chain"], count=missing, expected=row["last"], found=row["n"])
        )
    mentioned = await connection.fetch(_POLICIES)
    return found + await older_policies(connection, [(row["tenant"], row["version"]) for row in mentioned])


async def older_policies(connection: asyncpg.Connection, mentioned: Iterable[tuple[str, int]]) -> list[Finding]:
    """`mentioned`: (tenant, version of a policy that was in force)."""
    rows = await connection.fetch("SELECT tenant, max(version) AS version FROM policies GROUP BY tenant")
    stored = {row["tenant"]: int(row["version"]) for row in rows}
    return [
        Finding(lack=Lack.POLICY_OLDER, subject=tenant, expected=version, found=stored.get(tenant, 0))
        for tenant, version in sorted(mentioned)
        if stored.get(tenant, 0) < version
    ]
