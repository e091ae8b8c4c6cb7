"""The ledger with each kind of anchor: cold start, snapshots, resets, two enclaves on one anchor, lost answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.effects import DataKeyAnswer, NewDataKey, OpenDataKey, ReadAnchor, Together, WriteAnchor
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.usage.ledger import Hold, Ledger, Surroundings
from adytum_enclave.shell.together import Runs, drive
from adytum_policy.usage import Charge
from adytum_sim.anchors import MemoryAnchor
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import DynamoDbAnchor, HostAnchor, NoAnchor

ARN = "arn:aws:kms:eu-west-1:111122223333:key/a"
WINDOW = 64_000
START = 1_790_000_000_000
ANCHORS = {
    "none": NoAnchor(),
    "host": HostAnchor(),
    "dynamodb": DynamoDbAnchor(
        region="eu-west-1", host="a.example", port=8002, roots=["x"], table="table", credentials="host"
    ),
}


class Recipient:
    """In the place of the RSA key: KMS's answer is the data key as it is."""

    def open(self, answer: bytes, arena: Arena) -> Slot:
        slot = arena.take(32)
        slot.view[:] = answer
        return slot


def fill(view: memoryview) -> None:
    view[:] = os.urandom(len(view))


class Boot:
    """One enclave's ledger, and a shell for it. `kms` is shared: data keys by their ciphertext."""

    def __init__(self, kind: str, anchor: MemoryAnchor, kms: dict[bytes, bytes], *, now_ms: int = START) -> None:
        self.now_ms = now_ms
        self.anchor = anchor
        self.kms = kms
        self.kms_calls = 0
        self.arena = Arena(1 << 16)
        self.policies: dict[str, Any] = {}
        self.ledger = Ledger(
            Surroundings(
                boot_id=os.urandom(16).hex(),
                started_ms=now_ms,
                now_ms=lambda: self.now_ms,
                fill=fill,
                arena=self.arena,
                recipient=Recipient(),  # type: ignore[arg-type]
                policies=self.policies,
                head=lambda: ("0" * 32, 0, bytes(32)),
            )
        )
        tenants = [SimpleNamespace(id=name, kms_key=ARN) for name in ("acme", "other")]
        self.ledger.configure(
            SimpleNamespace(  # type: ignore[arg-type]
                deployment="test", tenants=tenants, kms=SimpleNamespace(keys=[ARN]), anchor=ANCHORS[kind]
            )
        )
        self.runs = Runs(self.perform)

    async def perform(self, effect: Any, deadline: float) -> Any:
        match effect:
            case Together():
                return await self.runs.join(effect, deadline)
            case ReadAnchor():
                await asyncio.sleep(0)
                return await self.anchor.read(effect.tenant, timeout_s=1)
            case WriteAnchor():
                await asyncio.sleep(0)
                return await self.anchor.write(effect.tenant, effect.expected, effect.anchored, timeout_s=1)
            case NewDataKey():
                self.kms_calls += 1
                key, blob = os.urandom(32), os.urandom(64)
                self.kms[blob] = key
                return DataKeyAnswer(ciphertext_for_recipient=key, ciphertext_blob=blob)
            case OpenDataKey():
                self.kms_calls += 1
                if effect.ciphertext_blob not in self.kms:
                    raise AdytumError(Code.RECORD_TAMPERED)
                return DataKeyAnswer(
                    ciphertext_for_recipient=self.kms[effect.ciphertext_blob], ciphertext_blob=effect.ciphertext_blob
                )
        raise AssertionError(effect)

    async def run(self, steps: Any) -> Any:
        return await drive(steps, self.perform, asyncio.get_running_loop().time() + 5)

    def used(self, charge: Charge, request: int = 0) -> int | None:
        return self.ledger.view("acme", digest(request), self.now_ms).used(charge)

    async def spend(self, request: int, charge: Charge, *, work: Callable[[], Any] | None = None) -> bytes:
        """What the pipeline does. Errors: LIMIT_EXCEEDED, USAGE_UNKNOWN, and those of the anchor."""
        view = self.ledger.view("acme", digest(request), self.now_ms)
        used = view.used(charge)
        if view.missed and await self.run(self.ledger.learn("acme")):
            used = self.used(charge, request)
        if used is None:
            raise AdytumError(Code.USAGE_UNKNOWN)
        if used + charge.amount > charge.max:
            raise AdytumError(Code.LIMIT_EXCEEDED)
        hold: Hold | None = self.ledger.reserve("acme", [charge], digest(request), self.now_ms)
        try:
            if work is not None:
                await work()
            return await self.run(self.ledger.commit(hold))  # type: ignore[no-any-return]
        except BaseException:
            self.ledger.give_back(hold)
            raise

    def held(self) -> int:
        return sum(held for _, _, _, held in self.ledger.describe("acme")[2])


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def charge(amount: int = 1, *, most: int = 10, limit: str = "daily", window_ms: int = WINDOW) -> Charge:
    return Charge(limit=limit, scope="tenant", amount=amount, max=most, window_ms=window_ms)


