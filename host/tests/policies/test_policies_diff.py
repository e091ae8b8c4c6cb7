"""What a new document changes: each change by name, and never "less" for what allows more."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_model import NOW, Book, allow_rules, books, document_of, rules, subjects, votes

from adytum.policies.diff import diff, may_allow_more
from adytum_policy.decide import decide
from adytum_policy.document import Policy, parse_policy
from adytum_policy.rules import Subject
from adytum_policy.votes import Vote


def parsed(document: dict[str, Any]) -> Policy:
    return parse_policy(json.dumps(document).encode())


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.where, one.effect) for one in diff(parsed(old).document, parsed(new).document)]


def test_the_same_is_no_difference(guide: dict[str, Any]) -> None:
    again = copy.deepcopy(guide)
    again["rules"][3]["operations"].reverse()
    assert changes(guide, guide) == changes(guide, again) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["version"], 3, ("version", "same")),
        (["valid_until"], 1, ("valid_until", "less")),
        (["valid_until"], 2**42, ("valid_until", "more")),
        (["limits", 0, "max"], "1", ("limits.usdc-a-day.max", "less")),
        (["limits", 0, "max"], "9" * 15, ("limits.usdc-a-day.max", "more")),
        (["limits", 0, "window_seconds"], 3600, ("limits.usdc-a-day.window_seconds", "more")),
        (["limits", 0, "asset"], "eip155:1/native", ("limits.usdc-a-day.asset", "unclear")),
        (["rules", 1, "labels"], ["payouts", "cold"], ("rules.small-payouts.labels", "more")),
        (["rules", 1, "labels"], "*", ("rules.small-payouts.labels", "more")),
        (["rules", 1, "labels"], [], ("rules.small-payouts.labels", "less")),
        (["rules", 1, "labels"], ["cold"], ("rules.small-payouts.labels", "unclear")),
        (["rules", 3, "labels"], "*", ("rules.frozen.labels", "less")),
        (["rules", 3, "operations"], ["sign"], ("rules.frozen.operations", "more")),
        (["rules", 1, "limits"], ["usdc-a-day"], ("rules.small-payouts.limits", "more")),
        (["rules", 1, "limits"], "none", ("rules.small-payouts.limits", "more")),
        (["rules", 2, "limits"], ["usdc-a-day"], ("rules.approved-payouts.limits", "less")),
        (["rules", 2, "approvals"], "none", ("rules.approved-payouts.approvals", "more")),
        (["rules", 2, "approvals", "count"], 1, ("rules.approved-payouts.approvals", "more")),
        (["rules", 1, "approvals"], {"role": "treasurer", "count": 1}, ("rules.small-payouts.approvals", "less")),
        (["rules", 2, "times"], "*", ("rules.approved-payouts.times", "more")),
        (["rules", 1, "content", 0, "max_value"], "*", ("rules.small-payouts.content", "more")),
        (["rules", 1, "content", 0, "max_fee"], "1", ("rules.small-payouts.content", "less")),
        (["rules", 1, "content", 0, "erc20", "min_amount"], "1", ("rules.small-payouts.content", "less")),
        (["rules", 1, "content", 0, "erc20", "methods"], "*", ("rules.small-payouts.content", "more")),
        (["rules", 1, "content"], "*", ("rules.small-payouts.content", "more")),
        (["principals", 0, "keys"], [], ("principals.payments.keys", "less")),
        (["principals", 3, "roles"], ["operator", "signer"], ("principals.ops.roles", "more")),
        (["rules", 1, "effect"], "deny", ("rules.small-payouts.effect", "unclear")),
        (["records", "generation"], 2, ("records.generation", "same")),
        (["passkeys"], {"rp_id": "a.example", "origins": []}, ("passkeys", "unclear")),
    ],
)
def test_each_change_is_named(guide: dict[str, Any], path: list[Any], value: Any, expected: tuple[str, str]) -> None:
    new = copy.deepcopy(guide)
    target = new
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    if path[-1] == "effect":
        new["rules"][1]["limits"] = "none"
    assert expected in changes(guide, new)


def test_rules_that_come_and_go(guide: dict[str, Any]) -> None:
    new = copy.deepcopy(guide)
    allow, deny = new["rules"].pop(1), new["rules"].pop(2)
    assert changes(guide, new) == [("rules.small-payouts", "less"), ("rules.frozen", "more")]
    assert changes(new, guide) == [("rules.small-payouts", "more"), ("rules.frozen", "less")]
    new["rules"] += [deny, allow]
    assert changes(guide, new) == [("rules", "unclear")]  # order says whose limits are charged


def test_an_address_is_the_same_in_any_case(guide: dict[str, Any]) -> None:
    new = copy.deepcopy(guide)
    listed = new["rules"][1]["content"][0]["erc20"]["recipients"]
    listed[0] = listed[0].lower()
    assert not may_allow_more(diff(parsed(guide).document, parsed(new).document))


_edits = st.sampled_from(
    ["operations", "principals", "labels", "algorithms", "paths", "times", "content", "approvals", "limits", "effect"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(rules, st.lists(st.tuples(st.integers(0, 3), _edits, allow_rules), max_size=2), st.data())
def test_what_is_called_less_never_allows_more(
    listed: list[dict[str, Any]], edits: list[tuple[int, str, dict[str, Any]]], data: st.DataObject
) -> None:
    changed = [dict(rule) for rule in listed]
    for at, field, source in edits:
        rule = changed[at % len(changed)]
        if rule["effect"] == "deny" and field in ("approvals", "limits"):
            continue
        rule[field] = source[field]
        if rule["content"] != "*":
            rule["operations"] = ["sign"]
    maximum = data.draw(st.sampled_from([10, 10, 5, 12]))
    old, new = parsed(document_of(listed)), parsed(document_of(changed, {"eth": maximum}))
    if may_allow_more(diff(old.document, new.document)):
        return
    for _ in range(4):
        subject: Subject = data.draw(subjects)
        ballots: list[Vote] = data.draw(votes)
        book: Book = data.draw(books)
        now = decide(subject, new, NOW, votes=ballots, usage=book)
        before = decide(subject, old, NOW, votes=ballots, usage=book)
        assert now.allowed <= before.allowed
