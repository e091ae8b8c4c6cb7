"""What the host does to the enclave while a request waits for KMS or for the anchor: the decision, the record and the
charge must still stand when the answer leaves, and a refused request leaves nothing behind."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from interleaving import DAY, HOST, START, TABLE, Site, key_of, limit, receipt_of, refused, rule
from wallet import ethereum

from adytum_enclave.core.effects import NewDataKey, OpenDataKey, Together, WriteAnchor
from adytum_enclave.core.pipeline import execute
from adytum_sim.people import Person, request_body
from adytum_wire.errors import Code
from adytum_wire.messages import Execute, ExecuteReply, PutAnchorCredentials, PutUsage
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import SessionStamp
from adytum_wire.types import sha256

ALICE, MALLORY = Person.new("alice"), Person.new("mallory")
OPERATIONS = ["generate_key", "sign", "reseal", "disable_key", "enable_key", "schedule_deletion", "delete_key"]
SIGN: dict[str, Any] = {"path": "", "scheme": "ecdsa-secp256k1", "content": ethereum()}
# What a request needs besides the key, by operation; and how many effects it waits for: KMS, and with the table one
# settling.
WAITING = {"generate_key": 1, "sign": 1, "reseal": 2, "disable_key": 2}


def policy(site: Site, *, version: int = 1, mallory: bool = True, limits: bool = False, **more: Any) -> dict[str, Any]:
    people = [ALICE.as_principal(), *([MALLORY.as_principal()] if mallory else [])]
    rules = [rule("use", OPERATIONS, limits=["daily"] if limits else "none"), rule("more", ["open_session"])]
    return site.document(people, rules, version=version, limits=[limit(50)] if limits else [], **more)


def opened(anchor: dict[str, Any] | None = None, **bounds: int) -> tuple[Site, Any, str]:
    """A site with its policy and a key: (site, the reply that made the key, its id)."""
    site = Site.new(anchor, **bounds)
    site.put_policy(policy(site, limits=anchor is TABLE))
    made = site.ask(ALICE, "generate_key", algorithm="secp256k1", labels=["hot"])
    assert isinstance(made, ExecuteReply), made
    return site, made, key_of(made)


def fields(operation: str, key_id: str) -> dict[str, Any]:
    if operation == "generate_key":
        return {"algorithm": "secp256k1", "labels": ["hot"]}
    return {"key_id": key_id} | (SIGN if operation == "sign" else {})


# --- the policy


@pytest.mark.parametrize("anchor", [None, TABLE], ids=["none", "table"])
@pytest.mark.parametrize("operation", WAITING)
def test_a_request_that_waits_while_its_principal_is_revoked_comes_to_nothing(
    operation: str, anchor: dict[str, Any] | None
) -> None:
    """At each effect that it waits for, its settling included, before the answer comes and just after."""
    site, made, key_id = opened(anchor=anchor)
    record = None if operation == "generate_key" else made.record
    for at in range(WAITING[operation] + (anchor is not None)):
        body = request_body("acme", operation, site.inside.clock_ms, **fields(operation, key_id))
        held = site.send(MALLORY, body, record)
        for _ in range(at):
            held.step()
        assert held.effect is not None
        version = 2 + 2 * at
        without = policy(site, version=version, mallory=False)
        held.perform_then(partial(site.put_policy, without))
        reply = held.finish()
        refused(reply, Code.RESOURCE_EXHAUSTED, "$.policy")
        assert receipt_of(reply).policy_version == version - 1
        again = site.send(MALLORY, body, record)
        assert again.finish().code == Code.PRINCIPAL_UNKNOWN.value, "sent again it is decided under the new policy"
        site.put_policy(policy(site, version=version + 1, limits=anchor is not None))
    alive = site.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN)
    assert isinstance(alive, ExecuteReply), alive


@pytest.mark.parametrize("anchor", [None, TABLE], ids=["none", "table"])
@pytest.mark.parametrize("operation", WAITING)
def test_the_identical_policy_pushed_again_refuses_nothing(operation: str, anchor: dict[str, Any] | None) -> None:
    site, made, key_id = opened(anchor=anchor)
    record = None if operation == "generate_key" else made.record
    same = policy(site, limits=anchor is not None)
    held = site.begin(MALLORY, operation, record=record, **fields(operation, key_id))
    steps = 0
    while held.effect is not None:
        held.perform_then(lambda: site.put_policy(same))
        steps += 1
    assert isinstance(held.finish(), ExecuteReply)
    assert steps == WAITING[operation] + (anchor is not None)


def test_a_request_refused_for_a_new_policy_goes_through_when_sent_again() -> None:
    """As a rotation's worker sends it: the same bytes. What was held for it is held no more."""
    site, made, key_id = opened(anchor=TABLE)
    body = request_body("acme", "reseal", site.inside.clock_ms, key_id=key_id)
    held = site.send(ALICE, body, made.record)
    site.put_policy(policy(site, version=2, limits=True))
    refused(held.finish(), Code.RESOURCE_EXHAUSTED, "$.policy")
    assert Code.RESOURCE_EXHAUSTED.retryable
    _, _, entries = site.enclave.ledger.describe("acme")
    assert [(used, held) for _, _, used, held in entries] == [(1, 0)]
    again = site.send(ALICE, body, made.record).finish()
    assert isinstance(again, ExecuteReply)
    assert receipt_of(again).policy_version == 2


