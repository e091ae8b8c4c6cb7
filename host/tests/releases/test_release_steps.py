"""Releases as data and as rows: what may follow what, and what each refusal leaves as it was."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum.kms_policy import Deployment, Image, Roles
from adytum.releases import key_policy, rollover, store
from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.images import FIRST, SECOND, Images
from adytum.releases.measurements import read_measurements
from adytum.releases.release import Release, State, may_follow
from adytum.releases.store import Report
from adytum.storage import migrate
from adytum.storage.database import Database
from adytum_verify import PcrPolicy

STATES: tuple[State, ...] = ("planned", "active", "promoted", "retiring", "retired")


def pcrs(number: int, *more: int) -> dict[int, bytes]:
    return {index: bytes([number * 16 + index % 16 + 1]) * 48 for index in (0, 1, 2, *more)}


def release(name: str, number: int, *more: int, state: State = "planned") -> Release:
    return Release(name=name, pcrs=pcrs(number, *more), state=state)


A, B = release("a", 1), release("b", 2)


async def refused(work: Any) -> ReleaseCode:
    with pytest.raises(ReleaseError) as caught:
        await work
    return caught.value.code


def code_of(work: Callable[[], object]) -> ReleaseCode:
    with pytest.raises(ReleaseError) as caught:
        work()
    return caught.value.code


async def proven(database: Database, *names: str, in_flight: int = 0) -> None:
    """As a host would report it."""
    found = [
        Report(enclave=f"enclave-{n}", boot_id="b" * 32, release=name, state="proven", in_flight=in_flight)
        for n, name in enumerate(names)
    ]
    await store.write_reports(database, "host-1", found)


async def states(database: Database) -> dict[str, str]:
    return {r.name: r.state for r in await store.load(database)}


# --- steps


async def test_the_whole_way_of_two_releases(database: Database) -> None:
    assert (await rollover.plan(database, A)).state == "planned"
    assert (await rollover.plan(database, A)).state == "planned"  # again: nothing new
    assert await refused(rollover.promote(database, "a")) is ReleaseCode.STATE
    await rollover.add(database, "a")
    assert await refused(rollover.promote(database, "a")) is ReleaseCode.NOT_PROVEN
    await proven(database, "a")
    await rollover.promote(database, "a")
    await rollover.add(database, "b", B)
    assert await refused(rollover.promote(database, "b")) is ReleaseCode.NOT_PROVEN
    assert await states(database) == {"a": "promoted", "b": "active"}
    await proven(database, "a", "b")
    await rollover.promote(database, "b")
    assert await states(database) == {"a": "active", "b": "promoted"}
    await rollover.promote(database, "a")  # the way back
    await rollover.promote(database, "b")
    assert await refused(rollover.retire(database, "b")) is ReleaseCode.PROMOTED

    async def report(_: float) -> None:
        await proven(database, "a", "b")

    await rollover.retire(database, "a", sleep=report)
    assert await states(database) == {"a": "retired", "b": "promoted"}
    assert (await rollover.retire(database, "a")).state == "retired"
    assert await refused(rollover.add(database, "a")) is ReleaseCode.RETIRED
    assert (await rollover.add(database, "a", again=True)).state == "active"


async def test_the_only_proven_release_is_not_retired(database: Database) -> None:
    for item in (A, B):
        await rollover.add(database, item.name, item)
    await proven(database, "a")
    assert await refused(rollover.retire(database, "a")) is ReleaseCode.LAST_PROVEN
    assert (await states(database))["a"] == "active"
    await proven(database, "a", "")  # an image that the settings alone allow would do
    await rollover.retire(database, "b")  # of b nothing runs
    assert (await states(database))["b"] == "retired"


async def test_a_release_with_requests_under_way_stays_retiring_and_can_be_said_again(database: Database) -> None:
    for item in (A, B):
        await rollover.add(database, item.name, item)
    await proven(database, "a", "b", in_flight=1)

    async def busy(_: float) -> None:
        await proven(database, "a", "b", in_flight=1)

    assert await refused(rollover.retire(database, "a", drain_s=0.6, sleep=busy)) is ReleaseCode.BUSY
    assert (await states(database))["a"] == "retiring"
    assert await refused(rollover.promote(database, "a")) is ReleaseCode.STATE

    async def idle(_: float) -> None:
        await proven(database, "a", "b")

    assert (await rollover.retire(database, "a", sleep=idle)).state == "retired"


async def test_an_enclave_belongs_to_one_release(database: Database) -> None:
    await rollover.add(database, "a", A)
    twin = Release(name="twin", pcrs=A.pcrs)
    narrower = Release(name="narrow", pcrs=pcrs(1, 16))
    for other in (twin, narrower):
        assert await refused(rollover.plan(database, other)) is ReleaseCode.OVERLAPS
        assert await refused(rollover.add(database, other.name, other)) is ReleaseCode.OVERLAPS
    assert await refused(rollover.plan(database, Release(name="a", pcrs=B.pcrs))) is ReleaseCode.EXISTS
    for step in (rollover.add, rollover.promote, rollover.retire):
        assert await refused(step(database, "none")) is ReleaseCode.UNKNOWN
    assert await states(database) == {"a": "active"}


async def test_two_that_promote_together_leave_one_promoted(database: Database) -> None:
    for item in (A, B):
        await rollover.add(database, item.name, item)
    await proven(database, "a", "b")
    await asyncio.gather(*(rollover.promote(database, name) for name in ("a", "b", "a", "b")), return_exceptions=True)
    assert sorted((await states(database)).values()) == ["active", "promoted"]


async def test_what_a_host_said_long_ago_or_took_back_does_not_count(database: Database, fresh: Any) -> None:
    await rollover.add(database, "a", A)
    await proven(database, "a")
    await fresh.rows("UPDATE enclave_reports SET reported_at = now() - interval '11 seconds'")
    assert await refused(rollover.promote(database, "a")) is ReleaseCode.NOT_PROVEN
    await proven(database, "a")
    await store.write_reports(database, "host-1", ())
    assert await refused(rollover.promote(database, "a")) is ReleaseCode.NOT_PROVEN


async def test_a_release_comes_back_from_its_row_as_it_was(database: Database) -> None:
    full = Release(name="v1.2_rc-1", pcrs=pcrs(3, 3, 8, 16), provenance={"commit": "ab" * 20, "clean": True})
    await rollover.plan(database, full)
    [found] = await store.load(database)
    assert (dict(found.pcrs), found.provenance, found.state) == (dict(full.pcrs), full.provenance, "planned")
    await rollover.plan(database, A)
    assert dict(next(r for r in await store.load(database) if r.name == "a").pcrs) == dict(A.pcrs)


async def test_the_migration_goes_back_and_forth(empty_database: Any) -> None:
    await migrate.upgrade(empty_database.dsn)
    database = Database(empty_database.dsn)
    await rollover.plan(database, A)
    await proven(database, "a")
    await migrate.downgrade(empty_database.dsn, "0001")
    await migrate.upgrade(empty_database.dsn)
    assert await store.load(database) == []
    await database.close()


# --- data


@pytest.mark.parametrize("name", ["", "A", "-a", "a" * 65, "a b", "é"])
def test_names_that_are_refused(name: str) -> None:
    assert code_of(lambda: release(name, 1)) is ReleaseCode.NAME_INVALID


def test_measurements_that_are_refused() -> None:
    for bad in ({0: b"x" * 48}, pcrs(1) | {0: bytes(48)}, pcrs(1) | {4: b"x" * 48}, pcrs(1) | {0: b"x" * 47}):
        assert code_of(lambda bad=bad: Release(name="a", pcrs=bad)) is ReleaseCode.MEASUREMENTS_INVALID  # type: ignore[misc]


def test_measurements_and_provenance_are_read_alike() -> None:
    measured = {"HashAlgorithm": "Sha384 { ... }", **{f"PCR{i}": v.hex() for i, v in pcrs(1).items()}}
    provenance = {"v": 1, "tool": "adytum-image 0.1.0", "commit": "ab", "contents": {}, "Measurements": measured}
    assert read_measurements(json.dumps({"Measurements": measured}).encode()) == (pcrs(1), {})
    found, shown = read_measurements(json.dumps(provenance).encode())
    assert (found, shown) == (pcrs(1), {"tool": "adytum-image 0.1.0", "commit": "ab"})
    unsigned = {**provenance, "Measurements": {**measured, "PCR8": "00" * 48}}
    assert read_measurements(json.dumps(unsigned).encode())[0] == pcrs(1)
    debug = {**measured, "PCR0": "00" * 48}
    assert code_of(lambda: read_measurements(json.dumps(debug).encode())) is ReleaseCode.MEASUREMENTS_INVALID


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["Measurements", "PCR0", "PCR1", "HashAlgorithm", "x"]), inner, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_a_file_is_read_or_refused_by_name(data: bytes) -> None:
    try:
        found, _ = read_measurements(data)
    except ReleaseError as error:
        assert error.code is ReleaseCode.MEASUREMENTS_INVALID
    else:
        assert {0, 1, 2} <= set(found)


@given(st.lists(st.sampled_from(STATES), min_size=2, max_size=6))
def test_nothing_leads_from_retired_or_planned_to_the_traffic_at_once(path: list[State]) -> None:
    for now, then in itertools.pairwise(path):
        if may_follow(now, then) and then == "promoted":
            assert now == "active"


@given(st.sampled_from(STATES), st.booleans())
def test_what_a_gate_makes_of_each_state(state: State, configured: bool) -> None:
    images = Images(configured=(PcrPolicy(pcrs(1)),) if configured else (), releases=(release("a", 1, state=state), B))
    accepted = images.refusal(pcrs(1)) == ""
    assert accepted == (state in ("active", "promoted", "retiring") or (state == "planned" and configured))
    assert images.refusal(pcrs(3)) == "PCR_MISMATCH"
    if accepted:
        assert images.rank(pcrs(1)) == {"promoted": FIRST, "retiring": None}.get(state, SECOND)


# --- the key policy of an overlap


def deployment(*more: int) -> Deployment:
    arn = "arn:aws:iam::111122223333:role/"
    roles = Roles(parent=arn + "parent", admin=arn + "admin", break_glass=arn + "break-glass")
    key = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    return Deployment(key=key, roles=roles, tenants=("acme",), images=(Image("old", pcrs(9, 16, *more)),))


def test_the_overlap_names_both_images_and_the_manifest_of_the_deployment() -> None:
    both = json.dumps(key_policy.policy_for(deployment(), [A, B]))
    manifest = pcrs(9, 16)[16].hex()
    assert all(value.hex() in both for value in (*A.pcrs.values(), *B.pcrs.values()))
    assert manifest in both
    alone = key_policy.policy_for(deployment(), [B])
    assert not any(value.hex() in json.dumps(alone) for value in A.pcrs.values())
    change = key_policy.difference(both, alone)
    assert "-" in change
    assert A.pcrs[0].hex() in change
    assert key_policy.difference(json.dumps({"Policy": json.dumps(alone)}), alone) == ""


def test_what_the_deployment_pins_every_release_must_say() -> None:
    assert code_of(lambda: key_policy.policy_for(deployment(8), [A])) is ReleaseCode.KEY_POLICY
    assert code_of(lambda: key_policy.policy_for(deployment(), [])) is ReleaseCode.KEY_POLICY
    assert code_of(lambda: key_policy.difference("[]", {})) is ReleaseCode.KEY_POLICY
    pinned = json.dumps(key_policy.policy_for(deployment(3), [A]))
    assert pcrs(9, 3)[3].hex() not in pinned  # it follows from the parent role, and not from another image
    assert "PCR3" in pinned


def test_no_key_policy_shuts_out_an_image_that_the_settings_still_allow() -> None:
    key_policy.require_known([PcrPolicy(pcrs(1)), PcrPolicy(pcrs(2, 16))], [A, B])
    unknown = [PcrPolicy(pcrs(1)), PcrPolicy(pcrs(4))]
    assert code_of(lambda: key_policy.require_known(unknown, [A, B])) is ReleaseCode.KEY_POLICY
