"""No receipt is linked into the chain that could not be delivered, whatever is asked under whatever policy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.chain import MAX_GROUP, Draft, ReceiptChain, Ticket
from adytum_policy import content
from adytum_policy.content.personal import MAX_MESSAGE
from adytum_policy.decide import Decision, Subject, decide
from adytum_policy.document import parse_policy
from adytum_policy.votes import Vote
from adytum_sim.people import Person
from adytum_verify import verify_chain, verify_receipt
from adytum_wire import limits
from adytum_wire.errors import Code
from adytum_wire.receipts import MAX_RECEIPT, MAX_WANTED, MAX_WANTED_NAMES, LimitOutcome, RuleOutcome
from adytum_wire.requests import PersonalMessage, TypedData
from adytum_wire.types import SigningScheme

NOW = 1_795_000_000_000
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
LONGEST = 63  # characters of a name


def long(kind: str, number: int) -> str:
    return f"{kind}{number:03d}".ljust(LONGEST, "x")


def draft_of(decision: Decision | None, summary: dict[str, str] | None = None) -> Draft:
    draft = Draft(
        tenant="t" * LONGEST,
        principal="p" * LONGEST,
        request_id="r" * 64,
        operation="cancel_deletion",
        request_digest=bytes(32),
    )
    draft.policy_version, draft.policy_digest = 2**53, bytes(32)
    draft.key_id, draft.record_version, draft.public_key = "key-" + "0" * 32, 2**53, "0" * 66
    if decision is not None:
        draft.rules, draft.approvals = list(decision.rules), list(decision.approvals)
        draft.wanted = list(decision.wanted)
    draft.summary = summary or {}
    return draft


def sealed(*drafts: Draft) -> list[bytes]:
    """Their envelopes, behind as many others as make a group, which is where an envelope is longest."""
    chain = ReceiptChain("ab" * 16, PUBLIC, KEY.sign)
    tickets = [link(chain, draft) for draft in (*drafts, *(draft_of(None) for _ in range(MAX_GROUP)))]
    chain.seal()
    found = [ticket.envelope for ticket in tickets]
    verify_chain(found, receipt_key=PUBLIC).require_intact()
    assert all(len(ticket.envelope) <= ticket.size for ticket in tickets)
    assert sum(map(len, found)) <= limits.MAX_RECEIPTS_REPLY or len(chain.remembered(1)) < len(found)
    return found[: len(drafts)]


def link(chain: ReceiptChain, draft: Draft) -> Ticket:
    code = Code.APPROVALS_MISSING.value
    return chain.append(draft, time_ms=2**53, decision="deny", code=code, result_digest="0" * 64)


def crowd(rules: int, approvers: int, roles: int, count: int) -> Any:
    """A policy of `rules` that match and ask for approvals of `approvers` people, all with the longest names."""
    role = [long("role", n) for n in range(roles)]
    people = [
        {
            "id": long("a", n),
            "keys": [{"scheme": "ed25519", "public_key": Person.new("x").public_key.hex()}],
            "passkeys": [],
            "roles": role,
        }
        for n in range(approvers)
    ]
    every = [
        {
            "id": long("rule", n), "effect": "allow", "operations": ["generate_key"], "principals": "*", "labels": "*",
            "algorithms": "*", "paths": "*", "times": "*", "content": "*", "limits": "none",
            "approvals": {"role": role[n % roles], "count": count},
        }
        for n in range(rules)
    ]  # fmt: skip
    document = {
        "v": 1, "tenant": "acme", "version": 1, "valid_until": NOW + 1, "recovery": "none", "passkeys": "none",
        "records": {"generation": 1, "min_generation": 1}, "recipients": [], "limits": [], "principals": people,
        "rules": every,
    }  # fmt: skip
    return parse_policy(json.dumps(document).encode())


def vote(policy: Any, number: int, decision: Any = "approve") -> Vote:
    entry = policy.document.principals[number]
    return Vote(
        principal_id=entry.id,
        roles=frozenset(entry.roles),
        decision=decision,
        policy_version=1,
        issued_at=NOW,
        expires_at=NOW + 1,
        digest=number.to_bytes(32, "big"),
    )


SUBJECT = Subject(
    operation="generate_key", principal_id="alice", roles=frozenset(), labels=(), algorithm="ed25519", facts=None
)


def quotes() -> dict[str, str]:
    """The typed data whose summary is longest in a receipt: each quote is escaped twice over."""
    types = {"EIP712Domain": [{"name": "name", "type": "string"}], "M": [{"name": "t", "type": "string[]"}]}
    room = limits.MAX_CONTENT - 1024
    lines = ['"' * 30] * (room // 66)
    data = json.dumps(
        {"types": types, "primaryType": "M", "domain": {"name": '"' * 20}, "message": {"t": lines}},
        separators=(",", ":"),
    )
    return content.decode_content(TypedData(typed_data=data), SigningScheme.ECDSA_SECP256K1).summary


def lines(number: int) -> dict[str, str]:
    """A PSBT's, of the most inputs and outputs and the longest scripts and paths (`bitcoin._summary`)."""
    path = "m" + "/2147483647'" * 10
    return (
        {f"input_{n}": f"{2**63} sat of {'0' * 64}:{2**32}" for n in range(number)}
        | {f"output_{n}": f"{2**63} sat to script {'0' * 160} (change at {path})" for n in range(number)}
        | {"signed_inputs": ", ".join(map(str, range(number)))}
    )


