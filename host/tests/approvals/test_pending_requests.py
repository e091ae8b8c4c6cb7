"""A request that waits: stored, shown, approved, rejected, taken back, expired; and what nobody talks the host into."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from approval_parts import TENANT, Bench, code_of, stranger, until
from host_fake_enclave import ScriptedEnclave, now_ms, scripted_settings

from adytum.app import running_service
from adytum.service.requests.shapes import BatchApproval
from adytum_policy.approvals import root_of
from adytum_sim.people import Person, approval_statement, batch_subject
from adytum_wire.approvals import Approval, KeyProof
from adytum_wire.errors import Code
from adytum_wire.types import sha256


async def test_a_payment_waits_and_is_carried_out_by_the_second_approval(
    bench: Bench, enclave: ScriptedEnclave, fresh: Any
) -> None:
    raw = bench.payment()
    answer = await bench.post("/v1/sign", raw)
    assert answer.status_code == 202
    found = answer.json()
    assert (found["request_id"], found["state"]) == ("r-payment-01", "pending")
    [wanted] = found["wanted"]
    assert (wanted["role"], wanted["count"], wanted["counted"]) == ("approver", 2, [])
    assert wanted["missing"] == ["bob", "carol", "dave"]  # not alice, who asks
    assert "APPROVALS_MISSING" in found["receipt"]["body"]
    assert enclave.effects == 0

    one = await bench.give(bench.approval(bench.people.bob, raw))
    assert one.status_code == 200, one.text
    assert one.json()["wanted"][0]["counted"] == ["bob"]
    assert [a["outcome"] for a in one.json()["approvals"]] == ["approve"]
    waiting = asyncio.create_task(bench.look(wait=20))
    two = await bench.give(bench.approval(bench.people.carol, raw))
    assert two.status_code == 200
    view = await waiting
    assert view["state"] == "done"
    assert enclave.effects == 1
    assert len(enclave.approvals[-1]) == 2
    final = await bench.post("/v1/sign", raw)
    assert final.status_code == 200
    assert final.json()["result"]["operation"] == "sign"
    assert (await bench.post("/v1/sign", raw)).content == final.content
    assert enclave.effects == 1
    assert [row["state"] for row in await fresh.rows("SELECT state FROM requests ORDER BY request_id")] == ["done"] * 2


async def test_the_view_shows_the_body_and_what_it_decodes_to(bench: Bench) -> None:
    raw = await bench.ask()
    view = await bench.look()
    assert base64.b64decode(view["body"]) == raw
    assert view["body_hash"] == sha256(raw).hex()
    assert view["initiator"] == "alice"
    assert view["summary"]["to"] == "0x3535353535353535353535353535353535353535"
    assert (view["labels"], view["policy_version"], view["code"]) == (["hot"], 1, "")


async def test_a_repeat_while_it_waits_does_not_ask_the_enclave_again(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    executed = enclave.executed
    again = await bench.post("/v1/sign", raw)
    assert again.status_code == 202
    assert enclave.executed == executed
    other = await bench.post("/v1/sign", bench.payment(issued_at=1))
    assert (other.status_code, code_of(other)) == (409, Code.REQUEST_CONFLICT.value)


async def test_a_rejection_goes_to_the_enclave_which_denies_for_good(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    await bench.give(bench.approval(bench.people.dave, raw, "reject"))
    view = await bench.look(wait=20)
    assert (view["state"], view["code"]) == ("rejected", Code.APPROVALS_REJECTED.value)
    assert "APPROVALS_REJECTED" in view["receipt"]["body"]
    final = await bench.post("/v1/sign", raw)
    assert (final.status_code, code_of(final)) == (403, Code.APPROVALS_REJECTED.value)
    late = await bench.give(bench.approval(bench.people.carol, raw))
    assert (late.status_code, code_of(late)) == (403, Code.APPROVALS_REJECTED.value)
    assert enclave.effects == 0


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda b, raw: b.approval(Person("bob", stranger()), raw), Code.APPROVAL_UNKNOWN),
        (lambda b, raw: b.approval(b.people.bob, raw + b" "), Code.APPROVAL_SUBJECT),
        (lambda b, raw: _resigned(b.approval(b.people.bob, raw)), Code.APPROVAL_SIGNATURE),
        (lambda b, raw: b.approval(b.people.bob, raw, issued_at=now_ms() + 3_600_000), Code.APPROVAL_INVALID),
        (lambda b, raw: b.people.bob.approval(b"{}"), Code.APPROVAL_INVALID),
        (lambda b, raw: b.approval(b.people.bob, raw, tenant="other"), Code.APPROVAL_SUBJECT),
    ],
)
async def test_a_forged_approval_is_refused_at_once_and_not_stored(
    bench: Bench, fresh: Any, forge: Any, code: Code
) -> None:
    raw = await bench.ask()
    answer = await bench.give(forge(bench, raw))
    assert code_of(answer) == code.value
    assert await fresh.count("approvals") == 0
    assert (await bench.look())["state"] == "pending"


def _resigned(approval: Approval) -> Approval:
    proof = approval.proof
    assert isinstance(proof, KeyProof)
    wrong = bytes([proof.signature[0] ^ 1]) + proof.signature[1:]
    return msgspec.structs.replace(approval, proof=msgspec.structs.replace(proof, signature=wrong))


async def test_votes_that_do_not_count_are_kept_shown_and_not_sent(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    executed = enclave.executed
    people = bench.people
    await bench.give(bench.approval(people.alice, raw))
    await bench.give(bench.approval(people.mallory, raw))
    await bench.give(bench.approval(people.bob, raw))
    await bench.give(bench.approval(people.bob, raw, expires_at=now_ms() + 7_000_000))
    view = await bench.look()
    outcomes = {(a["principal"], a["outcome"]) for a in view["approvals"]}
    assert outcomes == {("alice", "initiator"), ("mallory", "role"), ("bob", "approve"), ("bob", "again")}
    assert view["state"] == "pending"
    assert view["wanted"][0]["missing"] == ["carol", "dave"]
    assert enclave.executed == executed


async def test_approvals_under_an_older_policy_do_not_count(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    assert (await bench.put_policy(2)).status_code == 200
    await bench.give(bench.approval(bench.people.carol, raw))
    view = await bench.look()
    assert [a["outcome"] for a in view["approvals"]] == ["policy-version"] * 2
    assert (view["policy_version"], view["wanted"][0]["counted"]) == (2, [])
    for person in (bench.people.bob, bench.people.carol):
        await bench.give(bench.approval(person, raw, policy_version=2))
    assert (await bench.look(wait=20))["state"] == "done"
    assert len(enclave.approvals[-1]) == 2  # the stale ones stayed here


async def test_the_same_approval_again_is_one(bench: Bench, fresh: Any) -> None:
    raw = await bench.ask()
    approval = bench.approval(bench.people.bob, raw)
    assert (await bench.give(approval)).status_code == (await bench.give(approval)).status_code == 200
    assert await fresh.count("approvals") == 1


async def test_one_person_cannot_fill_the_table(bench: Bench) -> None:
    raw = await bench.ask()
    for at in range(8):
        answer = await bench.give(bench.approval(bench.people.bob, raw, expires_at=now_ms() + 1_000_000 + at))
        assert answer.status_code == 200
    full = await bench.give(bench.approval(bench.people.bob, raw, expires_at=now_ms() + 9_000_000))
    assert (full.status_code, code_of(full)) == (429, Code.RESOURCE_EXHAUSTED.value)
    assert (await bench.give(bench.approval(bench.people.carol, raw))).status_code == 200
    assert (await bench.look(wait=20))["state"] == "done"


async def test_stored_approvals_edited_in_the_database_are_refused(bench: Bench, fresh: Any) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    before = await fresh.rows("SELECT * FROM approvals")
    connection = await asyncpg.connect(fresh.dsn)
    try:
        for attack in ("UPDATE approvals SET decision = 'reject'", "DELETE FROM approvals", "TRUNCATE approvals"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute(attack)
    finally:
        await connection.close()
    assert await fresh.rows("SELECT * FROM approvals") == before


async def test_one_statement_approves_a_batch(bench: Bench, enclave: ScriptedEnclave) -> None:
    ids = [f"r-payroll-{n}" for n in range(3)]
    raws = [await bench.ask(request_id, issued_at=now_ms() + n) for n, request_id in enumerate(ids)]
    subject = batch_subject(root_of([sha256(raw) for raw in raws]), len(raws))
    for person in (bench.people.bob, bench.people.carol):
        statement = approval_statement(TENANT, subject, policy_version=1, issued_at=now_ms())
        proof = person.approval(statement).proof
        batch = BatchApproval(statement=statement, proof=proof, tenant=TENANT, request_ids=ids)
        answer = await bench.http.post("/v1/approvals/batch", content=msgspec.json.encode(batch))
        assert answer.status_code == 200, answer.text
        assert ["view" in item for item in answer.json()["requests"]] == [True] * 3
    for request_id in ids:
        assert (await bench.look(request_id, wait=20))["state"] == "done"
    assert enclave.effects == 3


async def test_a_batch_in_another_order_or_with_another_request_is_refused(bench: Bench, fresh: Any) -> None:
    ids = [f"r-payroll-{n}" for n in range(3)]
    raws = [await bench.ask(request_id, issued_at=now_ms() + n) for n, request_id in enumerate(ids)]
    statement = approval_statement(
        TENANT, batch_subject(root_of([sha256(raw) for raw in raws]), 3), policy_version=1, issued_at=now_ms()
    )
    proof = bench.people.bob.approval(statement).proof
    await bench.ask("r-smuggled-1", issued_at=now_ms() + 9)
    for order in ([*reversed(ids)], [ids[0], ids[1], "r-smuggled-1"], ids[:2]):
        batch = BatchApproval(statement=statement, proof=proof, tenant=TENANT, request_ids=order)
        answer = await bench.http.post("/v1/approvals/batch", content=msgspec.json.encode(batch))
        codes = [item["error"]["error"]["code"] for item in answer.json()["requests"] if "error" in item]
        assert codes, answer.text
        assert set(codes) == {Code.APPROVAL_SUBJECT.value}
    stored = {row["request_id"] for row in await fresh.rows("SELECT request_id FROM approvals")}
    assert stored <= {ids[1]}  # the middle of the reversed order is where it belongs


# --- the end without the enclave


async def test_the_initiator_takes_it_back_and_nobody_else_can(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    for thief in (bench.people.bob, Person("alice", stranger())):
        answer = await bench.cancel(person=thief)
        assert (answer.status_code, code_of(answer)) == (401, Code.STAMP_INVALID.value)
    as_request = await bench.post(f"/v1/requests/{TENANT}/r-payment-01/cancel", raw)
    assert code_of(as_request) == Code.REQUEST_INVALID.value
    assert (await bench.look())["state"] == "pending"
    answer = await bench.cancel()
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (await bench.cancel()).json()["state"] == "cancelled"
    late = await bench.give(bench.approval(bench.people.bob, raw))
    assert (late.status_code, code_of(late)) == (409, Code.REQUEST_CANCELLED.value)
    again = await bench.post("/v1/sign", raw)
    assert (again.status_code, code_of(again)) == (409, Code.REQUEST_CANCELLED.value)
    assert enclave.effects == 0


async def test_cancel_and_the_last_approval_together_have_one_outcome(bench: Bench, enclave: ScriptedEnclave) -> None:
    for n in range(6):
        request_id = f"r-race-{n:04}"
        raw = await bench.ask(request_id, issued_at=now_ms() + n)
        await bench.give(bench.approval(bench.people.bob, raw), request_id)
        effects = enclave.effects
        _, cancelled = await asyncio.gather(
            bench.give(bench.approval(bench.people.carol, raw), request_id), bench.cancel(request_id)
        )
        view = await bench.look(request_id, wait=20)
        assert view["state"] in ("done", "cancelled")
        assert enclave.effects - effects == (view["state"] == "done")
        assert cancelled.json()["state"] in (view["state"], "approved")
        final = await bench.post("/v1/sign", raw)
        assert final.status_code == (200 if view["state"] == "done" else 409)


async def test_a_cancel_that_comes_while_it_is_carried_out_comes_too_late(
    bench: Bench, enclave: ScriptedEnclave
) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    enclave.delay_s = 0.5
    await bench.give(bench.approval(bench.people.carol, raw))
    executed = enclave.executed
    await until(lambda: enclave.executed > executed or enclave.effects > 0)
    assert (await bench.cancel()).json()["state"] == "done"
    assert enclave.effects == 1


async def test_many_approvals_at_once_carry_it_out_once(bench: Bench, enclave: ScriptedEnclave, fresh: Any) -> None:
    raw = await bench.ask()
    executed = enclave.executed
    enclave.delay_s = 0.05
    people = (bench.people.bob, bench.people.carol, bench.people.dave)
    given = await asyncio.gather(*(bench.give(bench.approval(person, raw)) for person in people for _ in range(2)))
    assert {answer.status_code for answer in given} <= {200, 409}
    assert (await bench.look(wait=20))["state"] == "done"
    await bench.service.desk.drain()
    assert enclave.effects == 1
    assert enclave.executed - executed == 1
    assert await fresh.count("receipts") == 3  # the key's, "not yet", and the payment's


async def test_what_waits_too_long_expires(bench: Bench, fresh: Any) -> None:
    raw = await bench.ask()
    await fresh.rows("UPDATE pending_requests SET expires_at = 1")
    view = await bench.look()
    assert (view["state"], view["code"]) == ("expired", Code.REQUEST_EXPIRED.value)
    late = await bench.give(bench.approval(bench.people.bob, raw))
    assert code_of(late) == Code.REQUEST_EXPIRED.value
    assert code_of(await bench.post("/v1/sign", raw)) == Code.REQUEST_EXPIRED.value


# --- what goes wrong on the way


async def test_an_enclave_that_is_away_gets_it_when_it_is_back(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    enclave.down = True
    view = (await bench.give(bench.approval(bench.people.carol, raw))).json()
    assert view["state"] in ("pending", "approved")
    await bench.service.desk.drain()
    assert (await bench.look())["state"] == "pending"
    enclave.down = False
    await bench.service.ready()
    assert (await bench.look(wait=20))["state"] == "done"
    assert enclave.effects == 1


async def test_an_enclave_that_forgot_everything_loses_nothing(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    enclave.boot()
    await bench.service.ready()
    await bench.give(bench.approval(bench.people.carol, raw))
    assert (await bench.look(wait=20))["state"] == "done"
    assert enclave.effects == 1


async def test_a_host_that_stopped_before_it_carried_loses_nothing(
    bench: Bench, enclave: ScriptedEnclave, fresh: Any, tmp_path: Path
) -> None:
    raw = await bench.ask()
    await bench.give(bench.approval(bench.people.bob, raw))
    enclave.down = True
    await bench.give(bench.approval(bench.people.carol, raw))
    await bench.service.stop()
    enclave.down = False
    settings = scripted_settings(enclave, tmp_path)
    async with running_service(settings, enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.05) as later:
        await later.ready()
        bench.http.base_url = httpx.URL(later.base_url)
        assert (await bench.look(wait=20))["state"] == "done"
        assert (await bench.post("/v1/sign", raw)).status_code == 200
    assert enclave.effects == 1


async def test_one_approval_that_the_enclave_will_not_have_is_left_out(bench: Bench, enclave: ScriptedEnclave) -> None:
    """Its view of a passkey's counter is the enclave's alone."""
    raw = await bench.ask()
    honest = enclave.execute

    async def picky(body: bytes, stamp: Any, record: Any = None, approvals: Any = (), **rest: Any) -> Any:
        reply = await honest(body, stamp, record, approvals, **rest)
        bob = bench.people.bob.public_key
        places = [at for at, one in enumerate(approvals) if one.proof.public_key == bob]
        if not places:
            return reply
        return msgspec.structs.replace(refused, field=f"$.approvals[{places[0]}]")

    from adytum_wire.messages import Refusal

    refused = Refusal(Code.APPROVAL_COUNTER.value)
    enclave.wants = 9  # never enough, until bob is gone
    enclave.execute = picky  # type: ignore[method-assign]
    for person in (bench.people.bob, bench.people.carol):
        await bench.give(bench.approval(person, raw))
    await bench.service.desk.drain()
    enclave.wants = 1
    await bench.give(bench.approval(bench.people.dave, raw))
    assert (await bench.look(wait=20))["state"] == "done"
    assert {one.proof.public_key for one in enclave.approvals[-1]} == {
        bench.people.carol.public_key,
        bench.people.dave.public_key,
    }


async def test_a_limit_in_the_way_is_said_and_the_request_waits_on(bench: Bench, enclave: ScriptedEnclave) -> None:
    raw = await bench.ask()
    enclave.refuse, enclave.refuse_as = Code.LIMIT_EXCEEDED, "error"
    for person in (bench.people.bob, bench.people.carol):
        await bench.give(bench.approval(person, raw))
    await bench.service.desk.drain()
    view = await bench.look()
    assert (view["state"], view["last_code"]) == ("pending", Code.LIMIT_EXCEEDED.value)
    again = await bench.post("/v1/sign", raw)
    assert (again.status_code, code_of(again)) == (403, Code.LIMIT_EXCEEDED.value)
    enclave.refuse = None
    assert (await bench.post("/v1/sign", raw)).status_code == 200
    assert (await bench.look())["state"] == "done"


# --- lists


async def test_lists_by_state_in_pages(bench: Bench) -> None:
    raws = {f"r-list-{n:04}": await bench.ask(f"r-list-{n:04}", issued_at=now_ms() + n) for n in range(5)}
    await bench.cancel("r-list-0002")
    first = (await bench.http.get(f"/v1/requests?tenant={TENANT}&state=pending&limit=2")).json()
    assert [r["request_id"] for r in first["requests"]] == ["r-list-0000", "r-list-0001"]
    second = (
        await bench.http.get(f"/v1/requests?tenant={TENANT}&state=pending&limit=3&after={first['next_after']}")
    ).json()
    assert [r["request_id"] for r in second["requests"]] == ["r-list-0003", "r-list-0004"]
    assert second["next_after"] is None
    assert len(raws) == 5
    every = (await bench.http.get(f"/v1/requests?tenant={TENANT}")).json()["requests"]
    assert {r["state"] for r in every} == {"pending", "cancelled", "done"}
    bad = await bench.http.get(f"/v1/requests?tenant={TENANT}&state=nonsense")
    assert code_of(bad) == Code.REQUEST_INVALID.value
