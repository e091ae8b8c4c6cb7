"""A key's state is sealed into its record: the host can neither use a disabled key nor bring a deleted one back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from wallet import Wallet, allow_everything, ethereum, made, refused

from adytum_enclave.core.effects import Effect, NewDataKey
from adytum_sim.inside import Inside
from adytum_sim.people import Person, request_body
from adytum_wire import results
from adytum_wire.errors import Code
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.record import Record, parse_header
from adytum_wire.types import KeyState

START = 1_800_000_000_000
DAY = 86_400_000
STATES = ["enable_key", "disable_key", "schedule_deletion", "cancel_deletion", "delete_key"]
ARN = "arn:aws:kms:eu-central-1:111122223333:key/one"


def manifest(admin: Person) -> bytes:
    kms = {"region": "eu-central-1", "account": "111122223333", "keys": [ARN], "host": "kms", "port": 8000}
    bounds = {"request_past_ms": 300_000, "request_future_ms": 60_000, "approval_past_ms": DAY, "key_ttl_seconds": 60}
    return json.dumps(
        {
            "v": 1, "deployment": "inside", "epoch": 1, "debug": False, "node_id": "node-1",
            "kms": kms | {"roots": ["x"], "credentials": "pushed"},
            "tenants": [{"id": "acme", "kms_key": ARN, "admins": [admin.as_admin()], "threshold": 1}],
            "bounds": bounds | {"key_max_uses": 100, "max_warm_keys": 10},
            "anchor": {"kind": "none"},
        }
    ).encode()  # fmt: skip


@dataclass(slots=True)
class Held:
    """An enclave in this process, its one client, and one key of it as the host holds it."""

    inside: Inside
    alice: Person
    admin: Person
    key_id: str
    record: Record

    def ask(self, operation: str, *, record: Record | None = None, **fields: Any) -> ExecuteReply | Refusal:
        return self.inside.ask(self.alice, operation, record=record or self.record, key_id=self.key_id, **fields)

    def sign(self, record: Record | None = None) -> ExecuteReply | Refusal:
        return self.ask("sign", record=record, path="", scheme="ecdsa-secp256k1", content=ethereum())

    def step(self, operation: str, **fields: Any) -> Record:
        """Change the state; the host stores the new record. Returns the older one."""
        before = self.record
        reply = self.ask(operation, **fields)
        assert isinstance(reply, ExecuteReply), reply
        assert reply.record is not None
        self.record = reply.record
        return before

    def policy(self, version: int, **records: int) -> dict[str, Any]:
        rules = [allow_everything(), allow_everything("states", operations=STATES)]
        return {
            "v": 1, "tenant": "acme", "version": version, "valid_until": START + 365 * DAY,
            "records": {"generation": 1, "min_generation": 1} | records,
            "recovery": "none", "passkeys": "none", "recipients": [], "limits": [],
            "principals": [self.alice.as_principal("signer")], "rules": rules,
        }  # fmt: skip


@pytest.fixture
def held() -> Held:
    admin, alice = Person.new("admin"), Person.new("alice")
    inside = Inside(manifest=manifest(admin), start_ms=START)
    held = Held(inside, alice, admin, "", Record(b"", b"", b""))
    inside.put_policy(held.policy(1), admin)
    reply = inside.ask(alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is not None
    held.key_id, held.record = results.parse_result(reply.result).key_id, reply.record
    return held


def test_a_disabled_key_signs_nothing_until_it_is_enabled(held: Held) -> None:
    first = held.sign()
    assert isinstance(first, ExecuteReply)
    held.step("disable_key")
    assert refused(held.sign(), Code.KEY_STATE).field == "$.state"
    held.step("enable_key")
    again = held.sign()
    assert isinstance(again, ExecuteReply)
    encoded = [json.loads(reply.result)["encoded"] for reply in (first, again)]
    assert encoded[0] == encoded[1]


@pytest.mark.parametrize("step", ["disable_key", "schedule_deletion"])
def test_the_record_from_before_a_key_was_disabled_is_refused_at_once(held: Held, step: str) -> None:
    """Roll back: the host kept the record that says active. The newer one need not have been opened for that."""
    active = held.step(step, **({"waiting_days": 7} if step == "schedule_deletion" else {}))
    refused(held.sign(active), Code.RECORD_ROLLBACK)
    refused(held.sign(), Code.KEY_STATE)


@pytest.mark.parametrize("step", ["disable_key", "schedule_deletion"])
def test_a_reseal_that_the_host_kept_back_does_not_outlive_the_stop_of_its_key(held: Held, step: str) -> None:
    """Fork: the host asked for a reseal of version 1, hid the answer, and let the stop of version 1 through. Both are
    version 2, and only one of them says that the key is stopped."""
    active = held.record
    fork = held.ask("reseal")
    assert isinstance(fork, ExecuteReply)
    held.step(step, **({"waiting_days": 7} if step == "schedule_deletion" else {}))
    for record in (fork.record, active):
        refused(held.sign(record), Code.RECORD_ROLLBACK)
        refused(held.ask("reseal", record=record), Code.RECORD_ROLLBACK)
    refused(held.sign(), Code.KEY_STATE)


def test_a_lost_answer_to_a_disable_can_be_had_again(held: Held) -> None:
    """The host lost the new record: the same request gives it again, and the key is not locked for ever."""
    body = request_body("acme", "disable_key", held.inside.clock_ms, key_id=held.key_id)
    message = Execute(body, held.alice.stamp(body), held.record)
    first = held.inside.execute(message)
    assert isinstance(first, ExecuteReply)
    assert held.inside.execute(message) == first
    assert first.record is not None
    held.record = first.record
    held.step("enable_key")
    assert isinstance(held.sign(), ExecuteReply)


def test_a_header_that_says_active_over_a_disabled_record_does_not_open(held: Held) -> None:
    held.step("disable_key")
    header = msgspec.structs.replace(parse_header(held.record.header), state=KeyState.ACTIVE)
    forged = msgspec.structs.replace(held.record, header=msgspec.json.encode(header))
    refused(held.sign(forged), Code.RECORD_TAMPERED)


@pytest.mark.parametrize(
    ("steps", "refused_steps"),
    [
        ([], ["enable_key", "cancel_deletion", "delete_key"]),
        (["disable_key"], ["disable_key", "cancel_deletion", "delete_key"]),
        (["schedule_deletion"], ["enable_key", "disable_key", "schedule_deletion"]),
        (["disable_key", "schedule_deletion"], ["enable_key", "disable_key", "schedule_deletion"]),
        (["schedule_deletion", "cancel_deletion"], ["disable_key", "cancel_deletion", "delete_key"]),
    ],
)
def test_a_step_that_the_state_does_not_have_changes_nothing(
    held: Held, steps: list[str], refused_steps: list[str]
) -> None:
    for step in steps:
        held.step(step, **({"waiting_days": 7} if step == "schedule_deletion" else {}))
    before = held.record
    for step in refused_steps:
        fields = {"waiting_days": 7} if step == "schedule_deletion" else {}
        refused(held.ask(step, **fields), Code.KEY_STATE)
    assert held.record == before


def test_a_key_is_deleted_only_after_its_waiting_period_by_the_enclaves_clock(held: Held) -> None:
    held.step("schedule_deletion", waiting_days=7)
    refused(held.sign(), Code.KEY_STATE)
    assert refused(held.ask("delete_key"), Code.KEY_STATE).field == "$.delete_after"
    held.inside.clock_ms += 7 * DAY - 1
    refused(held.ask("delete_key"), Code.KEY_STATE)
    held.inside.clock_ms += 1
    reply = held.ask("delete_key")
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is None
    assert json.loads(reply.result)["record_version"] == 2
    # The host kept the record all the same: this boot opens no version of it.
    refused(held.ask("cancel_deletion"), Code.RECORD_ROLLBACK)
    refused(held.ask("reseal"), Code.RECORD_ROLLBACK)


def test_a_reseal_under_way_does_not_outlive_the_deletion_of_its_key(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host lets the deletion through while the reseal waits for its new data key: no record of the key is made."""
    held.step("schedule_deletion", waiting_days=7)
    held.inside.clock_ms += 7 * DAY
    perform, deleted = held.inside._perform, []

    def delete_first(effect: Effect) -> Any:
        if isinstance(effect, NewDataKey) and not deleted:
            deleted.append(held.ask("delete_key"))
        return perform(effect)

    monkeypatch.setattr(held.inside, "_perform", delete_first)
    refused(held.ask("reseal"), Code.RECORD_ROLLBACK)
    assert isinstance(deleted[0], ExecuteReply)
    refused(held.ask("cancel_deletion"), Code.RECORD_ROLLBACK)


