"""What a database lacks by its own evidence: rows that name others which are not there.

One transaction writes record, request, receipt and usage together, so none of these is ever seen in a whole database.
A restore that took tables from different moments, or somebody's hand, leaves them.

Tables are read in pages by key, so that no statement takes long however large they are. A page that took too long all
the same leaves its question unanswered, which is a finding too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
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
    DELETED_KEY_IS_BACK = "DELETED_KEY_IS_BACK"  # a client was told that it is destroyed
    LOOK_UNFINISHED = "LOOK_UNFINISHED"  # it took too long, or could not be read: nobody knows


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


_PAGE: Final = 5000
_RECEIPTS_PAGE: Final = 100_000

# A page each: $1.. are the last row's key, then the page's size. They answer with the page's last key, how many of it
# are amiss, and the least of those to begin the search with. What they look up stands in
# subqueries with LIMIT, which stay look-ups: joined, all of the other table would be read for each page.
_KEYS_PAGE: Final = """
WITH page AS MATERIALIZED (SELECT key_id, status FROM keys WHERE key_id > $1 ORDER BY key_id LIMIT $2)
SELECT (SELECT ARRAY[max(key_id)] FROM page) AS last, count(*) AS n, min(k.key_id) AS one FROM page k
WHERE {}
"""
_REQUESTS_PAGE: Final = """
WITH page AS MATERIALIZED (
    SELECT tenant, request_id, receipt_chain, receipt_sequence, state, operation, result FROM requests
    WHERE (tenant, request_id) > ($1, $2) ORDER BY tenant, request_id LIMIT $3
), told AS (
    SELECT convert_from(result, 'UTF8')::jsonb ->> 'key_id' AS key_id, operation,
           (convert_from(result, 'UTF8')::jsonb ->> 'record_version')::bigint AS version
    FROM page WHERE state = 'done' AND operation = ANY($4::text[])
)
SELECT (SELECT ARRAY[tenant, request_id] FROM page ORDER BY tenant DESC, request_id DESC LIMIT 1) AS last,
       count(*) AS n, min(one) AS one FROM ({}) found
"""
_QUESTIONS: Final[dict[Lack, tuple[str, tuple[str, ...]]]] = {
    Lack.KEY_WITHOUT_RECORD: (_KEYS_PAGE.format("""k.status NOT IN ('deleted', 'pending', 'failed')
  AND (SELECT true FROM key_envelopes e WHERE e.key_id = k.key_id LIMIT 1) IS NULL"""), ()),
    Lack.RECORD_WITHOUT_KEY: ("""
