"""What a host, or somebody without the right, may try with approvals: forge, lift, replay, relabel, leave out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from office import Office, furnish, outcomes, receipt_of
from wallet import Wallet, refused

from adytum_policy.approvals import paths_of, root_of
from adytum_sim.passkeys import UP, UV, Passkey
from adytum_sim.people import Person, batch_subject
from adytum_wire import limits, messages
from adytum_wire.approvals import KeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.pae import APPROVAL, POLICY, REQUEST, pae
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme, sha256


@pytest.fixture
async def office(wallet: Wallet) -> Office:
    return await furnish(wallet)


async def test_two_people_approve_by_key_and_by_passkey_of_every_kind(office: Office) -> None:
    for make in (
        lambda text: (office.bob.approval(text), office.carol.approval(text)),  # ed25519, p256
        lambda text: (office.dave.approval(text), office.bobs.approval(text)),  # secp256k1, passkey ES256
        lambda text: (office.carols.approval(text), office.bob.approval(text)),  # passkey EdDSA
    ):
        body = office.body()
        reply = await office.send(body, *make(office.statement(body)))
        assert isinstance(reply, ExecuteReply), reply
        receipt = receipt_of(reply)
        assert [outcome for _, outcome in outcomes(receipt)] == ["approve", "approve"]
        assert {one.digest for one in receipt.approvals} != {""}
        assert len(receipt.approvals) == 2


async def test_wrong_assertions_by_the_right_passkey_are_refused(office: Office) -> None:
    """Each is properly signed: a page of somebody else's, or malware at the approver's, has asked the passkey."""
    cases: list[tuple[dict[str, Any], Code]] = [
        ({"ceremony": "webauthn.create"}, Code.APPROVAL_TYPE),
        ({"challenge": sha256(b"another statement")}, Code.APPROVAL_CHALLENGE),
        ({"origin": "https://vault.example.evil.example"}, Code.APPROVAL_ORIGIN),
        ({"cross_origin": True}, Code.APPROVAL_ORIGIN),
        ({"members": {"topOrigin": "https://evil.example"}}, Code.APPROVAL_ORIGIN),
        ({"rp_id": "evil.example"}, Code.APPROVAL_RP_ID),
        ({"flags": UV}, Code.APPROVAL_FLAGS),
        ({"flags": UP}, Code.APPROVAL_FLAGS),
        ({"client_data": b"{}"}, Code.APPROVAL_INVALID),
        ({"extensions": b"\0"}, Code.APPROVAL_INVALID),
    ]
    body = office.body()
    text = office.statement(body)
    for changes, code in cases:
        for passkey in (office.bobs, office.carols):
            await office.assert_refused(code, body, office.dave.approval(text), passkey.approval(text, **changes))
    await office.assert_approvable(body)


async def test_the_refusal_says_which_approval_it_was(office: Office) -> None:
    body = office.body()
    text = office.statement(body)
    reply = await office.send(body, office.bob.approval(text), office.bobs.approval(text, flags=UP))
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.field) == ("APPROVAL_FLAGS", "$.approvals[1]")
    assert receipt_of(reply).decision == "error"


async def test_an_assertion_by_one_persons_passkey_under_anothers_name_is_refused(office: Office) -> None:
    body = office.body()
    text = office.statement(body)
    lent = office.bobs.approval(text, credential_id=office.carols.credential_id)
    await office.assert_refused(Code.APPROVAL_SIGNATURE, body, office.bobs.approval(text), lent)
    proof = office.bob.approval(text).proof
    assert isinstance(proof, KeyProof)
    relabelled = replace(office.bob.approval(text), proof=replace(proof, public_key=office.carol.public_key))
    await office.assert_refused(Code.APPROVAL_UNKNOWN, body, relabelled)  # no such key of that scheme
    relabelled = replace(relabelled, proof=replace(proof, public_key=office.erin.public_key))
    await office.assert_refused(Code.APPROVAL_SIGNATURE, body, relabelled)
    await office.assert_approvable(body)


async def test_a_stranger_approves_nothing(office: Office) -> None:
    body = office.body()
    text = office.statement(body)
    for approval in (Person.new("bob").approval(text), Passkey.new(office.bobs.rp_id).approval(text)):
        await office.assert_refused(Code.APPROVAL_UNKNOWN, body, office.carol.approval(text), approval)
    await office.assert_approvable(body)


async def test_an_edited_statement_is_refused(office: Office) -> None:
    body = office.body()
    text = office.statement(body, decision="reject")
    edited = text.replace(b"reject", b"approve")
    for given, code in ((office.bob, Code.APPROVAL_SIGNATURE), (office.bobs, Code.APPROVAL_CHALLENGE)):
        await office.assert_refused(code, body, replace(given.approval(text), statement=edited))
    await office.assert_approvable(body)


async def test_who_has_no_say_is_not_counted(office: Office) -> None:
    """Another role, the initiator, the same person twice by whatever means: genuine, and worth nothing."""
    body = office.body()
    text = office.statement(body)
    for approval, outcome in (
        (office.erin.approval(text), "role"),
        (office.erins.approval(text), "role"),
        (office.alice.approval(text), "initiator"),
        (office.bob.approval(office.statement(body, expires_at=office.now_ms() + 60_000)), "again"),
        (office.bobs.approval(text), "again"),
    ):
        receipt = await office.assert_refused(Code.APPROVALS_MISSING, body, office.bob.approval(text), approval)
        assert [found for _, found in outcomes(receipt)] == ["approve", outcome]
    await office.assert_approvable(body)


async def test_two_keys_of_one_person_are_one_person(office: Office) -> None:
    second = Person.new("bob", Scheme.P256)
    principals = office.document["principals"]
    principals[1]["keys"] += second.as_principal()["keys"]
    await office.put(principals=principals)
    body = office.body()
    text = office.statement(body)
    receipt = await office.assert_refused(
        Code.APPROVALS_MISSING, body, office.bob.approval(text), second.approval(text)
    )
    assert outcomes(receipt) == [("bob", "approve"), ("bob", "again")]


async def test_an_approval_of_something_else_is_refused(office: Office) -> None:
    body, other = office.body(), office.body()
    for subject in (
        {"subject": sha256(other)},
        {"tenant": "umbrella"},
        {"subject": batch_subject(root_of([sha256(other)]), 1)},
    ):
        text = office.statement(body, **subject)
        for approval in (office.carol.approval(text), office.bobs.approval(text)):
            await office.assert_refused(Code.APPROVAL_SUBJECT, body, approval)
    await office.assert_approvable(body)


async def test_a_stale_approval_does_not_count_and_the_receipt_says_why(office: Office) -> None:
    body, now = office.body(), office.now_ms()
    fresh = office.bob.approval(office.statement(body))
    for changes, outcome in (
        ({"issued_at": now - 10_000, "expires_at": now - 5_000}, "expired"),
        ({"policy_version": office.document["version"] - 1}, "policy-version"),
        ({"policy_version": office.document["version"] + 1}, "policy-version"),
    ):
        stale = office.carol.approval(office.statement(body, **changes))
        receipt = await office.assert_refused(Code.APPROVALS_MISSING, body, fresh, stale)
        assert outcomes(receipt) == [("bob", "approve"), ("carol", outcome)]
    await office.assert_approvable(body)


async def test_a_statement_that_holds_for_ever_or_from_tomorrow_is_refused(office: Office) -> None:
    body, now = office.body(), office.now_ms()
    for changes in (
        {"issued_at": now, "expires_at": now + limits.MAX_APPROVAL_MS + 1},
        {"issued_at": now + 3_600_000},
        {"issued_at": now, "expires_at": now},
    ):
        await office.assert_refused(Code.APPROVAL_INVALID, body, office.bob.approval(office.statement(body, **changes)))
    await office.assert_approvable(body)


async def test_an_approval_by_somebody_who_was_removed_is_refused(office: Office) -> None:
    body = office.body()
    before = office.statement(body)
    given = [office.bob.approval(before), office.carols.approval(before)]
    await office.put(principals=[p for p in office.document["principals"] if p["id"] != "carol"])
    await office.assert_refused(Code.APPROVAL_UNKNOWN, body, *given)
    # Nor does what bob said under the older policy count under the newer one.
    receipt = await office.assert_refused(Code.APPROVALS_MISSING, body, given[0])
    assert outcomes(receipt) == [("bob", "policy-version")]
    text = office.statement(body)
    reply = await office.send(body, office.bob.approval(text), office.dave.approval(text))
    assert isinstance(reply, ExecuteReply), reply


async def test_a_proof_for_another_place_in_the_batch_is_refused(office: Office) -> None:
    bodies = [office.body() for _ in range(5)]
    digests = [sha256(body) for body in bodies]
    paths = paths_of(digests)
    text = office.statement(bodies[0], subject=batch_subject(root_of(digests), 5))
    given = (office.bobs.approval(text), office.carol.approval(text))

    def placed(place: int, **changes: Any) -> list[Any]:
        return [replace(one, **({"index": place, "path": paths[place]} | changes)) for one in given]

    for wrong in (placed(2), placed(3, index=2), placed(3, path=()), placed(3, index=5), placed(3, path=paths[4])):
        await office.assert_refused(Code.APPROVAL_SUBJECT, bodies[3], *wrong)
    outsider = office.body()
    await office.assert_refused(Code.APPROVAL_SUBJECT, outsider, *placed(3))
    for index, body in enumerate(bodies):
        assert isinstance(await office.send(body, *placed(index)), ExecuteReply)


async def test_one_rejection_wins_and_stays_when_the_host_leaves_it_out(office: Office) -> None:
    body = office.body()
    yes, no = office.statement(body), office.statement(body, decision="reject")
    approvals = (office.bob.approval(yes), office.carol.approval(yes))
    receipt = await office.assert_refused(Code.APPROVALS_REJECTED, body, *approvals, office.dave.approval(no))
    assert outcomes(receipt) == [("bob", "approve"), ("carol", "approve"), ("dave", "reject")]
    await office.assert_refused(Code.APPROVALS_REJECTED, body, *approvals)
    # Under a newer policy, too: what somebody refused is not approved by asking again.
    await office.put()
    text = office.statement(body)
    await office.assert_refused(Code.APPROVALS_REJECTED, body, office.bob.approval(text), office.carol.approval(text))
    await office.assert_approvable(office.body())


async def test_a_rejection_by_somebody_without_a_say_stops_nothing(office: Office) -> None:
    body = office.body()
    text, no = office.statement(body), office.statement(body, decision="reject")
    reply = await office.send(body, office.erin.approval(no), office.bob.approval(text), office.carol.approval(text))
    assert isinstance(reply, ExecuteReply), reply
    assert outcomes(receipt_of(reply))[0] == ("erin", "role")


async def test_approvals_that_the_host_leaves_out_are_missing(office: Office) -> None:
    """Nothing at all, too few: the receipt says who counted and which rule still waits."""
    body = office.body()
    text = office.statement(body)
    for approvals, counted in (((), []), ((office.bob.approval(text),), [("bob", "approve")])):
        receipt = await office.assert_refused(Code.APPROVALS_MISSING, body, *approvals)
        assert outcomes(receipt) == counted
        assert {one.rule: one.outcome for one in receipt.rules}["pay"] == "approvals"
        assert receipt.decision == "deny"
        [wanted] = receipt.wanted
        assert (wanted.rule, wanted.role, wanted.count) == ("pay", "approver", 2)
        assert list(wanted.counted) == [name for name, _ in counted]
        assert "carol" in wanted.missing
        assert not {"alice", *wanted.counted} & set(wanted.missing)
    await office.assert_approvable(body)


async def test_an_old_request_is_not_revived_by_approvals(office: Office) -> None:
    """Only a request that had to wait may be older than the ordinary window: junk with it, or approvals for a rule that
    asks none, do not help."""
    free = await office.wallet.make(labels=("free",))
    old = office.now_ms() - 600_000
    body = office.body(free, issued_at=old)
    reply = await office.send(body, made=free)
    refused(reply, Code.REQUEST_EXPIRED, with_receipt=False)
    genuine = office.bob.approval(office.statement(body))
    await office.assert_refused(Code.REQUEST_EXPIRED, body, genuine, made=free)
    junk = replace(genuine, statement=b"junk")
    await office.assert_refused(Code.APPROVAL_SIGNATURE, body, junk, made=free)
    # Beside a rule that asks for approvals, the one that asks for none is none for a request that old.
    rules = office.document["rules"]
    free_rule = next(rule for rule in rules if rule["labels"] == ["free"])
    asking = next(rule for rule in rules if rule["approvals"] != "none")
    await office.put(rules=[*rules, asking | {"id": "pay-free", "labels": ["free"]}])
    old_again = office.body(free, issued_at=old)
    one = office.bob.approval(office.statement(old_again))
    receipt = await office.assert_refused(Code.APPROVALS_MISSING, old_again, one, made=free)
    said = {rule.rule: rule.outcome for rule in receipt.rules}
    assert (said[free_rule["id"]], said["pay-free"]) == ("approvals", "approvals")
    allowed = await office.assert_approvable(old_again, made=free)
    assert {rule.rule: rule.outcome for rule in allowed.rules}["pay-free"] == "allow"
    # What waited may be as old; not older than bounds.approval_past_ms.
    await office.assert_approvable(office.body(issued_at=old))
    ancient = office.body(issued_at=office.now_ms() - 86_400_000 - 60_000)
    reply = await office.send(ancient, office.bob.approval(office.statement(ancient)))
    refused(reply, Code.REQUEST_EXPIRED, with_receipt=False)


async def test_more_approvals_than_allowed_are_refused_unread(office: Office) -> None:
    body = office.body()
    approval = office.bob.approval(office.statement(body))
    stamp = office.alice.stamp(body)
    too_many = Execute(body, stamp, office.wallet.key.record, (approval,) * (limits.MAX_APPROVALS + 1))
    with pytest.raises(AdytumError) as caught:
        messages.decode_data(msgspec.msgpack.encode(too_many))
    assert caught.value.code is Code.MESSAGE_INVALID
    before = await office.wallet.state()
    try:
        reply = await office.wallet.stack.client.execute(
            body, stamp, office.wallet.key.record, (approval,) * (limits.MAX_APPROVALS + 1)
        )
    except AdytumError as error:
        assert error.code in (Code.MESSAGE_INVALID, Code.PEER_UNAVAILABLE)
    else:
        refused(reply, Code.MESSAGE_INVALID, with_receipt=False)
    assert await office.wallet.state() == before
    await office.assert_refused(Code.APPROVALS_MISSING, body, *(approval,) * limits.MAX_APPROVALS)
    await office.assert_approvable(body)


async def test_an_approval_is_no_stamp_and_a_stamp_no_approval(office: Office) -> None:
    """Signatures over one purpose's bytes serve no other, even where the bytes themselves would."""
    body = office.body()
    text = office.statement(body)
    approval = office.alice.approval(body)  # alice, tricked into approving what is a request's body
    assert isinstance(approval.proof, KeyProof)
    lifted = Stamp(office.alice.scheme, office.alice.public_key, approval.proof.signature)
    reply = await office.wallet.stack.client.execute(body, lifted, office.wallet.key.record)
    refused(reply, Code.STAMP_INVALID, with_receipt=False)
    for kind in (REQUEST, POLICY):
        signature = office.bob.sign(pae(kind, text))
        forged = replace(
            office.bob.approval(text),
            proof=KeyProof(scheme=office.bob.scheme, public_key=office.bob.public_key, signature=signature),
        )
        await office.assert_refused(Code.APPROVAL_SIGNATURE, body, forged)
    assert pae(APPROVAL, text) != pae(REQUEST, text)
    await office.assert_approvable(body)