def test_a_policy_that_another_enclave_learned_of_in_the_charge_of_a_request_stops_that_request() -> None:
    one, made, key_id = opened(anchor=TABLE)
    two = Site.new(TABLE, beside=one)
    two.put_policy(policy(two, limits=True))
    two.put_policy(policy(two, version=2, mallory=False, limits=True))  # the host keeps it from `one`
    held = one.begin(MALLORY, "sign", record=made.record, key_id=key_id, **SIGN)
    while not isinstance(held.effect, Together):
        held.step()
    refused(held.finish(), Code.RESOURCE_EXHAUSTED, "$.policy")
    assert one.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN).code == Code.POLICY_MISSING.value


def test_a_policy_that_changes_while_usage_is_learned_decides() -> None:
    """The limit is used up, another rule allows it, and the key is warm: nothing else is waited for."""
    rules = [rule("limited", ["sign"], ["principal:mallory"], limits=["daily"]), rule("free", OPERATIONS)]
    both = [ALICE.as_principal(), MALLORY.as_principal()]
    one = Site.new(TABLE)
    one.put_policy(one.document(both, rules, limits=[limit(1)]))
    made = one.ask(ALICE, "generate_key", algorithm="secp256k1", labels=["hot"])
    key_id = key_of(made)
    assert isinstance(one.ask(MALLORY, "sign", record=made.record, key_id=key_id, **SIGN), ExecuteReply)
    two = Site.new(TABLE, beside=one, key_ttl_seconds=60)
    two.put_policy(two.document(both, rules, limits=[limit(1)]))
    assert isinstance(two.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN), ExecuteReply)
    two.enclave.ledger._tenants["acme"].is_known = False  # a write went wrong
    held = two.begin(MALLORY, "sign", record=made.record, key_id=key_id, **SIGN)
    assert isinstance(held.effect, Together)
    alone = two.document(both[:1], rules[1:], version=2)
    held.perform_then(lambda: two.put_policy(alone))
    assert held.effect is None
    refused(held.finish(), Code.RESOURCE_EXHAUSTED, "$.policy")


def test_an_older_policy_does_not_come_back_while_the_anchor_is_asked() -> None:
    """Whatever the anchor says: the check of what is in force is repeated after waiting."""
    site, _, _ = opened()

    def wait_only(*_: Any) -> Any:
        yield Together(key="x", steps=lambda: iter(()))  # type: ignore[arg-type, return-value]

    site.enclave.ledger.admit_policy, real = wait_only, site.enclave.ledger.admit_policy
    older = site.offer(policy(site, version=2))
    assert older.effect is not None
    site.enclave.ledger.admit_policy = real
    site.put_policy(policy(site, version=3))
    older.resume(lambda: older.steps.send(None))
    assert older.error is not None
    assert older.error.code is Code.POLICY_ROLLBACK
    assert site.enclave.policies["acme"].policy.version == 3


# --- what stays of a request whose charge fails


def session_of(site: Site) -> tuple[bytes, bytes, Callable[[bytes], SessionStamp]]:
    """(request's id in a body that opens a session, the body, what stamps with it)."""
    name = "session-00000001"
    sealed = site.seal_to_enclave(ALICE, "open_session", name, b"\7" * 32)
    body = request_body(
        "acme", "open_session", site.inside.clock_ms, request_id=name, sealed=sealed,
        expires_at=site.inside.clock_ms + 3_600_000,
    )  # fmt: skip
    session_id = sha256(b"adytum/session-id/v1\0" + sha256(body))[:16]
    return (
        session_id,
        body,
        lambda other: SessionStamp(session_id, hmac.digest(b"\7" * 32, pae(REQUEST, other), "sha256")),
    )


