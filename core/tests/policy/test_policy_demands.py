"""Approvals, limits, times and paths: what a document may not say, and the edges of each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from policy_model import NOW, VERSION, Book, document_of, policy_of

from adytum_policy.decide import decide
from adytum_policy.document import parse_policy
from adytum_policy.facts import EthereumFacts
from adytum_policy.matchers.path import PathMatcher, is_reachable
from adytum_policy.matchers.time import TimeMatcher
from adytum_policy.rules import Subject
from adytum_policy.shape import TimeEntry
from adytum_policy.votes import Vote
from adytum_policy.x25519 import is_x25519
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

OPEN: dict[str, Any] = {
    "effect": "allow",
    "operations": ["sign"],
    **dict.fromkeys(("principals", "labels", "algorithms", "paths", "times", "content"), "*"),
    "approvals": "none",
    "limits": "none",
}
ETHER = EthereumFacts(
    type="ethereum-transaction", chain_id=1, to=b"\x11" * 20, value=6, max_fee=1, selector=b"", token=None
)


def asks(name: str = "alice", **changes: Any) -> Subject:
    fields: dict[str, Any] = {
        "operation": "sign",
        "principal_id": name,
        "roles": ("signer",),
        "algorithm": "secp256k1",
        "labels": (),
        "facts": ETHER,
        "key_id": "key-1",
    }
    return Subject(**(fields | changes))


def vote(name: str, *roles: str, decision: Any = "approve", version: int = VERSION, until: int = NOW) -> Vote:
    return Vote(
        principal_id=name,
        roles=roles or ("boss",),
        decision=decision,
        policy_version=version,
        issued_at=0,
        expires_at=until,
        digest=sha256(name.encode()),
    )


def refused(document: dict[str, Any]) -> str:
    with pytest.raises(AdytumError) as caught:
        parse_policy(json.dumps(document).encode())
    assert caught.value.code is Code.POLICY_INVALID
    return caught.value.field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"effect": "deny", "approvals": {"role": "boss", "count": 1}}, "approvals"),
        ({"effect": "deny", "limits": ["eth"]}, "limits"),
        ({"approvals": {"role": "boss", "count": 4}}, "approvals.count"),
        ({"approvals": {"role": "nobody", "count": 1}}, "approvals.count"),
        ({"approvals": {"role": "boss", "count": 0}}, "approvals.count"),
        ({"approvals": "*"}, "approvals"),
        ({"limits": []}, "limits"),
        ({"limits": "*"}, "limits"),
        ({"limits": ["euro"]}, "limits"),
        ({"limits": ["eth", "eth"]}, "limits"),  # checked once, charged twice
        ({"operations": ["export"]}, "approvals"),
        ({"times": [{"days": ["mon"], "start": "08:00", "end": "08:00"}]}, "times[0].end"),
        ({"times": [{"days": ["mon"], "start": "22:00", "end": "06:00"}]}, "times[0].end"),
        ({"times": [{"days": ["mon"], "start": "8:00", "end": "09:00"}]}, "times[0].start"),
        ({"times": [{"days": ["mon"], "start": "08:00", "end": "24:01"}]}, "times[0].end"),
        ({"times": [{"days": ["monday"], "start": "08:00", "end": "09:00"}]}, "times[0].days[0]"),
        ({"paths": ["m"]}, "paths[0]"),
        ({"paths": ["", "m/2147483648"]}, "paths[1]"),
        ({"paths": ["m/44h"]}, "paths[0]"),
        ({"paths": ["m/044"]}, "paths[0]"),
        ({"paths": ["m/44'*"]}, "paths[0]"),
        ({"paths": ["*"]}, "paths[0]"),
        ({"paths": ["m" + "/1" * 10 + "/*"]}, "paths[0]"),
    ],
)
def test_a_bad_demand_refuses_and_names_the_field(changes: dict[str, Any], field: str) -> None:
    assert refused(document_of([OPEN | changes])) == f"$.rules[0].{field}"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"measure": "amount", "asset": "*"}, "asset"),
        ({"asset": "eip155:0/native"}, "asset"),
        ({"asset": "eip155:1/erc20:0x" + "AB" * 20}, "asset"),  # one spelling only
        ({"asset": "solana/token:" + "2" * 32}, "asset"),  # a mint that is not 32 bytes never moves
        ({"asset": "bitcoin"}, "asset"),
        ({"max": "-1"}, "max"),
        ({"max": 5}, "max"),
        ({"max": "*"}, "max"),
        ({"window_seconds": 59}, "window_seconds"),
        ({"per": "rule"}, "per"),
    ],
)
def test_a_bad_limit_refuses_and_names_the_field(changes: dict[str, Any], field: str) -> None:
    document = document_of([])
    document["limits"][0] |= changes
    assert refused(document) == f"$.limits[0].{field}"


def test_two_limits_of_one_id_and_two_spellings_of_one_recovery_key() -> None:
    document = document_of([])
    document["limits"][1]["id"] = "eth"
    assert refused(document) == "$.limits[...].id"
    key = bytes.fromhex("a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209")
    twin = key[:-1] + bytes([key[-1] | 0x80])  # RFC 7748 ignores the highest bit: the same point
    document = document_of([]) | {"recovery": {"threshold": 2, "keys": [key.hex(), twin.hex()]}}
    assert refused(document) == "$.recovery.keys"
    assert is_x25519(key)
    for bad in (twin, bytes(32), b"\x01" + bytes(31), (2**255 - 19 + 9).to_bytes(32, "little"), key[:-1], b""):
        assert not is_x25519(bad)


def test_people_without_keys_are_no_approvers() -> None:
    document = document_of([OPEN | {"approvals": {"role": "boss", "count": 3}}])
    parse_policy(json.dumps(document).encode())
    document["principals"][1]["keys"] = []
    assert refused(document) == "$.rules[0].approvals.count"


APPROVED = OPEN | {"approvals": {"role": "boss", "count": 2}}


@pytest.mark.parametrize(
    ("votes", "outcomes", "code"),
    [
        ([vote("bob"), vote("carol")], ["approve", "approve"], None),
        ([vote("bob"), vote("bob")], ["approve", "again"], Code.APPROVALS_MISSING),
        ([vote("bob", "boss", "boss")], ["approve"], Code.APPROVALS_MISSING),  # a role listed twice is not two people
        ([vote("bob"), vote("alice")], ["approve", "initiator"], Code.APPROVALS_MISSING),
        ([vote("bob"), vote("carol", "audit")], ["approve", "role"], Code.APPROVALS_MISSING),
        ([vote("bob"), vote("carol", until=NOW - 1)], ["approve", "expired"], Code.APPROVALS_MISSING),
        ([vote("bob"), vote("carol", version=VERSION - 1)], ["approve", "policy-version"], Code.APPROVALS_MISSING),
        ([vote("bob"), vote("carol", version=VERSION + 1)], ["approve", "policy-version"], Code.APPROVALS_MISSING),
        ([vote("bob"), vote("carol"), vote("dave", decision="reject")], None, Code.APPROVALS_REJECTED),
        ([vote("bob"), vote("carol"), vote("bob", decision="reject")], None, Code.APPROVALS_REJECTED),
        ([vote("bob"), vote("carol"), vote("alice", decision="reject")], None, Code.APPROVALS_REJECTED),
        ([vote("bob"), vote("carol"), vote("dave", decision="reject", version=1)], None, Code.APPROVALS_REJECTED),
        ([vote("bob"), vote("carol"), vote("dave", decision="reject", until=NOW - 1)], None, None),
        ([vote("bob"), vote("carol"), vote("dave", "audit", decision="reject")], None, None),
    ],
)
def test_who_counts(votes: list[Vote], outcomes: list[str] | None, code: Code | None) -> None:
    decision = decide(asks(), policy_of([APPROVED]), NOW, votes=votes)
    assert decision.code is code
    if outcomes is not None:
        assert [outcome.outcome for outcome in decision.approvals] == outcomes


def test_who_is_missing_is_who_could() -> None:
    document = document_of([APPROVED])
    document["principals"].append({"id": "eve", "keys": [], "passkeys": [], "roles": ["boss"]})
    decision = decide(asks("bob"), parse_policy(json.dumps(document).encode()), NOW, votes=[vote("carol")])
    [wanted] = decision.wanted
    assert (wanted.role, wanted.count, wanted.counted, wanted.missing) == ("boss", 2, ("carol",), ("dave",))


def test_of_the_rules_that_hold_the_first_is_charged() -> None:
    small, large = OPEN | {"limits": ["eth"]}, OPEN | {"approvals": {"role": "boss", "count": 1}}
    policy = policy_of([small, large])
    plain = decide(asks(), policy, NOW)
    assert (plain.rule, [c.limit for c in plain.charges]) == ("r0", ["eth"])
    full = decide(asks(), policy, NOW, usage=Book({"eth": 5}))
    assert (full.code, [(b.limit, b.used) for b in full.blocked]) == (Code.APPROVALS_MISSING, [("eth", 5)])
    approved = decide(asks(), policy, NOW, votes=[vote("bob")], usage=Book({"eth": 5}))
    assert (approved.rule, approved.charges) == ("r1", ())
    assert [outcome.outcome for outcome in approved.rules] == ["limit", "allow"]
    # What waited for approvals may be old, even when by then the first rule has room for it; then that is not charged.
    late = decide(asks(), policy, NOW, votes=[vote("bob")], waited=True)
    assert (late.rule, late.charges, [outcome.outcome for outcome in late.rules]) == ("r1", (), ["approvals", "allow"])
    turned = decide(asks(), policy_of([large, small]), NOW, votes=[vote("bob")])
    assert (turned.rule, turned.charges) == ("r0", ())


def test_an_old_request_beside_somebody_elses_rule() -> None:
    """The approvals that came with it are those of a rule that does not allow it: it is as old as any other (A-16)."""
    asks_boss = OPEN | {"approvals": {"role": "boss", "count": 1}}
    for listed, votes, code in (
        ([OPEN, asks_boss], [vote("bob")], None),  # r1 allows it
        ([OPEN, asks_boss], [], Code.APPROVALS_MISSING),
        ([OPEN, asks_boss | {"limits": ["eth"]}], [vote("bob")], Code.LIMIT_EXCEEDED),
        ([OPEN, asks_boss | {"labels": ["other"]}], [vote("bob")], Code.REQUEST_EXPIRED),
        ([OPEN], [vote("bob")], Code.REQUEST_EXPIRED),
        ([OPEN], [], Code.REQUEST_EXPIRED),
    ):
        policy, usage = policy_of(listed), Book({"eth": 11})
        assert decide(asks(), policy, NOW, votes=votes, usage=usage).rule == "r0"
        late = decide(asks(), policy, NOW, votes=votes, usage=usage, waited=True)
        assert (late.code, late.rule) == (code, "" if code else "r1")


def test_all_of_a_rules_limits_or_none() -> None:
    rule = OPEN | {"limits": ["many", "eth", "usd"]}
    decision = decide(asks(), policy_of([rule]), NOW, usage=Book({"eth": 5, "usd": None}))
    assert (decision.code, decision.charges) == (Code.USAGE_UNKNOWN, ())
    assert [(b.limit, b.used) for b in decision.blocked] == [("eth", 5), ("usd", None)]
    assert decide(asks(), policy_of([rule]), NOW, usage=Book({"eth": 5})).code is Code.LIMIT_EXCEEDED
    assert decide(asks(), policy_of([rule]), NOW, usage=Book({"eth": 4})).allowed  # the maximum is included


def test_a_limit_on_what_nobody_can_measure_never_allows() -> None:
    raw = asks(operation="sign-raw", facts=None)
    for limit in ("eth", "usd", "sends"):
        decision = decide(raw, policy_of([OPEN | {"operations": ["sign-raw"], "limits": [limit]}]), NOW)
        assert (decision.code, decision.blocked[0].charge) == (Code.LIMIT_EXCEEDED, None)
    assert decide(raw, policy_of([OPEN | {"operations": ["sign-raw"], "limits": ["many"]}]), NOW).allowed


def test_a_limit_per_key_does_not_take_what_has_no_key_yet() -> None:
    rule = OPEN | {"operations": ["generate_key"], "limits": ["eth"]}
    made = asks(operation="generate_key", facts=None, key_id="")
    assert decide(made, policy_of([rule]), NOW).code is Code.LIMIT_EXCEEDED


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2027-01-15T07:59:59.999", False),
        ("2027-01-15T08:00:00", True),
        ("2027-01-15T23:59:59.999", True),  # 24:00 is the end of the day
        ("2027-01-16T00:00:00", False),
        ("2027-01-16T08:00:00", False),  # a Saturday
        ("2028-02-29T08:00:00", False),  # a Tuesday
        ("2028-03-03T12:00:00", True),
    ],
)
def test_times_are_utc_and_end_before_their_end(moment: str, holds: bool) -> None:
    assert TimeMatcher([TimeEntry(days=["fri"], start="08:00", end="24:00")]).holds(at(moment)) is holds


def test_no_times_and_no_days_are_never() -> None:
    assert not TimeMatcher([]).holds(NOW)
    assert not TimeMatcher([TimeEntry(days=[], start="00:00", end="24:00")]).holds(NOW)


@pytest.mark.parametrize(
    ("pattern", "path", "holds"),
    [
        ("", "", True),
        ("", "m/0", False),
        ("m/*", "", False),
        ("m/*", "m/0", True),
        ("m/44'", "m/44'", True),
        ("m/44", "m/44'", False),
        ("m/44'", "m/44", False),
        ("m/44'/*", "m/44'", False),
        ("m/44/*", "m/44'/0", False),
        ("m/44/*", "m/440/0", False),
        ("m/4/*", "m/44/0", False),
        ("m/44'/60'/*", "m/44'/60'/0'/0/7", True),
        ("m/44'/60'/*", "m/44'/601'/0", False),
    ],
)
def test_paths_are_compared_step_by_step(pattern: str, path: str, holds: bool) -> None:
    assert is_reachable(pattern)
    assert PathMatcher([pattern]).holds(path) is holds
    assert not PathMatcher([]).holds(path)


def test_the_end_of_a_window_is_not_in_it() -> None:
    window = TimeMatcher([TimeEntry(days=["fri"], start="08:00", end="09:00")])
    end = at("2027-01-15T09:00:00")
    assert (window.holds(end - 1), window.holds(end)) == (True, False)
