"""Rules about EIP-191 messages and EIP-712 typed data: each condition, and what absent facts never meet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from one_matcher import parse, said

from adytum_policy.content import decode_content
from adytum_policy.facts import ContentFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import PersonalMessage, TypedData
from adytum_wire.types import SigningScheme

SCHEME = SigningScheme.ECDSA_SECP256K1
SPENDER = "0x" + "11" * 20


def personal(message: bytes) -> ContentFacts:
    facts = decode_content(PersonalMessage(message.hex()), SCHEME).facts
    assert facts is not None
    return facts


def typed(document: dict[str, Any]) -> ContentFacts:
    facts = decode_content(TypedData(json.dumps(document)), SCHEME).facts
    assert facts is not None
    return facts


_TYPED = ("domain_names", "domain_versions", "chain_ids", "verifying_contracts", "primary_types", "permit")


def typed_entry(**changes: Any) -> dict[str, Any]:
    return {"type": "eip712-typed-data"} | dict.fromkeys(_TYPED, "*") | changes


def permit_entry(**changes: Any) -> dict[str, Any]:
    return typed_entry(permit={"spenders": "*", "min_value": "*", "max_value": "*"} | changes)


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        (typed_entry(), "allow"),
        (typed_entry(chain_ids=[5]), "content.chain_id"),
        (typed_entry(domain_names=["USD Coin "]), "content.domain_name"),
        (typed_entry(domain_versions=["1"]), "content.domain_version"),
        (typed_entry(verifying_contracts=[SPENDER]), "content.verifying_contract"),
        (typed_entry(primary_types=["Order"]), "content.primary_type"),
        (typed_entry(domain_names=["USD Coin"], domain_versions=["2"], chain_ids=[1]), "allow"),
        (typed_entry(verifying_contracts=["0x" + "cc" * 20], primary_types=["Permit", "Order"]), "allow"),
        (permit_entry(spenders=[SPENDER], max_value="5000000", min_value="5000000"), "allow"),
        (permit_entry(spenders=["0x" + "12" * 20]), "content.permit.spender"),
        (permit_entry(spenders=[]), "content.permit.spender"),
        (permit_entry(max_value="4999999"), "content.permit.max_value"),
        (permit_entry(min_value="5000001"), "content.permit.min_value"),
        *[(typed_entry(**{name: []}), f"content.{name[:-1]}") for name in _TYPED[:-1]],
        ({"type": "eip191-message", "readable": "*", "prefixes": "*"}, "content.type"),
    ],
)
def test_conditions_on_typed_data(permit: dict[str, Any], entry: dict[str, Any], outcome: str) -> None:
    assert said(typed(permit), entry) == outcome


def test_what_the_domain_leaves_out_meets_no_condition(mail: dict[str, Any]) -> None:
    bare = mail
    bare["types"]["EIP712Domain"] = [{"name": "salt", "type": "bytes32"}]
    bare["domain"] = {"salt": "0x" + "00" * 32}
    facts = typed(bare)
    assert said(facts, typed_entry()) == "allow"
    for changes in (
        {"chain_ids": [1]},
        {"domain_names": ["Ether Mail"]},
        {"domain_versions": ["1"]},
        {"verifying_contracts": ["0x" + "cc" * 20]},
        {"permit": {"spenders": "*", "min_value": "*", "max_value": "*"}},
    ):
        for effect in ("allow", "deny"):
            assert said(facts, typed_entry(**changes), effect) not in ("allow", "deny")


@pytest.mark.parametrize(
    ("message", "readable", "prefixes", "outcome"),
    [
        (b"Log in to shop.example", True, ["Log in to shop.example"], "allow"),
        (b"Log in to shop.example", True, ["Log in to bank.example", "Log"], "allow"),
        (b"Log in to evil.example", True, ["Log in to shop.example"], "content.prefix"),
        (b"Log in", "*", [], "content.prefix"),
        (b"Log in", False, "*", "content.readable"),
        (bytes(32), True, "*", "content.readable"),
        (bytes(32), False, "*", "allow"),
        (bytes(32), "*", "*", "allow"),
        (b"Log\0", "*", ["Log"], "content.prefix"),
    ],
)
def test_conditions_on_messages(
    mail: dict[str, Any], message: bytes, readable: Any, prefixes: Any, outcome: str
) -> None:
    entry = {"type": "eip191-message", "readable": readable, "prefixes": prefixes}
    assert said(personal(message), entry) == outcome
    assert said(typed(mail), entry) == "content.type"
    assert said(personal(message), typed_entry()) == "content.type"


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (typed_entry(verifying_contracts=["0x" + "AB" * 20]), ".verifying_contracts"),
        (typed_entry(primary_types=["a b"]), ".primary_types[0]"),
        (typed_entry(domain_names=[""]), ".domain_names[0]"),
        (permit_entry(spenders=["0x" + "AB" * 20]), ".permit.spenders"),
        (permit_entry(min_value=str(2**256)), ".permit.min_value"),
        (permit_entry(max_value=str(2**256)), ".permit.max_value"),
        (permit_entry(deadline="1"), ".permit"),
        ({"type": "eip191-message", "readable": "*"}, ""),
        ({"type": "eip191-message", "readable": "*", "prefixes": [""]}, ".prefixes[0]"),
        ({"readable": "*", "prefixes": "*"}, ""),
    ],
)
def test_a_bad_condition_refuses_the_document(entry: dict[str, Any], field: str) -> None:
    with pytest.raises(AdytumError) as caught:
        parse(entry)
    assert (caught.value.code, caught.value.field) == (Code.POLICY_INVALID, "$.rules[0].content[0]" + field)