def limited_site() -> tuple[Site, Any, str]:
    site = Site.new(TABLE)
    rules = [
        rule("keys", ["generate_key", "sign"]),
        rule("once", ["open_session", *OPERATIONS[2:]], limits=["daily"]),
    ]
    site.put_policy(site.document([ALICE.as_principal()], rules, limits=[limit(9)]))
    made = site.ask(ALICE, "generate_key", algorithm="secp256k1", labels=["hot"])
    return site, made, key_of(made)


def stamped(site: Site, body: bytes, stamp: SessionStamp, record: Any = None) -> Any:
    return site.start(execute(site.enclave, Execute(body, stamp, record), is_expired=lambda: False)).finish()


def test_a_session_whose_charge_fails_was_never_opened() -> None:
    site, made, key_id = limited_site()
    _, body, stamp = session_of(site)
    in_use = site.enclave.arena.in_use
    site.inside.fails[WriteAnchor] = [Code.ANCHOR_UNAVAILABLE]
    refused(site.send(ALICE, body).finish(), Code.ANCHOR_UNAVAILABLE)
    assert len(site.enclave.sessions) == 0
    other = request_body("acme", "sign", site.inside.clock_ms, key_id=key_id, **SIGN)
    assert stamped(site, other, stamp(other), made.record).code == Code.SESSION_UNKNOWN.value
    assert isinstance(site.send(ALICE, body).finish(), ExecuteReply), "and can be opened by the same request"
    assert isinstance(stamped(site, other, stamp(other), made.record), ExecuteReply)
    site.enclave.sessions.wipe()
    site.enclave.ledger.wipe()
    assert site.enclave.arena.in_use <= in_use


@pytest.mark.parametrize("operation", ["disable_key", "schedule_deletion"])
def test_a_key_whose_stop_was_refused_goes_on_and_can_be_stopped(operation: str) -> None:
    site, made, key_id = limited_site()
    more = {"waiting_days": 7} if operation == "schedule_deletion" else {}
    body = request_body("acme", operation, site.inside.clock_ms, key_id=key_id, **more)
    site.inside.fails[WriteAnchor] = [Code.ANCHOR_UNAVAILABLE]
    refused(site.send(ALICE, body, made.record).finish(), Code.ANCHOR_UNAVAILABLE)
    assert isinstance(site.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN), ExecuteReply)
    stopped = site.send(ALICE, body, made.record).finish()
    assert isinstance(stopped, ExecuteReply)
    refused(site.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN), Code.RECORD_ROLLBACK)
    refused(site.ask(ALICE, "sign", record=stopped.record, key_id=key_id, **SIGN), Code.KEY_STATE)


def test_a_reseal_and_a_deletion_that_are_refused_count_nowhere() -> None:
    site, made, key_id = limited_site()
    site.inside.fails[WriteAnchor] = [Code.ANCHOR_UNAVAILABLE]
    refused(site.ask(ALICE, "reseal", record=made.record, key_id=key_id), Code.ANCHOR_UNAVAILABLE)
    assert site.enclave.resealed == {}
    pending = site.ask(ALICE, "schedule_deletion", record=made.record, key_id=key_id, waiting_days=7)
    site.inside.clock_ms += 8 * DAY
    site.inside.fails[WriteAnchor] = [Code.ANCHOR_UNAVAILABLE]
    refused(site.ask(ALICE, "delete_key", record=pending.record, key_id=key_id), Code.ANCHOR_UNAVAILABLE)
    assert isinstance(site.ask(ALICE, "reseal", record=pending.record, key_id=key_id), ExecuteReply)
    assert isinstance(site.ask(ALICE, "delete_key", record=pending.record, key_id=key_id), ExecuteReply)
    refused(site.ask(ALICE, "reseal", record=pending.record, key_id=key_id), Code.RECORD_ROLLBACK)


# --- two successors of one version


@pytest.mark.parametrize("stop", ["disable_key", "schedule_deletion"])
def test_a_fork_made_before_a_key_was_stopped_does_not_sign(stop: str) -> None:
    """The host kept back the answer of an authorised reseal, and lets the stop through from the same version."""
    site, made, key_id = opened()
    fork = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)
    more = {"waiting_days": 7} if stop == "schedule_deletion" else {}
    stopped = site.ask(ALICE, stop, record=made.record, key_id=key_id, **more)
    assert isinstance(stopped, ExecuteReply)
    in_use = site.enclave.arena.in_use
    for operation in ("sign", "reseal"):
        what = fields(operation, key_id)
        refused(site.ask(ALICE, operation, record=fork.record, **what), Code.RECORD_ROLLBACK, "$.version")
        refused(site.ask(ALICE, operation, record=made.record, **what), Code.RECORD_ROLLBACK, "$.version")
    refused(site.ask(ALICE, "sign", record=stopped.record, key_id=key_id, **SIGN), Code.KEY_STATE)
    assert site.enclave.arena.in_use == in_use