async def refused(call: Any, code: Code) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        await call
    assert caught.value.code is code, caught.value
    return caught.value


@pytest.mark.parametrize("kind", ["none", "host"])
async def test_each_limit_opens_when_its_own_window_has_passed(kind: str) -> None:
    boot = Boot(kind, MemoryAnchor(), {})
    short, long = charge(), charge(limit="monthly", window_ms=10 * WINDOW)
    boot.now_ms += WINDOW - 1
    await refused(boot.spend(1, short), Code.USAGE_UNKNOWN)
    boot.now_ms += 1
    await boot.spend(1, short)
    await refused(boot.spend(2, long), Code.USAGE_UNKNOWN)
    boot.now_ms -= WINDOW // 2  # a clock that steps back closes nothing that was open, and frees nothing
    assert boot.used(short) == 1
    boot.now_ms = START + 10 * WINDOW
    await boot.spend(2, long)


async def test_with_the_table_passing_time_opens_nothing() -> None:
    """Other enclaves may have charged meanwhile."""
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    boot.now_ms += 100 * WINDOW
    assert boot.used(charge()) is None
    await boot.spend(1, charge())
    assert boot.used(charge()) == 1


async def test_a_snapshot_is_one_data_key_for_all() -> None:
    boot = Boot("host", MemoryAnchor(), {})
    boot.ledger.reset("acme", "*")
    sealed = await asyncio.gather(*(boot.spend(number, charge()) for number in range(10)))
    assert boot.kms_calls == 1
    assert len(set(sealed)) == 10
    assert boot.arena.in_use == 64
    boot.ledger.wipe()
    assert boot.arena.in_use == 0


async def test_the_snapshot_with_the_highest_version_has_every_charge() -> None:
    kms: dict[bytes, bytes] = {}
    first = Boot("host", MemoryAnchor(), kms)
    first.ledger.reset("acme", "*")
    sealed = [await first.spend(number, charge()) for number in range(4)]
    second = Boot("host", MemoryAnchor(), kms, now_ms=START + 1000)
    await second.run(second.ledger.put_usage("acme", sealed[-1]))
    assert second.used(charge(), 99) == 4
    assert second.used(charge(), 3) == 3, "a repeat does not stand in its own way"
    await refused(second.run(second.ledger.put_usage("acme", sealed[0])), Code.USAGE_ROLLBACK)
    await refused(second.run(second.ledger.put_usage("other", sealed[-1])), Code.USAGE_INVALID)


async def test_a_late_snapshot_is_added_to_what_this_boot_charged() -> None:
    kms: dict[bytes, bytes] = {}
    first = Boot("host", MemoryAnchor(), kms)
    first.ledger.reset("acme", "*")
    old = await first.spend(1, charge(3))
    first.now_ms += 1000
    newer = await first.spend(2, charge(1))
    second = Boot("host", MemoryAnchor(), kms, now_ms=START)
    await second.run(second.ledger.put_usage("acme", old))
    await second.spend(3, charge(2))
    await second.run(second.ledger.put_usage("acme", newer))
    assert second.used(charge(), 99) == 9, "3 twice, 1 and 2: the strict side"


async def test_a_lost_answer_of_the_anchor_charges_once() -> None:
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    await boot.spend(1, charge())
    anchor.lose_answers = 1
    await refused(boot.spend(2, charge(3)), Code.ANCHOR_UNAVAILABLE)
    assert boot.held() == 0
    await boot.spend(2, charge(3))
    assert boot.used(charge(), 99) == 4
    assert anchor.writes == 2, "the repeat found itself charged"


async def test_many_requests_share_a_write() -> None:
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    await boot.spend(0, charge(most=100))
    await asyncio.gather(*(boot.spend(number, charge(most=100)) for number in range(1, 51)))
    assert anchor.writes <= 4
    assert boot.used(charge(most=100), 99) == 51


