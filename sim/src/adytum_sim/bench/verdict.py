"""What a rotation left behind, read from the database past the service, and compared with what it was to be.

Each record has exactly the versions 1 and 2; the newest names the wanted generation and KMS key, in its header and in
its row; exactly one request resealed it. Each chain of receipts verifies under its attested key, as `adytum audit
verify` does it. Each signature that a client was given has its receipt there.

`unheard`: numbers that are missing in the chain of an enclave that was killed: decisions that nobody was told of. In
the chain of another enclave a missing number is a defect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from adytum.rotation.batch import request_id
from adytum_sim.bench.apart import Apart
from adytum_sim.bench.signing import Heard
from adytum_verify import AttestationError, verify_archived_enclave, verify_chain
from adytum_wire.manifest import manifest_hash
from adytum_wire.record import parse_header

QUIET_S: Final = 90.0
_PAGE: Final = 5000
_MAX_SHOWN: Final = 20


class Verdict(Struct, kw_only=True):
    """All but `records`, `resealed`, `receipts`, `chains` and `unheard` are defects. `resealed`: records with exactly
    one request that resealed them. `problems`: the first of them, in words."""

    records: int = 0
    resealed: int = 0
    versions_wrong: int = 0
    newest_wrong: int = 0
    requests_wrong: int = 0
    receipts: int = 0
    chains: int = 0
    chains_broken: int = 0
    unheard: int = 0
    receipts_lost: int = 0
    problems: list[str] = msgspec.field(default_factory=list)

    @property
    def defects(self) -> int:
        wrong = self.versions_wrong + self.newest_wrong + self.requests_wrong
        return wrong + self.chains_broken + self.receipts_lost

    def note(self, name: str, text: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
        if len(self.problems) < _MAX_SHOWN:
            self.problems.append(f"{name}: {text}")


async def judge(apart: Apart, job_id: str, *, generation: int, heard: Iterable[Heard]) -> Verdict:
    """`heard`: what was told to clients. Errors: OSError, asyncpg.PostgresError."""
    verdict = Verdict(records=len(apart.keys))
    await _trail_ends(apart, verdict)
    connection = await asyncpg.connect(apart.dsn)
    try:
        await _judge_records(connection, apart, generation, verdict)
        await _judge_requests(connection, apart, job_id, verdict)
        stored = await _judge_chains(connection, apart, verdict)
    finally:
        await connection.close()
    for one in heard:
        if stored.get((one.chain, one.sequence)) != one.body:
            verdict.note("receipts_lost", f"a signature with {one.key_id} was proven by #{one.sequence}")
    return verdict


async def _trail_ends(apart: Apart, verdict: Verdict) -> None:
    """Wait until the database has every receipt of the running boot: the host fetches what was lost on the way."""
    try:
        async with asyncio.timeout(QUIET_S):
            while True:
                health = await apart.stack.client.health()
                [row] = await apart.fetch("SELECT count(*) AS n FROM receipts WHERE chain = $1", health.boot_id)
                if row["n"] == health.receipts:
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        verdict.note("chains_broken", f"{row['n']} of {health.receipts} receipts of the running enclave are stored")


async def _judge_records(connection: asyncpg.Connection, apart: Apart, generation: int, verdict: Verdict) -> None:
    """Every version of every record, by key id."""
    wanted, after, seen = apart.stack.key_arn, "", 0
    while True:
        rows = await connection.fetch(
            "SELECT k.key_id, e.versions, n.header, n.kms_key_id FROM keys k,"
            " LATERAL (SELECT array_agg(version ORDER BY version) AS versions FROM key_envelopes x"
            "          WHERE x.key_id = k.key_id) e,"
            " LATERAL (SELECT header, kms_key_id FROM key_envelopes x WHERE x.key_id = k.key_id"
            "          ORDER BY version DESC LIMIT 1) n"
            " WHERE k.key_id > $1 ORDER BY k.key_id LIMIT $2",
            after,
            _PAGE,
        )
        for row in rows:
            if row["versions"] != [1, 2]:
                verdict.note("versions_wrong", f"{row['key_id']} has {row['versions']}")
            header = parse_header(row["header"])
            found = (header.version, header.generation, header.kms_key_arn, row["kms_key_id"])
            if found != (2, generation, wanted, wanted):
                verdict.note("newest_wrong", f"{row['key_id']} is {found}")
            if header.public_key != apart.public_keys.get(row["key_id"]):
                verdict.note("newest_wrong", f"{row['key_id']} has another public key than it was sealed with")
        seen += len(rows)
        if len(rows) < _PAGE:
            break
        after = rows[-1]["key_id"]
    if seen != len(apart.keys):
        verdict.note("versions_wrong", f"{seen} of {len(apart.keys)} records are there")


async def _judge_requests(connection: asyncpg.Connection, apart: Apart, job_id: str, verdict: Verdict) -> None:
    """One request for each record, whose id is a function of job, key and version, and no further reseal."""
    wanted = {request_id(job_id, key_id, 1) for key_id in apart.keys}
    rows = await connection.fetch("SELECT request_id, state FROM requests WHERE operation = 'reseal'")
    done = {row["request_id"] for row in rows if row["state"] == "done"}
    verdict.resealed = len(wanted & done)
    if wanted != done:
        verdict.note("requests_wrong", f"{len(wanted - done)} records were not resealed, {len(done - wanted)} twice")


async def _judge_chains(connection: asyncpg.Connection, apart: Apart, verdict: Verdict) -> dict[tuple[str, int], str]:
    """Returns what is stored: the SHA-256 (hex) of a receipt's body by chain and sequence."""
    stored: dict[tuple[str, int], str] = {}
    for row in await connection.fetch("SELECT DISTINCT chain FROM receipts"):
        chain = row["chain"]
        verdict.chains += 1
        key = await _attested_key(connection, apart, chain)
        rows = await connection.fetch(
            "SELECT sequence, envelope, body_hash FROM receipts WHERE chain = $1 ORDER BY sequence", chain
        )
        verdict.receipts += len(rows)
        stored |= {(chain, one["sequence"]): one["body_hash"].hex() for one in rows}
        if key is None:
            verdict.note("chains_broken", f"nobody attests {chain}")
            continue
        holes = rows[-1]["sequence"] - len(rows)
        verdict.unheard += holes
        if holes and chain not in apart.enclave.boots:
            verdict.note("chains_broken", f"{chain} lacks {holes} of {rows[-1]['sequence']}")
        for run in runs([(one["sequence"], one["envelope"]) for one in rows]):
            report = verify_chain(
                [envelope for _, envelope in run], receipt_key=key, chain=chain, from_sequence=run[0][0]
            )
            if not report.is_intact:
                verdict.note("chains_broken", f"{chain}: {report.problem}")
    return stored


async def _attested_key(connection: asyncpg.Connection, apart: Apart, chain: str) -> bytes | None:
    row = await connection.fetchrow(
        "SELECT document, binding FROM attestations WHERE chain = $1 ORDER BY verified_at LIMIT 1", chain
    )
    if row is None:
        return None
    try:
        proven = verify_archived_enclave(
            row["document"],
            row["binding"],
            expected=apart.stack.allow_list,
            anchors=(apart.stack.kms.anchor,),
            manifest_hash=manifest_hash(apart.stack.manifest),
        )
    except AttestationError:
        return None
    return bytes.fromhex(proven.binding.receipt_key) if proven.binding.boot_id == chain else None


def runs(found: list[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Cut where a number is missing."""
    made: list[list[tuple[int, bytes]]] = []
    for sequence, envelope in found:
        if not made or made[-1][-1][0] + 1 != sequence:
            made.append([])
        made[-1].append((sequence, envelope))
    return made