def test_a_fork_that_is_warm_or_under_way_when_a_key_is_stopped_does_not_sign() -> None:
    site, made, key_id = opened(key_ttl_seconds=60)
    fork = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)
    under_way = site.begin(ALICE, "sign", record=fork.record, key_id=key_id, **SIGN)
    assert isinstance(under_way.effect, OpenDataKey)
    assert isinstance(site.ask(ALICE, "disable_key", record=made.record, key_id=key_id), ExecuteReply)
    refused(under_way.finish(), Code.RECORD_ROLLBACK)
    assert len(site.enclave.configured.warm) == 0


@pytest.mark.parametrize("operation", ["sign", "reseal"])
def test_a_request_under_way_when_its_key_is_stopped_comes_to_nothing(operation: str) -> None:
    """At each effect, also when the key was open already and only the charge is waited for."""
    for at in range(WAITING[operation] + 1):
        site, made, key_id = opened(anchor=TABLE)
        held = site.begin(ALICE, operation, record=made.record, **fields(operation, key_id))
        for _ in range(at):
            held.step()
        assert held.effect is not None

        def stop(site: Site = site, made: Any = made, key_id: str = key_id) -> None:
            stopped = site.ask(MALLORY, "disable_key", record=made.record, key_id=key_id)
            assert isinstance(stopped, ExecuteReply), stopped

        held.perform_then(stop)
        reply = held.finish()
        refused(reply, Code.RECORD_ROLLBACK, "$.version")


def test_of_two_forks_the_one_that_opened_first_has_a_future() -> None:
    site, made, key_id = opened()
    one = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)
    site.inside.clock_ms += 1
    two = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)
    assert isinstance(site.ask(ALICE, "sign", record=two.record, key_id=key_id, **SIGN), ExecuteReply)
    refused(site.ask(ALICE, "sign", record=one.record, key_id=key_id, **SIGN), Code.RECORD_ROLLBACK)
    assert isinstance(site.ask(ALICE, "sign", record=two.record, key_id=key_id, **SIGN), ExecuteReply)


def test_an_honest_host_that_lost_the_answer_of_a_reseal_goes_on_with_the_record_it_has() -> None:
    site, made, key_id = opened()
    site.ask(ALICE, "reseal", record=made.record, key_id=key_id)  # lost in a crash
    site.inside.clock_ms += 1000
    assert isinstance(site.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN), ExecuteReply)
    again = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)  # under another request id
    assert isinstance(site.ask(ALICE, "sign", record=again.record, key_id=key_id, **SIGN), ExecuteReply)
    refused(site.ask(ALICE, "sign", record=made.record, key_id=key_id, **SIGN), Code.RECORD_ROLLBACK)


@pytest.mark.parametrize("stop", ["disable_key", "schedule_deletion"])
def test_an_honest_host_that_stored_the_fork_can_stop_the_key_again_and_then_enable_it(stop: str) -> None:
    """A reseal and a stop of one version, and the database took the reseal. The key signs nothing, and is not stuck."""
    site, made, key_id = opened()
    stored = site.ask(ALICE, "reseal", record=made.record, key_id=key_id)
    site.ask(ALICE, "disable_key", record=made.record, key_id=key_id)  # refused by the database
    refused(site.ask(ALICE, "sign", record=stored.record, key_id=key_id, **SIGN), Code.RECORD_ROLLBACK)
    more = {"waiting_days": 7} if stop == "schedule_deletion" else {}
    again = site.ask(ALICE, stop, record=stored.record, key_id=key_id, **more)
    assert isinstance(again, ExecuteReply), again
    refused(site.ask(ALICE, "sign", record=again.record, key_id=key_id, **SIGN), Code.KEY_STATE)
    refused(site.ask(ALICE, "sign", record=stored.record, key_id=key_id, **SIGN), Code.RECORD_ROLLBACK)
    if stop == "disable_key":
        enabled = site.ask(ALICE, "enable_key", record=again.record, key_id=key_id)
        assert isinstance(site.ask(ALICE, "sign", record=enabled.record, key_id=key_id, **SIGN), ExecuteReply)


# --- checks that are repeated after waiting