async def test_another_enclave_that_uses_up_the_limit_first_wins() -> None:
    anchor, kms = MemoryAnchor(), dict[bytes, bytes]()
    one, two = Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)
    await one.spend(1, charge(4))
    await two.spend(2, charge(4))
    await refused(one.spend(3, charge(4)), Code.LIMIT_EXCEEDED)
    assert one.held() == two.held() == 0
    assert one.used(charge(), 99) == 8, "it has read what the other wrote"


async def test_contention_without_end_is_refused() -> None:
    anchor, kms = MemoryAnchor(), dict[bytes, bytes]()
    boot, other = Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)
    await boot.spend(1, charge())
    found = anchor.items

    def interfere() -> None:
        item = found["acme"]
        found["acme"] = type(item)(version=item.version + 1, snapshot=item.snapshot)

    anchor.before_write = interfere
    error = await refused(boot.spend(2, charge()), Code.USAGE_INVALID)  # the version stands in the sealed header, too
    anchor.before_write = None
    assert error.field == "$.version"
    assert boot.held() == 0
    await refused(other.spend(3, charge()), Code.USAGE_INVALID)


async def test_an_item_that_does_not_open_is_overwritten_when_admins_reset() -> None:
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    await boot.spend(1, charge(4))
    stranger = Boot("dynamodb", anchor, {})  # another KMS: the data key does not open there
    await refused(stranger.spend(2, charge()), Code.USAGE_INVALID)
    stranger.ledger.reset("acme", ["daily"])
    await refused(stranger.spend(2, charge()), Code.USAGE_INVALID)
    stranger.ledger.reset("acme", "*")
    await stranger.spend(2, charge())
    assert stranger.used(charge(), 99) == 1


async def test_a_reset_forgives_one_rollback_and_keeps_what_this_boot_knows() -> None:
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    items = []
    for number in range(4):
        await boot.spend(number, charge())
        items.append(anchor.items["acme"])
    anchor.items["acme"] = items[1]
    await refused(boot.spend(7, charge()), Code.USAGE_ROLLBACK)
    boot.ledger.reset("acme", "*")
    await boot.run(boot.ledger.learn("acme"))
    assert boot.used(charge(), 99) == 4, "what was learned stays, although the item knows less"
    await boot.spend(7, charge())
    assert boot.used(charge(), 99) == 5
    for old in (*items, None):
        anchor.items.pop("acme") if old is None else anchor.items.update(acme=old)
        before = boot.ledger.describe("acme")
        await refused(boot.spend(8, charge()), Code.USAGE_ROLLBACK)
        assert boot.ledger.describe("acme")[2] == before[2]
        assert anchor.items.get("acme") is old
        error = None
        try:
            boot.ledger.reset("acme", "*")  # what the admins signed, sent again
        except AdytumError as caught:
            error = caught
        assert error is not None and error.code is Code.USAGE_INVALID
        await refused(boot.spend(8, charge()), Code.USAGE_ROLLBACK)


async def test_what_others_write_on_a_forgiven_item_is_added() -> None:
    anchor, kms = MemoryAnchor(), dict[bytes, bytes]()
    boot, other = Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)
    await boot.spend(1, charge(2))
    old = anchor.items["acme"]
    await boot.spend(2, charge(3))
    anchor.items["acme"] = old
    await refused(boot.spend(3, charge()), Code.USAGE_ROLLBACK)
    boot.ledger.reset("acme", "*")
    await boot.run(boot.ledger.learn("acme"))
    boot.now_ms = other.now_ms = START + 10
    await other.spend(4, charge(1))  # it began with the old item: 2 + 1
    await boot.spend(5, charge(1))
    assert boot.used(charge(), 99) == 5 + 3 + 1, "2 twice: the strict side"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_history_of_rollbacks_and_resets_forgives_twice(data: st.DataObject) -> None:
    """The host puts any earlier item back, or none, and sends the one reset of this boot whenever it likes: at most one
    older item is ever accepted, and what the boot knows never shrinks."""
    asyncio.run(_roll_back(data))


