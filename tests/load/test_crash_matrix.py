"""The crash matrix in short: each step once, each part killed at several of them, in one deployment under load. The
whole of it is `adytum bench crash` (docs/reference/crash-matrix.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adytum_sim.crash.asking import Asked, ask_for_key, ask_to_sign, drive
from adytum_sim.crash.cell import Blow, broken, plan, run_blows
from adytum_sim.crash.judge import judge
from adytum_sim.crash.matrix import Report, merged, page
from adytum_sim.crash.points import Mode, Point, Victim
from adytum_sim.crash.site import PLAIN, Site, open_site
from adytum_sim.crash.wires import PostgresRequests, frames
from adytum_wire.frames import Kind, encode_frame

ENCLAVE, HOST, DATABASE = Victim.ENCLAVE, Victim.HOST, Victim.DATABASE
BLOWS = [
    (Point.REQUEST, HOST, Mode.LATE, "sign"),
    (Point.LOOKUP, DATABASE, Mode.LOST, "reseal"),
    (Point.EXECUTE, ENCLAVE, Mode.PASSED, "generate_key"),
    (Point.EXECUTE, HOST, Mode.LATE, "generate_key"),
    (Point.KMS_ASKED, ENCLAVE, Mode.LATE, "reseal"),
    (Point.KMS_ANSWERED, HOST, Mode.PASSED, "generate_key"),
    (Point.REPLY, ENCLAVE, Mode.LOST, "sign"),
    (Point.REPLY, HOST, Mode.LOST, "generate_key"),
    (Point.INSERT, DATABASE, Mode.PASSED, "sign"),
    (Point.COMMIT, DATABASE, Mode.LATE, "generate_key"),
    (Point.COMMIT, HOST, Mode.PASSED, "reseal"),
    (Point.COMMITTED, DATABASE, Mode.LOST, "sign"),
    (Point.ANSWER, HOST, Mode.LOST, "approved"),
]


async def short_run(directory: Path, blows: list[Blow]) -> None:
    directory.chmod(0o711)  # as root, PostgreSQL runs as another user
    result = await run_blows(directory / "x", blows)
    assert result.problems == []
    assert (result.kills, result.failures) == (len(blows), 0)
    assert result.load > 0
    assert result.receipts >= result.load + len(blows)


async def test_a_kill_at_each_step_doubles_loses_and_leaks_nothing(short_directory: Path) -> None:
    blows = [Blow(point=point, victim=victim, mode=mode, kind=kind) for point, victim, mode, kind in BLOWS]
    assert {blow.point for blow in blows} == set(Point)
    await short_run(short_directory, blows)


async def test_a_charge_written_late_is_known_to_the_next_boot(short_directory: Path) -> None:
    """The enclave dies when its answer is about to become durable, and its successor is up before that."""
    await short_run(
        short_directory,
        [Blow(point=point, victim=ENCLAVE, mode=Mode.HELD, kind="sign") for point in (Point.INSERT, Point.REPLY)],
    )


def test_each_kind_of_request_meets_each_mode() -> None:
    met = {(blow.kind, blow.mode) for blow in plan(Point.COMMIT, HOST, 20)}
    assert len(met) == 16


def test_a_run_in_parts_makes_one_page() -> None:
    first = Report(repeats=20, cells=[broken(Point.COMMIT, HOST, "it did not come up")])
    again = Report(repeats=20, cells=[broken(Point.COMMIT, HOST, ""), broken(Point.LOOKUP, ENCLAVE, "")])
    whole = merged([first, again])
    assert [(cell.point, cell.victim) for cell in whole.cells] == [("lookup", "enclave"), ("commit", "host")]
    assert whole.cells[1].problems == [""]
    assert whole.failures == 40
    assert "| commit | host | 0 |" in page(whole)


# --- the judge


async def honest(site: Site) -> list[Asked]:
    asked = [ask_for_key(site, site.alice, PLAIN)]
    await drive(site, asked[0], site.http)
    asked += [ask_to_sign(site, site.alice, asked[0].key_id) for _ in range(3)]
    for one in asked[1:]:
        await drive(site, one, site.http)
    return asked


async def tamper(site: Site, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(site.postgres.dsn())
    try:
        for table in ("receipts", "key_envelopes"):  # what the owner of the tables can do to them
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        assert await connection.execute(statement, *arguments) not in ("UPDATE 0", "INSERT 0 0")
    finally:
        await connection.close()


async def test_the_judge_notices_what_is_wrong(short_directory: Path) -> None:
    short_directory.chmod(0o711)
    async with open_site(short_directory / "x", clients=1, most=10) as site:
        asked = await honest(site)
        snapshot = (await site.fetch("SELECT snapshot FROM usage_snapshots"))[0]["snapshot"]
        clean = await judge(site, asked)
        assert clean.problems == []
        assert clean.receipts == len(asked), "one for each request, and two refusals among them"
        # a signature that the sealed usage knows nothing of, and the limit is full by now
        await tamper(site, "UPDATE usage_snapshots SET snapshot = $1, version = 1::bigint << 60", snapshot)
        await tamper(site, "UPDATE receipts SET body_hash = sha256('x') WHERE request_id = $1", asked[1].request_id)
        await tamper(
            site, "UPDATE receipts SET envelope = replace(encode(envelope, 'escape'), 'allow', 'allo1')::bytea"
            " WHERE request_id = $1", asked[2].request_id
        )  # fmt: skip
        await tamper(site, "UPDATE key_envelopes SET version = 7 WHERE key_id = $1", asked[0].key_id)
        asked[3].results.append(b"{}")
        found = await judge(site, asked)
        text = "\n".join(found.problems)
        assert found.lost_receipts >= 1, text
        assert found.broken_chains == 1, text
        assert found.leaked_reservations >= 1, text
        assert found.double_effects == 2, text


# --- the wires


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_are_cut_where_they_end(size: int) -> None:
    sent = [encode_frame(Kind.REQUEST, 1, 5, b"a" * 40), encode_frame(Kind.REQUEST, 2, 5, b"")]
    assert in_pieces(frames(), b"".join(sent), size) == sent
    startup = (9).to_bytes(4, "big") + b"hello"
    parse, sync = b"P" + (7).to_bytes(4, "big") + b"abc", b"S" + (4).to_bytes(4, "big")
    assert in_pieces(PostgresRequests(), startup + parse + sync, size) == [startup, parse, sync]


def in_pieces(splitter: Any, data: bytes, size: int) -> list[bytes]:
    found = []
    for start in range(0, len(data), size):
        found += splitter.feed(data[start : start + size])
    return found