def message(text: str) -> dict[str, str]:
    return content.decode_content(PersonalMessage(message=text.encode().hex()), SigningScheme.ECDSA_SECP256K1).summary


SUMMARIES = {
    "typed data": quotes,
    "psbt": lambda: lines(64),
    "message of quotes": lambda: message('"' * MAX_MESSAGE),
    "message of backslashes": lambda: message("\\" * MAX_MESSAGE),
    "message of lines": lambda: message("\n" * MAX_MESSAGE),
    "message nobody reads": lambda: message("\x01" * MAX_MESSAGE),
    "none": dict,
}


@pytest.mark.parametrize("summary", SUMMARIES)
def test_a_policy_of_the_most_rules_that_wait_makes_no_receipt_that_is_too_large(summary: str) -> None:
    """poc: 256 rules that ask 32 people with long names made one of 589 KB, and a hole in everybody's chain."""
    policy = crowd(256, 32, 1, 32)
    votes = [vote(policy, n) for n in range(31)]
    decision = decide(SUBJECT, policy, NOW, votes=votes)
    assert decision.code is Code.APPROVALS_MISSING
    [envelope] = sealed(draft_of(decision, SUMMARIES[summary]()))
    assert len(envelope) <= MAX_RECEIPT
    receipt = verify_receipt(envelope, receipt_key=PUBLIC).receipt
    assert receipt.omitted == []  # bounded where it comes from, not cut afterwards
    assert receipt.wanted
    assert receipt.summary or summary == "none"
    assert sum(rule.outcome == "approvals" for rule in receipt.rules) == 256  # those that are not listed show here


def test_what_there_is_no_room_to_name_is_counted() -> None:
    policy = crowd(40, 100, 2, 3)
    decision = decide(SUBJECT, policy, NOW, votes=[vote(policy, 5), vote(policy, 70)])
    assert [wanted.rule for wanted in decision.wanted] == [rule.id for rule in policy.rules[: len(decision.wanted)]]
    assert len(decision.wanted) == 4  # the first two name everybody they may, the fourth whom there is room for
    assert sum(len(w.counted) + len(w.missing) for w in decision.wanted) <= MAX_WANTED_NAMES
    for wanted in decision.wanted:
        assert set(wanted.counted) == {long("a", 5), long("a", 70)}  # never cut: how many are still to come is right
        assert len(wanted.missing) + wanted.others == 98
    first = decision.wanted[0]
    assert list(first.missing) == [long("a", n) for n in range(33) if n != 5]
    few = decide(SUBJECT, crowd(40, 3, 2, 3), NOW)
    assert len(few.wanted) == MAX_WANTED
    assert all((len(wanted.missing), wanted.others) == (3, 0) for wanted in few.wanted)


def test_rejections_of_more_people_than_fit_cut_the_list_and_keep_those_that_counted() -> None:
    policy = crowd(1, 400, 1, 1)
    votes = [vote(policy, n) for n in range(100)] + [vote(policy, n, "reject") for n in range(100, 400)]
    decision = decide(SUBJECT, policy, NOW, votes=votes)
    assert decision.code is Code.APPROVALS_REJECTED
    [envelope] = sealed(draft_of(decision))
    receipt = verify_receipt(envelope, receipt_key=PUBLIC).receipt
    assert receipt.omitted == ["approvals"]
    assert len(receipt.approvals) == 64