async def _roll_back(data: st.DataObject) -> None:
    anchor = MemoryAnchor()
    boot = Boot("dynamodb", anchor, {})
    history: list[Any] = [None]
    known = accepted = resets = 0
    for number in range(data.draw(st.integers(1, 14))):
        step = data.draw(st.sampled_from(["spend", "spend", "back", "reset"]))
        if step == "back":
            old = data.draw(st.sampled_from(history))
            anchor.items.pop("acme", None) if old is None else anchor.items.update(acme=old)
        elif step == "reset":
            try:
                boot.ledger.reset("acme", "*")
                resets += 1
            except AdytumError as error:
                assert error.code is Code.USAGE_INVALID
        else:
            went_back = anchor.items.get("acme") is not history[-1]
            try:
                await boot.spend(number, charge(most=10**6))
            except AdytumError as error:
                assert error.code is Code.USAGE_ROLLBACK
                assert went_back
            else:
                accepted += went_back
                known += 1
                history.append(anchor.items["acme"])
        counted = sum(used for _, _, used, _ in boot.ledger.describe("acme")[2])
        assert counted == known
    assert accepted <= min(1, resets)


async def test_a_policy_seen_by_another_enclave_takes_the_older_one_out_of_force() -> None:
    anchor, kms = MemoryAnchor(), dict[bytes, bytes]()
    one, two = Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)
    await one.run(one.ledger.admit_policy("acme", 5, b"5" * 32))
    one.policies["acme"] = SimpleNamespace(policy=SimpleNamespace(version=5), digest=b"5" * 32)
    await two.run(two.ledger.admit_policy("acme", 6, b"6" * 32))
    await one.spend(1, charge())
    assert "acme" not in one.policies
    await refused(one.run(one.ledger.admit_policy("acme", 5, b"5" * 32)), Code.POLICY_ROLLBACK)
    await refused(one.run(one.ledger.admit_policy("acme", 6, b"x" * 32)), Code.POLICY_ROLLBACK)
    await one.run(one.ledger.admit_policy("acme", 6, b"6" * 32))
    third = Boot("dynamodb", anchor, kms)
    await refused(third.run(third.ledger.admit_policy("acme", 5, b"5" * 32)), Code.POLICY_ROLLBACK)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_interleaving_of_two_enclaves_exceeds_the_limit(data: st.DataObject) -> None:
    """Requests of any size on two enclaves, in any order, repeated, failing at KMS, with the anchor's answers lost: the
    charges of all that came through fit, everything that came through is charged once, and nothing stays held."""
    most = 12
    plan = data.draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(1, 8), st.booleans(), st.integers(0, 3)), min_size=1, max_size=24
        )
    )
    lost = data.draw(st.integers(0, 3))

    async def scenario() -> None:
        anchor, kms = MemoryAnchor(), dict[bytes, bytes]()
        boots = [Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)]
        await boots[0].run(boots[0].ledger.admit_policy("acme", 1, b"1" * 32))
        anchor.lose_answers = lost
        done: dict[int, int] = {}
        under_way: set[tuple[int, int]] = set()

        async def one(boot: Boot, request: int, is_failing: bool, waits: int) -> None:
            if (id(boot), request) in under_way:
                return  # the replay memory's part
            under_way.add((id(boot), request))
            amount = request % 4 + 1

            async def work() -> None:
                for _ in range(waits):
                    await asyncio.sleep(0)
                if is_failing:
                    raise AdytumError(Code.KMS_DENIED)

            try:
                await boot.spend(request, charge(amount, most=most), work=work)
                done[request] = amount
            except AdytumError as error:
                assert error.code in (Code.LIMIT_EXCEEDED, Code.KMS_DENIED, Code.ANCHOR_UNAVAILABLE)
            finally:
                under_way.discard((id(boot), request))

        await asyncio.gather(*(one(boots[where], request, fails, waits) for where, request, fails, waits in plan))
        assert sum(done.values()) <= most
        assert [boot.held() for boot in boots] == [0, 0]
        fresh = Boot("dynamodb", anchor, kms)
        await fresh.run(fresh.ledger.learn("acme"))
        used = fresh.used(charge(most=most), 999)
        assert used is not None and sum(done.values()) <= used <= most
        if not lost:
            assert used == sum(done.values())

    asyncio.run(scenario())


