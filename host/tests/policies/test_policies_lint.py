"""Reasons and warnings: each names its field, and a good document has none."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from adytum.policies.lint import lint
from adytum.policies.reasons import DraftError, parse_draft
from adytum.policies.start import Person, start
from adytum_wire.errors import Code

NOW = 1_800_000_000_000
KEY = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
OTHER = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"


def found(document: dict[str, Any], now: int = NOW) -> list[tuple[str, str]]:
    return [(one.kind, one.path) for one in lint(parse_draft(json.dumps(document).encode()).document, now)]


def reason(payload: bytes) -> tuple[str, str]:
    with pytest.raises(DraftError) as caught:
        parse_draft(payload)
    assert caught.value.code is Code.POLICY_INVALID
    assert caught.value.reason in str(caught.value)
    return caught.value.field, caught.value.reason


def change(document: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    target = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return changed


def test_the_guide_has_no_warnings(guide: dict[str, Any]) -> None:
    assert found(guide) == []


SMALL = ["rules", 1]
MATCHER = [*SMALL, "content", 0]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["valid_until"], NOW - 1, ("expiry", "$.valid_until")),
        (["valid_until"], NOW + 29 * 86_400_000, ("expiry", "$.valid_until")),
        ([*SMALL, "labels"], [], ("never", "$.rules[1].labels")),
        ([*SMALL, "times"], [{"days": [], "start": "00:00", "end": "24:00"}], ("never", "$.rules[1].times")),
        ([*MATCHER, "to"], [], ("never", "$.rules[1].content[0].to")),
        ([*MATCHER, "min_value"], "1", ("never", "$.rules[1].content[0].min_value")),
        ([*MATCHER, "erc20", "recipients"], [], ("never", "$.rules[1].content[0].erc20.recipients")),
        ([*MATCHER, "erc20", "min_amount"], "9" * 20, ("never", "$.rules[1].content[0].erc20.min_amount")),
        (["rules", 0, "paths"], ["m/44'/*"], ("never", "$.rules[0].paths")),
        (["rules", 0, "limits"], ["usdc-a-day"], ("never", "$.rules[0].limits")),
        (["rules", 0, "limits"], ["payouts-an-hour"], ("never", "$.rules[0].limits")),
        (["principals", 0, "keys"], [], ("never", "$.rules[1].principals")),
        (["principals", 0, "keys"], [], ("loose", "$.principals[0]")),
        (["principals", 0, "roles"], ["signer", "treasurer"], None),
        (["rules", 2, "principals"], ["role:treasurer"], ("never", "$.rules[2].approvals")),
        ([*SMALL, "labels"], "*", ("wide", "$.rules[1].labels")),
        ([*SMALL, "principals"], "*", ("wide", "$.rules[1].principals")),
        ([*SMALL, "content"], "*", ("wide", "$.rules[1].content")),
        ([*MATCHER, "max_fee"], "*", ("wide", "$.rules[1].content[0].max_fee")),
        ([*MATCHER, "to"], "*", ("wide", "$.rules[1].content[0].to")),
        ([*MATCHER, "max_value"], "5", ("wide", "$.rules[1].content[0].max_value")),
        (["rules", 0, "operations"], ["generate_key", "sign-raw"], ("wide", "$.rules[0].operations")),
        (
            ["rules", 2, "approvals"],
            "none",
            None,
        ),  # amounts of tokens are bounded by the call, not by a maximum of ether
        (["limits", 0, "asset"], "eip155:1/native", ("wide", "$.rules[1].content[0].selectors")),
        ([*SMALL, "limits"], ["usdc-a-day"], ("loose", "$.limits[1]")),
        (["principals", 3, "roles"], [], None),
        (["recipients"], [{"id": "x", "public_key": "09" + "00" * 31}], ("loose", "$.recipients")),
        (["passkeys"], {"rp_id": "a.example", "origins": []}, ("never", "$.passkeys.origins")),
        (["passkeys"], {"rp_id": "a.example", "origins": ["https://b.example"]}, ("never", "$.passkeys.origins[0]")),
        (["passkeys"], {"rp_id": "a.example", "origins": ["https://x.a.example:444"]}, None),
    ],
)
def test_what_is_probably_not_meant(
    guide: dict[str, Any], path: list[Any], value: Any, expected: tuple[str, str] | None
) -> None:
    document = change(guide, path, value)
    if path == ["principals", 3, "roles"]:
        document["rules"][0]["principals"] = ["principal:ops"]
    if expected is None:
        assert [one for one in found(document) if one[0] == "never"] == []
    else:
        assert expected in found(document)


def test_a_rule_without_maximum_limit_or_approvals_is_wide(guide: dict[str, Any]) -> None:
    document = change(guide, [*SMALL, "limits"], "none")
    document["rules"][1]["content"] = [document["rules"][1]["content"][0] | {"max_value": "*"}]
    assert ("wide", "$.rules[1]") in found(document)


@pytest.mark.parametrize(
    ("path", "value", "field", "word"),
    [
        (["principals", 0, "roles"], "signer", "$.principals[0].roles", "Expected `array`, got `str`"),
        (["surprise"], 1, "$", "unknown field `surprise`"),
        (["tenant"], "ACME", "$.tenant", "spec/policy.md"),
        (["rules", 1, "principals"], ["role:sinner"], "$.rules[1].principals", "nobody"),
        (["rules", 1, "limits"], ["euro"], "$.rules[1].limits", "not in `limits`"),
        (["rules", 1, "content", 0, "to"], ["0x" + "aB" * 20], "$.rules[1].content[0].to", "EIP-55"),
        (["rules", 2, "approvals", "count"], 3, "$.rules[2].approvals.count", "Fewer principals"),
        (["principals", 1, "id"], "payments", "$.principals[1].id", "id already"),
        (["limits", 0, "asset"], "*", "$.limits[0].asset", "one asset"),
        (["rules", 2, "times", 0, "end"], "06:00", "$.rules[2].times[0].end", "midnight"),
        (["records", "min_generation"], 9, "$.records.min_generation", "generation"),
    ],
)
def test_a_refusal_says_why(guide: dict[str, Any], path: list[Any], value: Any, field: str, word: str) -> None:
    where, why = reason(json.dumps(change(guide, path, value)).encode())
    assert where == field
    assert word in why


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"{", "line 1, column 2"),
        (b"", "line 1, column 1"),
        (b'{"v": 1,\n "v": 1}', "twice"),
        (b'{"v": 1.5}', "whole"),
        (b"\xff", "UTF-8"),
        (b"[" * 100, "nested"),
        (b" " * 2**18, "larger"),
        (b"[]", "Expected `object`"),
    ],
)
def test_what_is_no_json_says_where(payload: bytes, word: str) -> None:
    assert word in reason(payload)[1]


def test_the_first_document_is_valid_and_signs_nothing() -> None:
    people = [Person("ops", "operator", "ed25519", KEY), Person("olga", "approver", "ed25519", OTHER)]
    document = start("acme", people, valid_until=2 * NOW)
    parse_draft(json.dumps(document).encode())
    assert [rule["operations"] for rule in document["rules"]] == [["generate_key"]]
    assert document["rules"][0]["approvals"] == {"role": "approver", "count": 1}
    assert found(document) == []
    alone = start("acme", [people[0], Person("ops", "signer", "ed25519", KEY)], valid_until=2 * NOW)
    assert alone["principals"] == [
        {
            "id": "ops",
            "keys": [{"scheme": "ed25519", "public_key": KEY}],
            "passkeys": [],
            "roles": ["operator", "signer"],
        }
    ]
    assert alone["rules"][0]["approvals"] == "none"
    assert start("acme", [], valid_until=NOW)["rules"] == []
