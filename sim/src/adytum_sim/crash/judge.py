"""What a cell left behind, compared with what its clients were told. Reads the database past the wires.

Double effects: one request with two results; a key that no request answers for; a version of a record that no reseal
answers for, or that is missing. Lost receipts: an answer whose receipt is not in the database, or does not prove it.
Leaked reservations: a limit that counts more or less than the distinct requests that succeeded, that still holds
something when nothing is under way, that lets another number of requests through than it says, or that a restart
changes.

`unheard`: receipts that a killed enclave took with it. Nobody was told of those decisions (each answer's receipt is
looked for), and numbers after them prove that they were there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from adytum.client.checks import check_answer
from adytum.client.errors import UntrustedError
from adytum_sim.crash.asking import Asked, ask_for_key, ask_to_sign, drive
from adytum_sim.crash.points import Victim
from adytum_sim.crash.site import PLAIN, Site
from adytum_verify import verify_archived_enclave, verify_chain
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.receipts import Receipt, parse_envelope, parse_receipt
from adytum_wire.requests import parse_body
from adytum_wire.types import sha256

QUIET_S: Final = 60.0

Key = tuple[str, int]  # chain, sequence


@dataclass(slots=True)
class Verdict:
    """Counts, and a line for each thing that is wrong."""

    double_effects: int = 0
    lost_receipts: int = 0
    leaked_reservations: int = 0
    broken_chains: int = 0
    unheard: int = 0
    receipts: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.problems.append(f"{kind}: {text}")


async def judge(site: Site, asked: list[Asked]) -> Verdict:
    """`asked`: every request of the cell. Asks a few more, until alice's limit is full."""
    verdict = Verdict()
    await _fill(site, asked, verdict)
    await _judge_usage(site, asked, verdict)
    await _trail_ends(site, verdict)
    rows = await site.fetch("SELECT chain, sequence, envelope, body_hash FROM receipts ORDER BY chain, sequence")
    verdict.receipts = len(rows)
    keys = await _judge_chains(site, rows, verdict)
    _judge_answers(asked, rows, keys, verdict)
    await _judge_records(site, asked, verdict)
    return verdict


# --- limits


def _signed(asked: Sequence[Asked], name: str) -> list[Asked]:
    return [a for a in asked if a.person.name == name and a.operation == "sign" and a.is_done]


async def _fill(site: Site, asked: list[Asked], verdict: Verdict) -> None:
    """As many signatures of alice as her limit leaves, and two more, all at once."""
    key = ask_for_key(site, site.alice, PLAIN)
    asked.append(key)
    await drive(site, key, site.http)
    left = site.most - len(_signed(asked, "alice"))
    more = [ask_to_sign(site, site.alice, key.key_id) for _ in range(left + 2)]
    await asyncio.gather(*(drive(site, one, site.http) for one in more))
    codes = Counter(one.code for one in more)
    if codes != Counter({"": left, Code.LIMIT_EXCEEDED.value: 2}):
        verdict.note("leaked_reservations", f"{left} were left of the limit, and these came of it: {dict(codes)}")
    for one in more:
        one.code = ""  # expected
    asked += more


async def _judge_usage(site: Site, asked: Sequence[Asked], verdict: Verdict) -> None:
    """Now, and after one more start of the enclave, which knows only what was sealed."""
    before = await _used(site)
    wanted = Counter[tuple[str, str]]()
    for person in (site.alice, *site.crowd):
        done, scope = _signed(asked, person.name), f"principal:{person.name}"
        if not done:
            continue
        if person is site.alice:
            wanted["signatures", scope] = len(done)
            wanted["wei", scope] = sum(a.wei for a in done)
        else:
            wanted["load", scope] = len(done)
    for key, (used, held) in before.items():
        if used != wanted[key]:
            verdict.note("leaked_reservations", f"{key} counts {used} and not {wanted[key]}")
        if held:
            verdict.note("leaked_reservations", f"{key} still holds {held}")
    if set(before) != set(wanted):
        verdict.note("leaked_reservations", f"counters {sorted(set(before) ^ set(wanted))}")
    await _trail_ends(site, verdict)
    site.kill(Victim.ENCLAVE)
    await site.revive(Victim.ENCLAVE)
    await site.ready()
    after = await _used(site)
    if after != before:
        verdict.note("leaked_reservations", f"a start changed usage from {before} to {after}")


async def _used(site: Site) -> dict[tuple[str, str], tuple[int, int]]:
    found = await site.usage()
    return {(e["limit"], e["scope"]): (int(e["used"]), int(e["held"])) for e in found["entries"]}


# --- receipts