def test_an_older_snapshot_does_not_undo_a_newer_one_that_came_while_kms_worked() -> None:
    first = Site.new(HOST)
    document = policy(first)
    document["rules"][0]["limits"], document["limits"] = ["daily"], [limit(50)]
    first.put_policy(document)
    first.enclave.ledger.reset("acme", "*")
    snapshots = [first.ask(ALICE, "generate_key", algorithm="secp256k1", labels=["hot"]).usage for _ in range(3)]
    second = Site.new(HOST, beside=first)
    second.put_policy(document)
    older = second.control(PutUsage("acme", snapshots[0]))
    assert isinstance(older.effect, OpenDataKey)
    assert second.control(PutUsage("acme", snapshots[2])).end() is None
    before = second.enclave.ledger.describe("acme")
    error = older.end()
    assert error is not None
    assert (error.code, error.field) == (Code.USAGE_ROLLBACK, "$.version")
    assert second.enclave.ledger.describe("acme") == before
    assert before[2][0][2] == 3


def sealed_credentials(site: Site, name: str) -> Any:
    plain = json.dumps(
        {"access_key_id": "AKIDEXAMPLEAKIDEXAMP", "secret_access_key": "0123456789abcdef"}, separators=(",", ":")
    )
    sealed = site.seal_to_enclave(ALICE, "seal_anchor", name, plain.encode())
    reply = site.ask(ALICE, "seal_anchor", request_id=name, labels=["hot"], sealed=sealed)
    assert isinstance(reply, ExecuteReply), reply
    return reply.record


def anchored_site() -> tuple[Site, dict[str, Any]]:
    site = Site.new(TABLE | {"credentials": "sealed"})
    document = site.document([ALICE.as_principal()], [rule("anchor", ["seal_anchor", "reseal"])])
    site.put_policy(document)
    return site, document


def test_credentials_sealed_earlier_do_not_replace_newer_ones_that_came_while_kms_worked() -> None:
    site, _ = anchored_site()
    older = sealed_credentials(site, "credentials-0001")
    site.inside.clock_ms += 1
    newer = sealed_credentials(site, "credentials-0002")
    held = site.control(PutAnchorCredentials("acme", older))
    assert isinstance(held.effect, OpenDataKey)
    assert site.control(PutAnchorCredentials("acme", newer)).end() is None
    in_use, key = site.enclave.arena.in_use, site.enclave.anchor_keys.get("acme")
    error = held.end()
    assert error is not None
    assert (error.code, error.field) == (Code.RECORD_ROLLBACK, "$.created_at")
    assert site.enclave.anchor_keys.get("acme") is key
    assert site.enclave.arena.in_use == in_use


def test_a_record_superseded_while_kms_worked_does_not_open() -> None:
    """Where no request checks for it: the credentials of the anchor."""
    site, document = anchored_site()
    old = sealed_credentials(site, "credentials-0001")
    assert site.control(PutAnchorCredentials("acme", old)).end() is None
    site.put_policy(document)
    new = site.ask(ALICE, "reseal", record=old, key_id=json.loads(old.header)["key_id"]).record
    held = site.control(PutAnchorCredentials("acme", old))
    assert isinstance(held.effect, OpenDataKey)
    assert site.control(PutAnchorCredentials("acme", new)).end() is None
    opened: list[bool] = []
    site.enclave.anchor_keys.install = lambda *_: opened.append(True)
    error = held.end()
    assert error is not None
    assert (error.code, error.field, opened) == (Code.RECORD_ROLLBACK, "$.version", [])


def test_a_session_acts_in_its_own_tenant_only() -> None:
    site = Site.new(None, tenants=("acme", "other"))
    for tenant in ("acme", "other"):
        site.put_policy(policy(site) | {"tenant": tenant})
    _, body, stamp = session_of(site)
    assert isinstance(site.send(ALICE, body).finish(), ExecuteReply)
    mine = request_body("acme", "generate_key", START, algorithm="secp256k1", labels=["hot"])
    assert isinstance(stamped(site, mine, stamp(mine)), ExecuteReply)
    chain = len(site.enclave.receipts)
    other = request_body("other", "generate_key", START, algorithm="secp256k1", labels=["hot"])
    reply = stamped(site, other, stamp(other))
    assert (reply.code, reply.field) == (Code.STAMP_INVALID.value, "$.stamp")
    assert len(site.enclave.receipts) == chain


def test_a_request_stands_where_the_table_says() -> None:
    """The harness itself: these tests would see nothing if requests did not wait."""
    site, made, key_id = opened()
    held = site.begin(ALICE, "reseal", record=made.record, key_id=key_id)
    seen = []
    while held.effect is not None:
        seen.append(type(held.effect))
        held.step()
    assert seen == [OpenDataKey, NewDataKey]
