"""Jobs, batches, leases and workers against a real database; the service that reseals is a stand-in."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from rotation_parts import (
    KEY,
    OLD_KEY,
    PAST_MS,
    FakeService,
    away,
    key_id,
    record,
    refusal,
    request_id,
    target,
    work,
    worker,
)

from adytum.rotation import job as jobs
from adytum.rotation import progress
from adytum.rotation.errors import RotationCode, RotationError
from adytum.rotation.plan import Selection, take_inventory
from adytum.rotation.queue import Queue
from adytum.rotation.throttle import burst, take
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Reseal, parse_body

QUEUE = Queue()


@pytest.fixture
async def service(database: Database) -> FakeService:
    return FakeService(database)


async def begin(database: Database, selection: Selection | None = None, **options: Any) -> jobs.Job:
    return await jobs.start(
        database, QUEUE, target(), selection or Selection(), batch=options.pop("batch", 4), **options
    )


async def versions(database: Database) -> Counter[int]:
    rows = await database.fetch("SELECT max(version) AS v FROM key_envelopes GROUP BY key_id")
    return Counter(row["v"] for row in rows)


async def test_the_library_would_change_nothing_about_its_tables(database: Database) -> None:
    async with database.connection() as connection:
        plan = await QUEUE.queries(connection).plan_upgrade()
    assert plan.statements == ()


async def test_every_stale_record_is_resealed_once_and_the_rest_is_left(
    database: Database, service: FakeService
) -> None:
    await service.fill([record(n) for n in range(10)])
    await service.fill([record(n, generation=2) for n in range(10, 13)])
    await service.fill([record(13, generation=2, kms_key=OLD_KEY)])
    counts = await take_inventory(database, target(), Selection())
    assert (counts.total, counts.needed) == (14, 11)
    assert counts.by_generation == {1: 10, 2: 4}
    assert counts.by_kms_key == {KEY: 13, OLD_KEY: 1}
    begun = await begin(database)
    await work(database, service, in_flight=3)
    done = await progress.read(database, begun.id)
    assert (done.state, done.total, done.resealed, done.left) == ("complete", 11, 11, 0)
    assert await versions(database) == {1: 3, 2: 11}
    assert len(service.asked) == 11
    assert 1 < service.most_at_once <= 3
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM adytum_queue.pgqueuer") == 0
    with pytest.raises(RotationError) as nothing:
        await begin(database)
    assert nothing.value.code is RotationCode.NOTHING
    assert len(await jobs.load(database)) == 1


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(label="cold"), {1}),
        (Selection(kms_key=OLD_KEY), {2}),
        (Selection(below_generation=2), {0, 1}),
        (Selection(below_generation=2, label="hot"), {0}),
    ],
)
async def test_a_selection_narrows_the_job_down(
    database: Database, service: FakeService, selection: Selection, wanted: set[int]
) -> None:
    await service.fill([record(0), record(1, label="cold"), record(2, generation=2, kms_key=OLD_KEY)])
    await begin(database, selection)
    await work(database, service)
    assert {_reseal(raw).key_id for raw in service.asked} == {key_id(n) for n in wanted}


@pytest.mark.parametrize("selection", [Selection(kms_key=KEY), Selection(below_generation=3)])
async def test_a_selection_that_a_reseal_would_not_change_is_refused(database: Database, selection: Selection) -> None:
    with pytest.raises(RotationError) as refused:
        await begin(database, selection)
    assert refused.value.code is RotationCode.SELECTION
    assert await jobs.load(database) == []


async def test_a_repeat_after_a_crash_sends_the_same_bytes_and_makes_no_second_version(
    database: Database, service: FakeService
) -> None:
    """The answer is lost after the record is durable; another worker takes the batch up."""
    await service.fill([record(n) for n in range(4)])
    begun = await begin(database)

    crashed = asyncio.Event()

    def lose(body: Reseal) -> None:
        if body.key_id == key_id(2):
            crashed.set()
            raise asyncio.CancelledError

    service.after = lose
    await worker(database, service, lease_s=0.2).run(crashed)
    assert (await progress.read(database, begun.id)).left == 4
    service.after = lambda body: None
    await work(database, service, lease_s=0.2, now_ms=lambda: 2_000_000)
    done = await progress.read(database, begun.id)
    assert (done.state, done.resealed, done.skipped) == ("complete", 4, 0)
    assert await versions(database) == {2: 4}
    by_id: dict[str, set[bytes]] = {}
    for raw in service.asked:
        by_id.setdefault(_reseal(raw).request_id, set()).add(raw)
    assert {len(bodies) for bodies in by_id.values()} == {1}
    assert set(by_id) == {request_id(begun.id, key_id(n), 1) for n in range(4)}


async def test_a_batch_whose_worker_is_silent_goes_to_another(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(3)])
    begun = await begin(database)
    async with database.connection() as connection:
        [lease] = await QUEUE.lease(connection, [begun.id], worker=uuid4(), most=5, lease_s=30)
        assert await QUEUE.lease(connection, [begun.id], worker=uuid4(), most=5, lease_s=30) == []
        await connection.execute("UPDATE adytum_queue.pgqueuer SET heartbeat = now() - interval '1 minute'")
        [again] = await QUEUE.lease(connection, [begun.id], worker=uuid4(), most=5, lease_s=30)
        assert again.number == lease.number
        await QUEUE.beat(connection, [again])
        assert await QUEUE.lease(connection, [begun.id], worker=uuid4(), most=5, lease_s=30) == []


async def test_what_one_record_is_refused_for_does_not_stop_the_job(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(6)])

    def refuse(body: Reseal) -> None:
        if body.key_id == key_id(1):
            raise refusal(Code.RECORD_TAMPERED, "$.public_key")
        if body.key_id == key_id(4):
            raise refusal(Code.KMS_DENIED)

    service.before = refuse
    begun = await begin(database)
    await work(database, service)
    done = await progress.read(database, begun.id)
    assert (done.state, done.resealed, done.failed) == ("incomplete", 4, 2)
    failed = await jobs.failures(database, begun.id)
    assert [(one.key_id, one.code, one.field) for one in failed] == [
        (key_id(1), "RECORD_TAMPERED", "$.public_key"),
        (key_id(4), "KMS_DENIED", ""),
    ]


async def test_what_the_rotator_is_refused_for_pauses_the_job(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(6)])

    def refuse(_body: Reseal) -> None:
        raise refusal(Code.PRINCIPAL_UNKNOWN)

    service.before = refuse
    begun = await begin(database)
    await work(database, service)
    held = await progress.read(database, begun.id)
    assert (held.state, held.problem, held.failed, held.left) == ("paused", "PRINCIPAL_UNKNOWN", 0, 6)
    service.before = lambda body: None
    await jobs.resume(database, begun.id)
    await work(database, service)
    assert (await progress.read(database, begun.id)).state == "complete"


async def test_a_worker_with_the_wrong_key_pauses_the_job_and_fails_no_more_than_was_under_way(
    database: Database, service: FakeService
) -> None:
    await service.fill([record(n) for n in range(40)])

    def refuse(_body: Reseal) -> None:
        raise refusal(Code.POLICY_DENIED)

    service.before = refuse
    begun = await begin(database)
    await work(database, service)
    held = await progress.read(database, begun.id)
    assert (held.state, held.problem, held.resealed) == ("paused", "POLICY_DENIED", 0)
    assert len(service.asked) <= 16
    service.before = lambda body: None
    await jobs.resume(database, begun.id)
    await work(database, service)
    assert (await progress.read(database, begun.id)).state == "complete"


async def test_a_record_that_the_policy_excepts_fails_alone(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(30)])

    def refuse(body: Reseal) -> None:
        if body.key_id == key_id(29):
            raise refusal(Code.POLICY_DENIED)

    service.before = refuse
    begun = await begin(database)
    await work(database, service)
    done = await progress.read(database, begun.id)
    assert (done.state, done.resealed, done.failed) == ("incomplete", 29, 1)


async def test_a_worker_ends_when_it_is_told_to_while_the_database_is_away(
    database: Database, service: FakeService, fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await fresh.take_away()
    one, stop = worker(database, service), asyncio.Event()
    task = asyncio.create_task(one.run(stop, until_done=True))
    while "the jobs cannot be read" not in caplog.text:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(task, 10)
    await fresh.give_back()


async def test_what_has_ended_takes_no_room_and_is_still_counted(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(6)])
    begun = await begin(database)
    before = await progress.read(database, begun.id)
    await work(database, service)
    done = await progress.read(database, begun.id)
    assert (before.total, before.left, done.total, done.left) == (6, 6, 6, 0)
    rows = await database.fetch("SELECT items::text AS items FROM job_batches")
    assert {row["items"] for row in rows} == {"[]"}
    assert await progress.read_active(database) == []
    assert await progress.count_by_state(database) == {"complete": 1}
    assert [one.id for one in await progress.read_all(database, most=1)] == [begun.id]


async def test_what_may_pass_is_tried_again_with_the_same_bytes(database: Database, service: FakeService) -> None:
    await service.fill([record(0)])
    tries = iter([away(), away(Code.PEER_UNAVAILABLE), refusal(Code.REQUEST_CONFLICT), refusal(Code.REQUEST_REPLAYED)])

    def refuse(_body: Reseal) -> None:
        error = next(tries, None)
        if error is not None:
            raise error

    service.before = refuse
    begun = await begin(database)
    await work(database, service)
    assert (await progress.read(database, begun.id)).state == "complete"
    assert len(service.asked) == 5
    assert len(set(service.asked)) == 1


async def test_a_request_that_grew_too_old_is_issued_anew(database: Database, service: FakeService) -> None:
    await service.fill([record(0)])
    begun = await begin(database)
    clock = [1_000_000]

    def late(_body: Reseal) -> None:
        if clock[0] == 1_000_000:
            clock[0] += PAST_MS
            raise refusal(Code.REQUEST_EXPIRED)

    service.before = late
    await work(database, service, now_ms=lambda: clock[0])
    assert (await progress.read(database, begun.id)).state == "complete"
    assert [_reseal(raw).issued_at for raw in service.asked] == [1_000_000, 1_000_000 + PAST_MS]
    assert len({_reseal(raw).request_id for raw in service.asked}) == 1


async def test_records_that_turn_up_meanwhile_become_another_round(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(3)])
    begun = await begin(database)
    late = asyncio.create_task(service.fill([record(9)]))
    await late
    await work(database, service)
    done = await progress.read(database, begun.id)
    assert (done.state, done.resealed, done.rounds) == ("complete", 4, 2)


async def test_a_pause_between_the_last_batch_and_the_end_does_not_leave_the_job_open(
    database: Database, service: FakeService
) -> None:
    await service.fill([record(0)])
    begun = await begin(database)
    await database.execute("UPDATE job_batches SET finished_at = now(), resealed = 1")
    await database.execute("DELETE FROM adytum_queue.pgqueuer")
    await service.repeat(_body(begun.id))
    await jobs.pause(database, begun.id)
    await jobs.resume(database, begun.id)
    await work(database, service)
    assert (await progress.read(database, begun.id)).state == "complete"


async def test_a_cancelled_job_leaves_nothing_in_the_queue(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(9)])
    begun = await begin(database)
    await jobs.cancel(database, QUEUE, begun.id)
    await work(database, service)
    assert service.asked == []
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM adytum_queue.pgqueuer") == 0
    for step in (jobs.pause, jobs.resume):
        with pytest.raises(RotationError) as refused:
            await step(database, begun.id)
        assert refused.value.code is RotationCode.STATE
    await begin(database)  # another may begin


async def test_two_workers_share_a_job_and_no_record_is_asked_for_twice(
    database: Database, service: FakeService
) -> None:
    await service.fill([record(n) for n in range(40)])
    begun = await begin(database)
    await asyncio.gather(work(database, service), work(database, service))
    assert (await progress.read(database, begun.id)).resealed == 40
    assert max(Counter(_reseal(raw).key_id for raw in service.asked).values()) == 1


async def test_a_database_that_goes_away_is_waited_for(database: Database, service: FakeService, fresh: Any) -> None:
    await service.fill([record(n) for n in range(12)])
    begun = await begin(database)
    seen = asyncio.Event()

    def note(_body: Reseal) -> None:
        if len(service.asked) >= 4:
            seen.set()

    service.before = note
    # A short lease: the answer to a lease may be lost with the database, and the batch is then nobody's until it ends.
    task = asyncio.create_task(work(database, service, lease_s=0.5))
    await seen.wait()
    await fresh.take_away()
    await fresh.give_back()
    await task
    done = await progress.read(database, begun.id)
    assert (done.state, done.resealed, done.failed) == ("complete", 12, 0)
    assert await versions(database) == {2: 12}


async def test_two_requests_that_make_the_same_version_do_not_both_succeed(
    database: Database, service: FakeService, fresh: Any
) -> None:
    """A reseal and a change of state that both began from version 1: one stands, the other is told so."""
    await service.fill([record(0)])
    batcher = AuditBatcher(database)
    one, two = record(0, version=2, generation=2), record(0, version=2)
    two = type(two)(header=two.header, record=type(two.record)(two.record.header, b"another", b"wrapped"))
    await batcher.commit(Outcome(receipt=service.receipt("r-first000"), record=one))
    with pytest.raises(AdytumError) as lost:
        await batcher.commit(Outcome(receipt=service.receipt("r-second00"), record=two))
    assert lost.value.code is Code.RECORD_ROLLBACK
    [row] = await fresh.rows("SELECT header FROM key_envelopes WHERE version = 2")
    assert row["header"] == one.record.header
    assert await fresh.count("receipts") == 3  # both decisions are in the trail
    await batcher.close()


async def test_the_rate_is_never_exceeded(database: Database, service: FakeService) -> None:
    await service.fill([record(n) for n in range(30)])
    begun = await begin(database, rate=50.0)
    await asyncio.gather(work(database, service), work(database, service))
    [row] = await database.fetch(
        "SELECT extract(epoch FROM ended_at - created_at)::float8 AS elapsed FROM jobs WHERE id = $1", begun.id
    )
    assert len(service.asked) == 30 <= burst(50.0) + 50.0 * row["elapsed"]


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=30),
)
def test_a_bucket_gives_no_more_than_its_rate_and_one_burst(rate: float, steps: list[tuple[float, int]]) -> None:
    tokens, given, elapsed = burst(rate), 0, 0.0
    for seconds, wanted in steps:
        taken = take(tokens, seconds, rate=rate, wanted=wanted)
        assert 0 <= taken.granted <= wanted
        assert (taken.wait_s > 0) == (taken.granted == 0)
        tokens, given, elapsed = taken.left, given + taken.granted, elapsed + seconds
    assert given <= burst(rate) + rate * elapsed + 1e-6


def _reseal(raw: bytes) -> Reseal:
    body = parse_body(raw)
    assert isinstance(body, Reseal)
    return body


def _body(job_id: str) -> bytes:
    from adytum.rotation.batch import Item, reseal_body

    return reseal_body(target(), Item(key_id(0), 1, request_id(job_id, key_id(0), 1)), 1_000_000)
