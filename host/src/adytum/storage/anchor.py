"""The sealed credentials of the anchor's table (spec/usage.md, U-14): what the supervisor presents to each boot.

They are records like others and are stored by `batcher`; here is the reading.
"""

from __future__ import annotations

from typing import Final

from adytum.storage.database import Database
from adytum.storage.rows import record_of
from adytum_wire.record import Record, parse_header
from adytum_wire.types import RecordKind

_NEWEST: Final = """
SELECT DISTINCT ON (k.key_id) k.tenant, e.header, e.ciphertext_blob, e.data_key_ciphertext
FROM keys k JOIN key_envelopes e USING (key_id)
WHERE k.kind = $1 AND e.node_id = $2
ORDER BY k.key_id, e.version DESC
"""


async def newest_credentials(database: Database, node_id: str) -> dict[str, Record]:
    """Each tenant's, for the enclaves of this node: the one sealed last. Errors: RECORD_INVALID."""
    newest: dict[str, tuple[int, Record]] = {}
    for row in await database.fetch(_NEWEST, RecordKind.ANCHOR_CREDENTIALS.value, node_id):
        record = record_of(row["header"], row["ciphertext_blob"], row["data_key_ciphertext"])
        sealed_at = parse_header(record.header).created_at
        if row["tenant"] not in newest or newest[row["tenant"]][0] < sealed_at:
            newest[row["tenant"]] = sealed_at, record
    return {tenant: record for tenant, (_, record) in newest.items()}
