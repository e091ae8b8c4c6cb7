"""Rules about Solana messages: each condition, every recipient for allow rules, any for deny rules."""

from __future__ import annotations

from typing import Any

import pytest
from one_matcher import parse, said

from adytum_policy.content import base58, solana
from adytum_policy.facts import SolanaFacts
from adytum_wire.errors import AdytumError, Code

GOOD, OTHER, MINT = (base58.encode(bytes([number]) * 32) for number in (1, 2, 3))
SYSTEM, TOKEN = base58.encode(solana.SYSTEM), base58.encode(solana.TOKEN)
_FIELDS = (
    "max_fee",
    "programs",
    "recipients",
    "mints",
    "min_lamports",
    "max_lamports",
    "min_tokens",
    "max_tokens",
)


def entry(**changes: Any) -> dict[str, Any]:
    return {"type": "solana-message"} | dict.fromkeys(_FIELDS, "*") | changes


def facts(**changes: Any) -> SolanaFacts:
    """A transfer of 5 lamports to GOOD and one of 7 tokens of MINT to OTHER."""
    fields: dict[str, Any] = {
        "type": "solana-message",
        "programs": (solana.SYSTEM, solana.TOKEN),
        "recipients": (b"\1" * 32, b"\2" * 32),
        "mints": (b"\3" * 32,),
        "lamports": 5,
        "tokens": 7,
        "max_fee": 5_000,
    }
    return SolanaFacts(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "allow"),
        ({"max_fee": "4999"}, "content.max_fee"),
        ({"programs": [SYSTEM]}, "content.program"),
        ({"programs": [SYSTEM, TOKEN]}, "allow"),
        ({"recipients": [GOOD]}, "content.recipient"),
        ({"recipients": []}, "content.recipient"),
        ({"mints": [GOOD]}, "content.mint"),
        ({"min_lamports": "6"}, "content.min_lamports"),
        ({"max_lamports": "4"}, "content.max_lamports"),
        ({"min_tokens": "8"}, "content.min_tokens"),
        ({"max_tokens": "6"}, "content.max_tokens"),
        (
            {
                "max_fee": "5000",
                "recipients": [GOOD, OTHER],
                "mints": [MINT],
                "min_lamports": "5",
                "max_lamports": "5",
                "min_tokens": "7",
                "max_tokens": "7",
            },
            "allow",
        ),
    ],
)
def test_each_condition(changes: dict[str, Any], outcome: str) -> None:
    assert said(facts(), entry(**changes)) == outcome


def test_a_deny_rule_bites_on_any_recipient() -> None:
    assert said(facts(), entry(recipients=[OTHER]), "deny") == "deny"
    assert said(facts(), entry(programs=[TOKEN]), "deny") == "deny"
    assert said(facts(), entry(mints=[MINT, GOOD]), "deny") == "deny"
    assert said(facts(), entry(mints=[GOOD]), "deny") == "content.mint"


def test_a_mint_that_is_not_named_meets_no_list() -> None:
    for unnamed in (facts(mints=(None,)), facts(mints=(None, b"\3" * 32)), facts(mints=())):
        assert said(unnamed, entry(mints=[MINT])) == "content.mint"
    assert said(facts(mints=(None,)), entry()) == "allow"


def test_rules_about_other_content_do_not_reach_solana() -> None:
    assert said(facts(), {"type": "eip191-message", "readable": "*", "prefixes": "*"}) == "content.type"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipients": ["1" * 33]}, ".recipients"),
        ({"mints": ["z" * 44]}, ".mints"),
        ({"programs": [GOOD[:-1]]}, ".programs"),
        ({"programs": ["0" * 32]}, ".programs[0]"),
        ({"max_lamports": 5}, ".max_lamports"),
        ({"memo": "*"}, ""),
    ],
)
def test_a_bad_condition_refuses_the_document(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(AdytumError) as caught:
        parse(entry(**changes))
    assert caught.value.code is Code.POLICY_INVALID
    assert caught.value.field.startswith("$.rules[0].content[0]" + field)