def test_a_draft_that_is_too_large_in_spite_of_all_bounds_loses_parts_and_says_so() -> None:
    small, large = draft_of(None), draft_of(None)
    large.rules = [RuleOutcome('"' * 500, "allow")] * 256
    large.limits = [LimitOutcome("l" * 63, "s", "1", "1", "1")]
    large.summary = {"text": "x" * 50_000}
    huge = draft_of(None, {"text": '"' * 200_000})
    found = [verify_receipt(envelope, receipt_key=PUBLIC).receipt for envelope in sealed(small, large, huge)]
    assert [receipt.omitted for receipt in found] == [[], ["rules"], ["summary"]]
    assert (found[1].rules, found[1].limits, found[1].summary) == ([], large.limits, large.summary)
    assert found[2].summary == {}
    assert all(receipt.request_id == "r" * 64 for receipt in found)


TEXT = st.text(st.sampled_from('"\\\n\tx☃🎈\x00\x1f'), max_size=3000)


@given(
    rules=st.integers(0, 256),
    approvals=st.integers(0, 200),
    name=st.text(st.sampled_from('ab"\\🎈'), min_size=1, max_size=200),
    summary=st.dictionaries(st.text(max_size=20), TEXT, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_no_draft_at_all_makes_an_envelope_over_the_limit(
    rules: int, approvals: int, name: str, summary: dict[str, str]
) -> None:
    draft = draft_of(None, summary)
    draft.rules = [RuleOutcome(name, "approvals")] * rules
    policy = SMALL
    decision = decide(SUBJECT, policy, NOW, votes=[vote(policy, n % 4, "reject") for n in range(approvals)])
    draft.approvals = list(decision.approvals)
    [envelope] = sealed(draft)
    assert len(envelope) <= MAX_RECEIPT
    receipt = verify_receipt(envelope, receipt_key=PUBLIC).receipt
    whole: dict[str, Any] = {"rules": draft.rules, "approvals": draft.approvals, "summary": summary}
    for part, value in whole.items():
        assert (getattr(receipt, part) == value) is (part not in receipt.omitted)


SMALL = crowd(2, 4, 1, 1)


def test_receipts_that_are_remembered_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """poc: the denied typed data of somebody without rights, 39 KiB each, 8,192 of them."""
    monkeypatch.setattr(limits, "MAX_REMEMBERED_RECEIPT_BYTES", 100_000)
    chain = ReceiptChain("ab" * 16, PUBLIC, KEY.sign)
    for n in range(200):
        link(chain, draft_of(None, {"text": f"{n:06d}" * 800}))
        chain.seal()
    assert sum(map(len, chain._sealed)) == chain._sealed_bytes <= 100_000
    held = len(chain._sealed)
    assert 5 < held < 200
    assert chain.remembered(200 - held) == []
    numbers = [verify_receipt(one, receipt_key=PUBLIC).receipt.sequence for one in chain.remembered(200 - held + 1)]
    assert numbers == list(range(200 - held + 1, 200 - held + 1 + len(numbers)))


def test_receipts_of_a_long_policy_are_packed_and_come_back_as_they_were() -> None:
    """Each says the same of 256 rules: that of a rotation must not push out an answer before the host has asked."""
    chain = ReceiptChain("ab" * 16, PUBLIC, KEY.sign)
    draft = draft_of(None)
    draft.rules = [RuleOutcome(f"rule-number-{n}", "operation") for n in range(256)]
    tickets = [link(chain, draft) for _ in range(20)]
    chain.seal()
    whole = sum(len(ticket.envelope) for ticket in tickets)
    assert chain._sealed_bytes * 4 < whole
    found: list[bytes] = []
    while more := chain.remembered(len(found) + 1):
        assert sum(map(len, more)) <= limits.MAX_RECEIPTS_REPLY
        found += more
    assert found == [ticket.envelope for ticket in tickets]


def test_the_largest_receipt_fits_into_one_reply_of_those_that_are_fetched() -> None:
    assert MAX_RECEIPT <= limits.MAX_RECEIPTS_REPLY < limits.MAX_PAYLOAD