async def test_a_passkey_whose_counter_goes_back_is_refused(office: Office) -> None:
    """A clone: its counter runs beside that of the original."""
    body, now = office.body(), office.now_ms()

    def at(counter: int, age_ms: int, passkey: Passkey = office.bobs) -> Any:
        return passkey.approval(office.statement(body, issued_at=now - age_ms), counter=counter)

    first, later = at(7, 9000), at(9, 5000)
    for approval in (later, first, later, first):  # in any order, and again with each retry
        await office.assert_refused(Code.APPROVALS_MISSING, body, approval)
    for clone in (at(9, 1000), at(8, 1000), at(7, 9001), at(6, 7000), at(10, 7000), at(0, 1000)):
        await office.assert_refused(Code.APPROVAL_COUNTER, body, clone)
    await office.assert_refused(Code.APPROVALS_MISSING, body, at(8, 7000))  # between them in both respects
    await office.assert_refused(Code.APPROVALS_MISSING, body, at(10, 1000))
    for synced in (at(0, 9000, office.carols), at(0, 1000, office.carols), at(0, 5000, office.carols)):
        await office.assert_refused(Code.APPROVALS_MISSING, body, synced)
    await office.assert_approvable(body)


async def test_an_invalid_assertion_does_not_move_the_counter(office: Office) -> None:
    """Otherwise whoever can make a passkey sign anything at all could lock its owner out."""
    body, other = office.body(), office.body()
    high = office.bobs.approval(office.statement(other), counter=1000)  # genuine, but for another request
    await office.assert_refused(Code.APPROVAL_SUBJECT, body, high)
    await office.assert_refused(
        Code.APPROVAL_FLAGS, body, office.bobs.approval(office.statement(body), counter=1000, flags=UP)
    )
    text = office.statement(body, issued_at=office.now_ms() + 1)
    reply = await office.send(body, office.bobs.approval(text, counter=1), office.carol.approval(text))
    assert isinstance(reply, ExecuteReply), reply


async def test_an_approved_request_repeats_its_answer_and_has_one_effect(office: Office) -> None:
    body = office.body()
    text = office.statement(body)
    given = (office.bobs.approval(text), office.carols.approval(text))
    first = await office.send(body, *given)
    assert isinstance(first, ExecuteReply), first
    executed = await office.executed()
    for approvals in (given, given[::-1], (), (office.dave.approval(text),)):
        assert await office.send(body, *approvals) == first
    assert await office.executed() == executed


async def test_a_statement_that_repeats_a_member_is_refused(office: Office) -> None:
    body = office.body()
    text = office.statement(body, decision="reject")
    twice = text[:-1] + b', "decision": "approve"}'
    assert json.loads(twice)["decision"] == "approve"
    await office.assert_refused(Code.APPROVAL_INVALID, body, office.bob.approval(twice))
    await office.assert_approvable(body)