WITH page AS MATERIALIZED (SELECT DISTINCT key_id FROM key_envelopes WHERE key_id > $1 ORDER BY key_id LIMIT $2)
SELECT (SELECT ARRAY[max(key_id)] FROM page) AS last, count(*) AS n, min(e.key_id) AS one FROM page e
WHERE (SELECT true FROM keys k WHERE k.key_id = e.key_id LIMIT 1) IS NULL""", ()),
    Lack.DELETED_KEY_HAS_RECORD: (_KEYS_PAGE.format("""k.status = 'deleted'
  AND (SELECT true FROM key_envelopes e WHERE e.key_id = k.key_id LIMIT 1)"""), ()),
    Lack.REQUEST_WITHOUT_RECEIPT: (_REQUESTS_PAGE.format("""
    SELECT q.tenant || '/' || q.request_id AS one FROM page q WHERE (
        SELECT true FROM receipts r WHERE r.chain = q.receipt_chain AND r.sequence = q.receipt_sequence LIMIT 1
    ) IS NULL"""), ("", )),
    Lack.ANSWER_WITHOUT_RECORD: (_REQUESTS_PAGE.format("""
    SELECT a.key_id AS one FROM told a
    WHERE (SELECT true FROM key_envelopes e WHERE e.key_id = a.key_id AND e.version >= a.version LIMIT 1) IS NULL
      AND (SELECT k.status FROM keys k WHERE k.key_id = a.key_id LIMIT 1) IS DISTINCT FROM 'deleted'"""), (
        "generate_key", "generate_seed", "import_key", "import_file", "seal", "reseal", "enable_key", "disable_key",
        "schedule_deletion", "cancel_deletion",
    )),
    Lack.DELETED_KEY_IS_BACK: (_REQUESTS_PAGE.format("""
    SELECT a.key_id AS one FROM told a
    WHERE (SELECT k.status FROM keys k WHERE k.key_id = a.key_id LIMIT 1) <> 'deleted'"""),
        ("delete_key", )),
}  # fmt: skip
# The next chain after $1: a jump in the index, where DISTINCT would read all of it.
_NEXT_CHAIN: Final = "SELECT min(chain) FROM receipts WHERE chain > $1"
_RECEIPTS: Final = """
SELECT count(*) AS n, max(sequence) AS last FROM (
    SELECT sequence FROM receipts WHERE chain = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
) page
"""
_POLICIES: Final = """
SELECT n.tenant, max(n.version) AS version FROM (
    SELECT r.tenant,
           ((convert_from(r.envelope, 'UTF8')::jsonb ->> 'body')::jsonb ->> 'policy_version')::bigint AS version
    FROM receipts r WHERE r.chain = $1 ORDER BY r.sequence DESC LIMIT 100
) n
WHERE n.tenant <> '' GROUP BY n.tenant
"""


async def look(connection: asyncpg.Connection) -> list[Finding]:
    """Reads keys, and numbers of requests and receipts, page by page. Errors: the driver's; in a transaction also
    TimeoutError, since nothing more can be asked there."""
    found: list[Finding] = []
    for lack, (question, operations) in _QUESTIONS.items():
        async with _answered(connection, lack, found):
            found += await _asked(connection, lack, question, operations)
    mentioned: dict[str, int] = {}
    async with _answered(connection, Lack.CHAIN_GAP, found):
        chain = await connection.fetchval(_NEXT_CHAIN, "")
        while chain is not None:
            found += await _gaps(connection, chain)
            for row in await connection.fetch(_POLICIES, chain):
                mentioned[row["tenant"]] = max(mentioned.get(row["tenant"], 0), row["version"])
            chain = await connection.fetchval(_NEXT_CHAIN, chain)
    return found + await older_policies(connection, mentioned.items())


@asynccontextmanager
async def _answered(connection: asyncpg.Connection, lack: Lack, found: list[Finding]) -> AsyncIterator[None]:
    try:
        yield
    except (TimeoutError, asyncpg.QueryCanceledError, asyncpg.DataError):  # or a column that cannot be read
        if connection.is_in_transaction() or connection.is_closed():
            raise
        found.append(Finding(lack=Lack.LOOK_UNFINISHED, subject=lack.value))


async def _asked(
    connection: asyncpg.Connection, lack: Lack, question: str, operations: tuple[str, ...]
) -> list[Finding]:
    last, count, least = ["", ""] if operations else [""], 0, ""
    more = [list(operations)] if operations else []
    while True:
        row = await connection.fetchrow(question, *last, _PAGE, *more)
        if row is None or row["last"] is None or row["last"][0] is None:
            break
        last, count = list(row["last"]), count + row["n"]
        least = min(filter(None, (least, row["one"])), default="")
    return [Finding(lack=lack, subject=least, count=count)] if count else []


async def _gaps(connection: asyncpg.Connection, chain: str) -> list[Finding]:
    count = last = 0
    while (page := await connection.fetchrow(_RECEIPTS, chain, last, _RECEIPTS_PAGE))["n"]:
        count, last = count + page["n"], page["last"]
    if count == last:
        return []
    return [Finding(lack=Lack.CHAIN_GAP, subject=chain, count=last - count, expected=last, found=count)]


async def older_policies(connection: asyncpg.Connection, mentioned: Iterable[tuple[str, int]]) -> list[Finding]:
    """`mentioned`: (tenant, version of a policy that was in force)."""
    rows = await connection.fetch("SELECT tenant, max(version) AS version FROM policies GROUP BY tenant")
    stored = {row["tenant"]: int(row["version"]) for row in rows}
    return [
        Finding(lack=Lack.POLICY_OLDER, subject=tenant, expected=version, found=stored.get(tenant, 0))
        for tenant, version in sorted(mentioned)
        if stored.get(tenant, 0) < version
    ]
