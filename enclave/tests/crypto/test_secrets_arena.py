"""The arena: zeroed, aligned, wiped, merged, bounded; slots that cannot be copied, printed or used once wiped."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl._sodium import ffi

from adytum_enclave.core import keys
from adytum_enclave.core.crypto.exclusive import Adder
from adytum_enclave.core.hd import Seed
from adytum_enclave.core.secrets import Arena, Slot, Wiped, equal
from adytum_enclave.core.secrets import copy as copy_into
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm


@pytest.fixture(params=[True, False], ids=["memfd_secret", "anonymous"])
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(65536, prefer_memfd_secret=request.param)


def raw(slot: Slot) -> bytes:
    return bytes(slot.view)


def test_a_slot_is_zeroed_aligned_and_counted(arena: Arena) -> None:
    with arena.take(33) as slot:
        assert (raw(slot), slot.size, slot.pointer % 64, arena.in_use) == (bytes(33), 33, 0, 64)
        slot.view[:] = b"x" * 33
    assert arena.in_use == 0
    assert arena.kind in ("memfd_secret", "locked", "unlocked")


def test_wiping_zeroes_the_whole_block_and_a_second_wipe_does_nothing(arena: Arena) -> None:
    first = arena.take(40)
    address = first.pointer
    first.view[:] = b"s" * 40
    first.wipe()
    first.wipe()
    assert arena.in_use == 0
    assert not first.alive
    again = arena.take(64)
    assert (again.pointer, raw(again)) == (address, bytes(64))


@pytest.mark.parametrize("use", [lambda s: s.view, lambda s: s.pointer, lambda s: s.cdata(ffi), lambda s: s.zero()])
def test_a_wiped_slot_refuses_every_use(arena: Arena, use: object) -> None:
    slot = arena.take(32)
    slot.wipe()
    with pytest.raises(ValueError, match="the slot was wiped"):
        use(slot)  # type: ignore[operator]


def test_a_view_kept_from_a_wiped_slot_does_not_reach_the_next_owner(arena: Arena) -> None:
    slot = arena.take(32)
    kept = slot.view
    slot.wipe()
    with pytest.raises(ValueError, match="released"):
        kept[0]


def test_a_buffer_still_held_at_wiping_is_zeroed_and_given_to_nobody(arena: Arena) -> None:
    slot = arena.take(32)
    slot.view[:] = b"s" * 32
    held = memoryview(slot.view)
    nested = memoryview(held)
    address = slot.pointer
    export = (held, nested)
    try:
        slot.wipe()
    except BufferError:
        assert arena.take(32).pointer != address
    assert all(bytes(view) == bytes(32) for view in export)


def test_slots_cannot_be_copied_pickled_compared_or_printed(arena: Arena) -> None:
    slot, other = arena.take(32), arena.take(32)
    slot.view[:] = other.view[:] = b"secret!!" * 4
    for refused in (copy.copy, copy.deepcopy, pickle.dumps, bytes, len, iter, memoryview):
        with pytest.raises(TypeError):
            refused(slot)
    with pytest.raises(TypeError):
        pickle.dumps(arena)
    assert slot != other
    assert repr(slot) == str(slot) == "<Slot 32 bytes>"
    assert not hasattr(slot, "__dict__")
    assert "secret!!" not in repr(arena)


MAKERS: list[Callable[[Arena], Wiped]] = [
    lambda arena: arena.take(32),
    lambda arena: Adder(arena, 32),
    lambda arena: Seed(_filled(arena)),
    lambda arena: Seed(_filled(arena)).master(Algorithm.ED25519),
    lambda arena: keys.load(Algorithm.SECP256K1, _filled(arena), code=Code.INTERNAL),
]


def _filled(arena: Arena) -> Slot:
    slot = arena.take(32)
    slot.view[:] = b"s" * 32
    return slot


@pytest.mark.parametrize("make", MAKERS, ids=["slot", "adder", "seed", "node", "key"])
def test_what_owns_secrets_is_wiped_when_it_is_left_and_never_copied(arena: Arena, make: Callable[..., Wiped]) -> None:
    owner = make(arena)
    assert arena.in_use
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="what owns secrets"):
            refused(owner)
    with pytest.raises(RuntimeError), owner as entered:
        assert entered is owner
        raise RuntimeError
    assert arena.in_use == 0
    owner.wipe()
    assert not hasattr(owner, "__dict__")


def test_an_owner_that_does_not_say_how_it_is_wiped_is_loud() -> None:
    with pytest.raises(TypeError), Wiped():
        pass


def test_a_forgotten_slot_is_wiped_when_it_is_collected(arena: Arena) -> None:
    slot = arena.take(32)
    slot.view[:] = b"s" * 32
    del slot
    assert arena.in_use == 0
    assert raw(arena.take(64)) == bytes(64)


def test_a_full_arena_refuses_and_nothing_changes(arena: Arena) -> None:
    slots = [arena.take(16384) for _ in range(4)]
    with pytest.raises(AdytumError) as caught:
        arena.take(1)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert arena.in_use == 65536
    slots[1].wipe()
    assert len([arena.take(64) for _ in range(2)]) == 2


def test_small_slots_do_not_wear_the_arena_out(arena: Arena) -> None:
    for slot in [arena.take(64) for _ in range(1024)]:
        slot.wipe()
    with arena.take(65536) as whole:
        assert raw(whole) == bytes(65536)
    arena.take(64)


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_that_cannot_be_are_refused(arena: Arena, size: int) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        arena.take(size)
    with pytest.raises(ValueError, match="at least one byte"):
        Arena(size)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 40), st.booleans()), max_size=60), st.integers(1, 40_000)
)
def test_slots_never_overlap_and_always_start_zeroed(steps: list[tuple[int, int, bool]], size: int) -> None:
    arena = Arena(size, prefer_memfd_secret=False)
    live: list[Slot] = []
    for wanted, which, free in steps:
        if free and live:
            live.pop(which % len(live)).wipe()
            continue
        try:
            slot = arena.take(wanted)
        except AdytumError:
            continue
        assert raw(slot) == bytes(wanted)
        slot.view[:] = b"\xff" * wanted
        live.append(slot)
        spans = sorted((s.pointer, s.pointer + s.size) for s in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for slot in live:
        slot.wipe()
    assert arena.in_use == 0
    largest = 1 << (arena.size.bit_length() - 1)
    assert raw(arena.take(largest)) == bytes(largest)


def test_equal_compares_contents() -> None:
    assert equal(b"", b"")
    assert equal(b"same", memoryview(bytearray(b"same")))
    assert not equal(b"same", b"sane")
    assert not equal(b"same", b"same ")


def test_copying_more_than_fits_is_refused(arena: Arena) -> None:
    slot = arena.take(4)
    with pytest.raises(ValueError):
        copy_into(memoryview(b"12345"), slot)
    copy_into(memoryview(b"34"), slot, 2)
    assert raw(slot) == b"\0\x0034"


def test_a_small_memlock_limit_is_reported_not_hidden() -> None:
    """In a process of its own: the limit binds only without CAP_IPC_LOCK, so either answer must be truthful."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "from adytum_enclave.core.secrets import Arena\n"
        "arena = Arena(65536)\n"
        "locked = [l for l in open('/proc/self/status') if l.startswith('VmLck')][0].split()[1]\n"
        "print(arena.kind, locked)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    kind, locked = out[0], int(out[1])
    assert kind in ("memfd_secret", "locked", "unlocked")
    assert (locked > 0) == (kind != "unlocked")


def test_the_mapping_is_never_dumped_and_never_inherited() -> None:
    for prefer in (True, False):
        arena = Arena(8192, prefer_memfd_secret=prefer)
        slot = arena.take(64)
        flags = smaps_flags(slot.pointer)
        assert {"dd", "dc"} <= flags  # VM_DONTDUMP, VM_DONTCOPY
        assert arena.kind == "unlocked" or "lo" in flags


def smaps_flags(address: int) -> set[str]:
    inside = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                start, end = (int(part, 16) for part in first.split("-"))
                inside = start <= address < end
            elif inside and first == "VmFlags:":
                return set(line.split()[1:])
    raise AssertionError("the mapping was not found")