async def _trail_ends(site: Site, verdict: Verdict) -> None:
    """Wait until the database has every receipt of the running boot: the host fetches what was lost on the way."""
    health = await site.health()
    try:
        async with asyncio.timeout(QUIET_S):
            while True:
                rows = await site.fetch("SELECT count(*) AS n FROM receipts WHERE chain = $1", health.boot_id)
                if rows[0]["n"] == health.receipts:
                    break
                await asyncio.sleep(0.2)
    except TimeoutError:
        verdict.note("broken_chains", f"{rows[0]['n']} of {health.receipts} receipts of the running enclave are stored")
    site.boots.append(health.boot_id)


async def _judge_chains(site: Site, rows: Sequence[asyncpg.Record], verdict: Verdict) -> dict[str, bytes]:
    """Every chain fits together under its attested key. Returns the keys by chain."""
    stored = await site.fetch("SELECT chain, document, binding FROM attestations ORDER BY verified_at DESC")
    keys: dict[str, bytes] = {}
    for row in stored:
        proven = verify_archived_enclave(
            row["document"],
            row["binding"],
            expected=site.stack.allow_list,
            anchors=(site.stack.kms.anchor,),
            manifest_hash=manifest_hash(site.stack.manifest),
        )
        keys[row["chain"]] = bytes.fromhex(proven.binding.receipt_key)
    chains: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for row in rows:
        chains[row["chain"]].append((row["sequence"], row["envelope"]))
    for chain, found in chains.items():
        if chain not in keys:
            verdict.note("broken_chains", f"nobody attests {chain}")
            continue
        holes = found[-1][0] - len(found)
        if chain in site.boots and holes:
            verdict.note("broken_chains", f"{chain} lacks {holes} of {found[-1][0]}")
        verdict.unheard += holes
        for run in _runs(found):
            report = verify_chain(
                [envelope for _, envelope in run], receipt_key=keys[chain], chain=chain, from_sequence=run[0][0]
            )
            if not report.is_intact:
                verdict.note("broken_chains", f"{chain}: {report.problem}")
    return keys


def _runs(found: Sequence[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Cut where a number is missing."""
    runs: list[list[tuple[int, bytes]]] = []
    for sequence, envelope in found:
        if not runs or runs[-1][-1][0] + 1 != sequence:
            runs.append([])
        runs[-1].append((sequence, envelope))
    return runs


def _judge_answers(
    asked: Sequence[Asked], rows: Sequence[asyncpg.Record], keys: dict[str, bytes], verdict: Verdict
) -> None:
    """Each answer has its receipt, which proves it, in the database; each request has one result."""
    stored = {(row["chain"], row["sequence"]): row["body_hash"] for row in rows}
    results: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        try:
            receipt = _receipt(row["envelope"])
        except AdytumError:
            continue  # its chain is broken there, which has been noted
        if receipt.decision == "allow":
            results[receipt.request_id].add(receipt.result_digest)
    for one in asked:
        for envelope in {*one.receipts}:
            receipt = _receipt(envelope)
            if stored.get((receipt.chain, receipt.sequence)) != sha256(parse_envelope(envelope).body.encode()):
                verdict.note("lost_receipts", f"{one.request_id} was answered with #{receipt.sequence}")
        different = {sha256(result).hex() for result in one.results}
        if len(different | results.get(one.request_id, set())) > 1:
            verdict.note("double_effects", f"{one.request_id} has {len(different)} answers to its clients")
        if one.results:
            try:
                receipt = _receipt(one.receipts[-1])
                check_answer(
                    one.body,
                    parse_body(one.body),
                    one.results[-1],
                    one.receipts[-1],
                    receipt_key=keys.get(receipt.chain, b""),
                )
            except (UntrustedError, AdytumError) as error:
                verdict.note("lost_receipts", f"{one.request_id}: {error}")


def _receipt(envelope: bytes) -> Receipt:
    return parse_receipt(parse_envelope(envelope).body.encode())


# --- records


async def _judge_records(site: Site, asked: Sequence[Asked], verdict: Verdict) -> None:
    """One key for each request that made one, and one version for each reseal; no request still waits."""
    made = {a.key_id for a in asked if a.operation == "generate_key" and a.is_done}
    rows = await site.fetch("SELECT key_id FROM keys")
    stored = [row["key_id"] for row in rows]
    if set(stored) != made or len(stored) != len(made):
        verdict.note("double_effects", f"{len(stored)} keys are stored, {len(made)} were answered for")
    reseals = Counter(a.key_id for a in asked if a.operation == "reseal" and a.is_done)
    versions: dict[str, list[Any]] = defaultdict(list)
    for row in await site.fetch("SELECT key_id, version FROM key_envelopes ORDER BY key_id, version"):
        versions[row["key_id"]].append(row["version"])
    for key_id in made:
        wanted = list(range(1, 2 + reseals[key_id]))
        if versions[key_id] != wanted:
            verdict.note("double_effects", f"{key_id} has versions {versions[key_id]}, {len(wanted)} were answered for")
    waiting = await site.fetch("SELECT request_id FROM requests WHERE state = 'pending'")
    if waiting:
        verdict.note("double_effects", f"{len(waiting)} requests still wait, though each was answered")
