"""Rules about Bitcoin transactions: each condition, every recipient for allow rules, any for deny rules."""

from __future__ import annotations

from typing import Any

import pytest
from one_matcher import parse, said

from adytum_policy.content.address_bitcoin import MAINNET, REGTEST, address_of_script
from adytum_policy.facts import BitcoinFacts
from adytum_wire.errors import AdytumError, Code

GOOD_SCRIPT, OTHER_SCRIPT = b"\x00\x14" + b"\x01" * 20, b"\x51\x20" + b"\x02" * 32
GOOD, OTHER = address_of_script(GOOD_SCRIPT, MAINNET), address_of_script(OTHER_SCRIPT, REGTEST)


def entry(**changes: Any) -> dict[str, Any]:
    fields = ("max_fee", "recipients", "min_amount", "max_amount")
    return {"type": "bitcoin-psbt"} | dict.fromkeys(fields, "*") | changes


def facts(*recipients: bytes) -> BitcoinFacts:
    return BitcoinFacts(type="bitcoin-psbt", recipients=recipients, amount=500, fee=20)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "allow"),
        ({"max_fee": "19"}, "content.max_fee"),
        ({"recipients": [GOOD]}, "content.recipient"),
        ({"recipients": []}, "content.recipient"),
        ({"min_amount": "501"}, "content.min_amount"),
        ({"max_amount": "499"}, "content.max_amount"),
        ({"max_fee": "20", "recipients": [GOOD, OTHER], "min_amount": "500", "max_amount": "500"}, "allow"),
        ({"type": "solana-message"}, None),
    ],
)
def test_each_condition(changes: dict[str, Any], outcome: str | None) -> None:
    if outcome is None:
        with pytest.raises(AdytumError):
            parse(entry(**changes))
    else:
        assert said(facts(GOOD_SCRIPT, OTHER_SCRIPT), entry(**changes)) == outcome


def test_a_deny_rule_bites_on_any_recipient() -> None:
    assert said(facts(GOOD_SCRIPT, OTHER_SCRIPT), entry(recipients=[OTHER]), "deny") == "deny"
    assert said(facts(GOOD_SCRIPT), entry(recipients=[OTHER]), "deny") == "content.recipient"


def test_nothing_but_change_names_no_recipient() -> None:
    assert said(facts(), entry(recipients=[GOOD])) == "content.recipient"
    assert said(facts(), entry()) == "allow"


@pytest.mark.parametrize("text", ["bc1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", "1" * 34, "0x" + "11" * 20])
def test_a_bad_address_refuses_the_document(text: str) -> None:
    with pytest.raises(AdytumError) as caught:
        parse(entry(recipients=[text]))
    assert (caught.value.code, caught.value.field) == (Code.POLICY_INVALID, "$.rules[0].content[0].recipients")
