"""What all tenants share, one principal of one tenant, without rights or with them, must not take from the others."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from interleaving import DAY, Held, Site, receipt_of, refused, rule

from adytum_enclave.core.effects import InTurn
from adytum_enclave.core.steps import approve as step
from adytum_sim.people import Person, approval_statement, request_body
from adytum_wire import limits
from adytum_wire.approvals import Approval, KeyProof
from adytum_wire.errors import Code
from adytum_wire.messages import Execute, ExecuteReply, GetReceipts, Refusal
from adytum_wire.types import sha256

BOSS, NOBODY, VICTOR = Person.new("boss"), Person.new("nobody"), Person.new("victor")
KEY: dict[str, Any] = {"algorithm": "ed25519", "labels": []}


def shared() -> Site:
    """acme: boss makes keys, and some rule asks approvals for that; nobody may do nothing. victim: victor may."""
    site = Site.new(tenants=("acme", "victim"))
    approvals = {"role": "boss", "count": 1}
    rules = [
        rule("keys", ["generate_key", "import_file", "open_session"], ["principal:boss"]),
        rule("more", ["generate_key"], ["principal:boss"], approvals=approvals),
    ]
    site.put_policy(site.document([BOSS.as_principal("boss"), NOBODY.as_principal()], rules))
    everything = [rule("all", ["generate_key", "open_session"])]
    site.put_policy(site.document([VICTOR.as_principal()], everything) | {"tenant": "victim"})
    return site


def victims_key(site: Site) -> ExecuteReply | Refusal:
    return site.send(VICTOR, request_body("victim", "generate_key", site.inside.clock_ms, **KEY)).finish()


def test_denials_fill_no_memory_for_longer_than_the_window_and_no_other_tenants_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_REMEMBERED_REQUESTS", 100)
    site = shared()
    replay = type(site.enclave.configured.replay)(360_000, tenants=2, max_requests=100)
    site.inside.enclave.configured = site.enclave.configured._replace(replay=replay)
    codes = [site.ask(NOBODY, "generate_key", **KEY).code for _ in range(90)]
    assert set(codes[:75]) == {"POLICY_DENIED"}
    assert set(codes[75:]) == {"RESOURCE_EXHAUSTED"}  # its tenant's share: a quarter and the common half
    assert isinstance(victims_key(site), ExecuteReply)
    refused_now = site.ask(BOSS, "generate_key", **KEY)
    assert isinstance(refused_now, Refusal)
    site.inside.clock_ms += 360_001
    assert isinstance(site.ask(BOSS, "generate_key", **KEY), ExecuteReply)
    assert len(replay) <= 2


def test_a_denial_is_final_for_the_window_and_then_decided_again() -> None:
    """Sent again with approvals a day later it is what it says it is: a request that was approved. Once."""
    site = shared()
    body = request_body("acme", "generate_key", site.inside.clock_ms, **KEY)
    refused(site.send(NOBODY, body).finish(), Code.POLICY_DENIED)
    number = len(site.enclave.receipts)
    refused(site.send(NOBODY, body).finish(), Code.POLICY_DENIED)
    assert len(site.enclave.receipts) == number  # the same answer
    rules = [rule("late", ["generate_key"], approvals={"role": "boss", "count": 1})]
    people = [BOSS.as_principal("boss"), NOBODY.as_principal()]
    site.put_policy(site.document(people, rules, version=2))
    issued_at = site.inside.clock_ms
    text = approval_statement("acme", sha256(body),
                              policy_version=2, issued_at=issued_at, expires_at=issued_at + DAY)  # fmt: skip
    approved = (BOSS.approval(text),)
    refused(send(site, body, approved), Code.POLICY_DENIED)
    site.inside.clock_ms += DAY - 1000
    made = send(site, body, approved)
    assert isinstance(made, ExecuteReply), made
    assert send(site, body, approved) == made
    assert receipt_of(made).decision == "allow"


def send(site: Site, body: bytes, approvals: tuple[Approval, ...]) -> ExecuteReply | Refusal:
    return site.inside.execute(Execute(body, NOBODY.stamp(body), None, approvals))


def test_an_approval_with_a_signature_of_any_length_is_not_kept() -> None:
    """poc: 1,024 of them, of 200 KB each, by a hostile host."""
    site = shared()
    body = request_body("acme", "generate_key", site.inside.clock_ms, **KEY)
    text = approval_statement("acme", sha256(body), policy_version=1, issued_at=site.inside.clock_ms)
    step._is_valid.cache_clear()
    for size in (63, 65, 10_000, 200_000):
        proof = KeyProof(scheme=BOSS.scheme, public_key=BOSS.public_key, signature=os.urandom(size))
        refused(send(site, body, (Approval(statement=text, proof=proof),)), Code.APPROVAL_SIGNATURE)
    assert step._is_valid.cache_info().currsize == 2
    assert isinstance(site.inside.execute(Execute(body, BOSS.stamp(body), None, (BOSS.approval(text),))), ExecuteReply)


STORE = {
    "version": 3, "id": "x" * 20_000, "crypto": {
        "cipher": "aes-128-ctr", "cipherparams": {"iv": "00" * 16}, "ciphertext": "00" * 32, "mac": "00" * 32,
        "kdf": "scrypt", "kdfparams": {"dklen": 32, "n": 2, "r": 1, "p": 1, "salt": "00"},
    },
}  # fmt: skip


def bring(site: Site, number: int) -> Held:
    name = f"file-{number:08d}"
    plain = (4).to_bytes(4, "big") + b"pass" + json.dumps(STORE).encode()
    sealed = site.seal_to_enclave(BOSS, "import_file", name, plain)
    return site.begin(BOSS, "import_file", request_id=name, format="keystore-v3", labels=[], expected="", sealed=sealed)


def test_imports_that_wait_for_a_kdf_hold_no_arena() -> None:
    """poc: 255 of one tenant held all of it for a minute."""
    site = shared()
    before = site.enclave.arena.in_use
    waiting = [bring(site, n) for n in range(300)]
    assert {type(one.effect) for one in waiting} == {InTurn}
    assert site.enclave.arena.in_use == before
    refused(waiting[7].finish(), Code.IMPORT_INVALID)
    assert site.enclave.arena.in_use == before
    with site.enclave.arena.take(limits.MAX_SECRET):
        assert isinstance(victims_key(site), ExecuteReply)


def test_one_principal_with_many_keys_leaves_the_other_tenant_its_sessions() -> None:
    site = shared()
    keys = [Person.new("boss") for _ in range(16)]
    people = BOSS.as_principal("boss")
    people["keys"] = [key.as_principal()["keys"][0] for key in keys]
    site.put_policy(site.document([people], [rule("sessions", ["open_session"])], version=2))
    last = 0
    for n in range(130):
        reply = open_session(site, keys[n % 16], n)
        assert isinstance(reply, ExecuteReply), reply
        last = len(site.enclave.sessions)
    assert last == limits.MAX_SESSIONS_OF_PRINCIPAL


def open_session(site: Site, person: Person, number: int) -> Any:
    name = f"session-{number:08d}"
    sealed = site.seal_to_enclave(person, "open_session", name, os.urandom(32))
    expires_at = site.inside.clock_ms + limits.MAX_SESSION_MS
    return site.ask(person, "open_session", request_id=name, sealed=sealed, expires_at=expires_at)


def test_a_request_under_a_huge_policy_leaves_no_hole_in_the_chain_that_all_share() -> None:
    site = shared()
    people = [
        {"id": f"{n:02d}" + "x" * 61, "keys": Person.new("p").as_principal()["keys"], "passkeys": [], "roles": ["a"]}
        for n in range(32)
    ]
    rules = [rule(f"{n:03d}", ["generate_key"], approvals={"role": "a", "count": 1}) for n in range(256)]
    site.put_policy(site.document([NOBODY.as_principal(), *people], rules, version=2))
    before = len(site.enclave.receipts)
    reply = site.ask(NOBODY, "generate_key", **KEY)
    refused(reply, Code.APPROVALS_MISSING)
    assert isinstance(victims_key(site), ExecuteReply)
    found = site.control(GetReceipts(before + 1))
    assert found.end() is None
    assert [reply.receipt in found.value.receipts, len(found.value.receipts)] == [True, 2]
