"""Which version of a record may still be used in this boot: one line of successors, whatever order they come in."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.versions import MAX_RECORDS, MAX_SUPERSEDED, VersionMemory
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header
from adytum_wire.types import Algorithm, KeyState, RecordKind


def header(version: int, key: int = 1, *, created_at: int = 0) -> tuple[Header, bytes]:
    """A header, and bytes that stand for it."""
    made = Header(
        tenant="acme",
        key_id=f"key-{key:032x}",
        node_id="node-1",
        kind=RecordKind.SECRET,
        algorithm=Algorithm.NONE,
        public_key="",
        version=version,
        generation=1,
        labels=[],
        state=KeyState.ACTIVE,
        delete_after=0,
        kms_key_arn="arn:aws:kms:us-east-1:111122223333:key/k",
        created_at=created_at,
    )
    return made, b"%d %d %d" % (version, key, created_at)


def code(call: object, *arguments: object, **named: object) -> Code | None:
    try:
        call(*arguments, **named)  # type: ignore[operator]
    except AdytumError as error:
        return error.code
    return None


@pytest.mark.parametrize("seen", ["note", "supersede"])
def test_another_record_of_the_version_that_counts_is_refused(seen: str) -> None:
    memory = VersionMemory()
    getattr(memory, seen)(*header(2, created_at=1))
    assert code(memory.require_proven, *header(2, created_at=1)) is None
    assert code(memory.require_proven, *header(2, created_at=2)) is Code.RECORD_ROLLBACK
    assert code(memory.require_proven, *header(1)) is Code.RECORD_ROLLBACK
    assert code(memory.require, header(1)[0]) is Code.RECORD_ROLLBACK
    assert code(memory.require_proven, *header(3)) is None
    assert code(memory.require_proven, *header(1, key=2)) is None
    assert code(memory.require_proven, *header(2, created_at=2), is_stop=True) is None
    assert code(memory.require_proven, *header(1), is_stop=True) is Code.RECORD_ROLLBACK
    assert code(memory.supersede, *header(2, created_at=2)) is Code.RECORD_ROLLBACK
    memory.note(*header(2, created_at=2))  # opened to stop it
    assert code(memory.require_proven, *header(2, created_at=1)) is None


def test_nothing_of_a_deleted_record_is_taken() -> None:
    memory = VersionMemory()
    memory.retire(header(1)[0].key_id)
    for version in (1, 2, 2**53 - 1):
        assert code(memory.require_proven, *header(version), is_stop=True) is Code.RECORD_ROLLBACK


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["use", "use", "stop"]), st.integers(1, 4), st.integers(0, 2)), max_size=30))
def test_in_no_order_of_uses_and_stops_are_two_records_of_one_version_used(steps: list[tuple[str, int, int]]) -> None:
    """`stop` makes the next version of a record that opens, as `disable_key` does."""
    memory = VersionMemory()
    used: dict[int, int] = {}
    highest = 0
    for number, (what, version, twin) in enumerate(steps):
        found = header(version, created_at=twin)
        if code(memory.require_proven, *found, is_stop=what == "stop") is not None:
            continue
        assert version >= highest
        memory.note(*found)
        if what == "stop":
            successor = header(version + 1, created_at=1000 + number)
            memory.supersede(*successor)
            highest = version + 1
            assert code(memory.require_proven, *found) is Code.RECORD_ROLLBACK
            used[version + 1] = 1000 + number
        else:
            highest = version
            assert version == 1 or used.setdefault(version, twin) == twin


def test_the_memory_is_bounded_and_a_full_one_still_stops_keys() -> None:
    memory = VersionMemory(max_records=3, max_superseded=2)
    for key in range(1, 7):
        memory.note(*header(1, key))
        memory.note(*header(2, key))
    assert len(memory) == 3
    memory.note(*header(3, 1))
    assert code(memory.require, header(2, 1)[0]) is Code.RECORD_ROLLBACK
    for key in (4, 5):
        assert code(memory.supersede, *header(3, key)) is None
        assert code(memory.require, header(2, key)[0]) is Code.RECORD_ROLLBACK
    assert code(memory.supersede, *header(3, 6)) is Code.RESOURCE_EXHAUSTED
    assert code(memory.retire, header(3, 6)[0].key_id) is Code.RESOURCE_EXHAUSTED
    assert len(memory) == 5
    assert (MAX_RECORDS, MAX_SUPERSEDED) == (1_000_000, 100_000)


def test_an_entry_is_small() -> None:
    memory = VersionMemory()
    one, encoded = header(2)
    tracemalloc.start()
    try:
        for key in range(1, 10_001):
            memory.note(msgspec.structs.replace(one, key_id=f"key-{key:032x}"), encoded)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 10_000 < 200  # bytes: 220 MB for all that are ever remembered