class Gated(MemoryAnchor):
    """`gate`: each write waits for it, after `asked` was set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def write(self, tenant: str, expected: int | None, anchored: Any, *, timeout_s: float) -> bool:
        self.asked.set()
        await self.gate.wait()
        return await super().write(tenant, expected, anchored, timeout_s=timeout_s)

    def shut(self) -> None:
        self.gate.clear()
        self.asked.clear()


async def test_what_is_posted_in_a_write_under_way_is_not_settled() -> None:
    """Two settlings of one tenant at once, which the shell must never make: the second finds nothing to write. Whoever
    waits for it is not told that its charge lasts."""
    boot = Boot("dynamodb", MemoryAnchor(), {})
    await boot.spend(0, charge())
    hold = boot.ledger.reserve("acme", [charge(3)], digest(1), boot.now_ms)
    commit = boot.ledger.commit(hold)
    settling = next(commit)
    first, second = settling.steps(), settling.steps()
    assert isinstance(next(first), WriteAnchor)
    with pytest.raises(StopIteration):
        next(second)
    with pytest.raises(AdytumError) as caught:
        commit.send(None)
    assert caught.value.code is Code.ANCHOR_UNAVAILABLE
    boot.ledger.give_back(hold)
    with pytest.raises(AdytumError):
        first.throw(AdytumError(Code.ANCHOR_UNAVAILABLE))
    assert (boot.used(charge(), 99), boot.held()) == (None, 0)
    await boot.run(boot.ledger.learn("acme"))
    assert boot.used(charge(), 99) == 1


async def test_a_request_that_comes_between_two_settlings_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host cuts a settling off while another request waits for the next one; a third comes in each turn after."""
    anchor = Gated()
    boot = Boot("dynamodb", anchor, {})
    await boot.spend(0, charge(most=100))
    real, active = Ledger._settle, [0, 0]

    def settle(self: Ledger, tenant: Any) -> Any:
        active[0] += 1
        active[1] = max(active)
        try:
            return (yield from real(self, tenant))
        finally:
            active[0] -= 1

    monkeypatch.setattr(Ledger, "_settle", settle)
    anchor.shut()
    tasks = [asyncio.create_task(boot.spend(1, charge(most=100)))]
    await anchor.asked.wait()
    tasks.append(asyncio.create_task(boot.spend(2, charge(most=100))))
    await asyncio.sleep(0)
    anchor.lose_answers = 1
    anchor.gate.set()
    for number in range(3, 20):
        tasks.append(asyncio.create_task(boot.spend(number, charge(most=100))))
        await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    came_through = sum(not isinstance(one, AdytumError) for one in ended)
    assert active == [0, 1]
    fresh = Boot("dynamodb", anchor, boot.kms)
    await fresh.run(fresh.ledger.learn("acme"))
    used = fresh.used(charge(most=100), 999)
    assert used is not None and 1 + came_through <= used
    assert boot.held() == 0


async def test_of_two_documents_of_one_policy_version_the_anchor_takes_one() -> None:
    anchor, kms = Gated(), dict[bytes, bytes]()
    one, two = Boot("dynamodb", anchor, kms), Boot("dynamodb", anchor, kms)
    anchor.shut()
    late = asyncio.create_task(one.run(one.ledger.admit_policy("acme", 5, b"z" * 32)))
    await anchor.asked.wait()
    # While that is on its way, the other enclave's is written.
    quick = MemoryAnchor()
    quick.items = anchor.items
    two.anchor = quick
    await two.run(two.ledger.admit_policy("acme", 5, b"a" * 32))
    anchor.gate.set()
    await refused(late, Code.POLICY_ROLLBACK)
    third = Boot("dynamodb", anchor, kms)
    await refused(third.run(third.ledger.admit_policy("acme", 5, b"z" * 32)), Code.POLICY_ROLLBACK)
    await third.run(third.ledger.admit_policy("acme", 5, b"a" * 32))


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_policy_that_comes_while_a_charge_is_written_is_admitted(is_lost: bool) -> None:
    anchor = Gated()
    boot = Boot("dynamodb", anchor, {})
    await boot.spend(0, charge())
    anchor.shut()
    spent = asyncio.create_task(boot.spend(1, charge()))
    await anchor.asked.wait()
    put = asyncio.create_task(boot.run(boot.ledger.admit_policy("acme", 2, b"2" * 32)))
    await asyncio.sleep(0)
    anchor.lose_answers = int(is_lost)
    anchor.gate.set()
    await asyncio.gather(spent, put, return_exceptions=True)
    assert put.exception() is None
    fresh = Boot("dynamodb", anchor, boot.kms)
    await refused(fresh.run(fresh.ledger.admit_policy("acme", 1, b"1" * 32)), Code.POLICY_ROLLBACK)