def test_a_shorter_waiting_period_in_the_header_does_not_open(held: Held) -> None:
    held.step("schedule_deletion", waiting_days=30)
    header = msgspec.structs.replace(parse_header(held.record.header), delete_after=START)
    forged = msgspec.structs.replace(held.record, header=msgspec.json.encode(header))
    refused(held.ask("delete_key", record=forged), Code.RECORD_TAMPERED)


def test_a_reseal_neither_shortens_nor_cancels_a_deletion(held: Held) -> None:
    held.step("schedule_deletion", waiting_days=7)
    due = parse_header(held.record.header).delete_after
    held.inside.clock_ms += DAY
    held.step("reseal")
    header = parse_header(held.record.header)
    assert (header.state, header.delete_after) == (KeyState.PENDING_DELETION, due)


@pytest.mark.parametrize("days", [0, 6, 31])
def test_a_waiting_period_outside_7_to_30_days_is_refused(held: Held, days: int) -> None:
    reply = held.ask("schedule_deletion", waiting_days=days)
    assert refused(reply, Code.REQUEST_INVALID, with_receipt=False).field == "$.waiting_days"


def test_a_record_below_the_floor_is_good_for_a_reseal_and_nothing_else(held: Held) -> None:
    old = held.record
    held.inside.put_policy(held.policy(2, generation=2, min_generation=2), held.admin)
    for reply in (held.sign(), held.ask("disable_key"), held.ask("schedule_deletion", waiting_days=7)):
        assert refused(reply, Code.RECORD_RETIRED).field == "$.generation"
    held.step("reseal")
    assert parse_header(held.record.header).generation == 2
    assert isinstance(held.sign(), ExecuteReply)
    # Across boots too: the floor stands in the policy that the administrators signed.
    held.inside.boot()
    held.inside.put_policy(held.policy(2, generation=2, min_generation=2), held.admin)
    refused(held.sign(old), Code.RECORD_RETIRED)
    assert isinstance(held.sign(), ExecuteReply)


async def test_the_life_of_a_key_in_the_real_process(wallet: Wallet) -> None:
    rules = [allow_everything(), allow_everything("states", operations=STATES)]
    people = [wallet.alice.as_principal("signer"), wallet.mallory.as_principal()]
    await wallet.stack.put_policy(wallet.stack.policy(people, rules, version=6))
    key = wallet.key
    disabled = made(await wallet.stack.ask(wallet.alice, "disable_key", record=key.record, key_id=key.key_id))
    refused(await wallet.sign(record=disabled.record), Code.KEY_STATE)
    reply = await wallet.stack.ask(wallet.mallory, "enable_key", record=disabled.record, key_id=key.key_id)
    refused(reply, Code.POLICY_DENIED)
    enabled = made(await wallet.stack.ask(wallet.alice, "enable_key", record=disabled.record, key_id=key.key_id))
    assert isinstance(await wallet.sign(record=enabled.record), ExecuteReply)
    refused(await wallet.sign(record=key.record), Code.RECORD_ROLLBACK)
