"""The policy document: what is refused, and where the refusal points."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.document import find_principal, parse_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Scheme


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def refused(payload: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        parse_policy(payload)
    assert caught.value.code is Code.POLICY_INVALID
    return caught.value.field


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every JSON object in `value`."""
    if isinstance(value, dict):
        yield path
        for name, part in value.items():
            yield from objects(part, (*path, name))
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from objects(part, (*path, at))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def test_a_full_document_parses(document: dict[str, Any]) -> None:
    policy = parse_policy(dump(document))
    assert (policy.tenant, policy.version, policy.valid_until) == ("acme", 7, 2_000_000_000_000)
    assert [rule.id for rule in policy.rules] == ["pay", "make", "frozen"]


def test_unknown_field_anywhere_refuses_the_document(document: dict[str, Any]) -> None:
    paths = list(objects(document))
    assert len(paths) >= 9  # document, principals, keys, rules, matcher, erc20
    for path in paths:
        spoiled = copy.deepcopy(document)
        at(spoiled, path)["comment"] = "x"
        assert refused(dump(spoiled)).startswith("$"), path


def test_missing_field_anywhere_refuses_the_document(document: dict[str, Any]) -> None:
    missing = 0
    for path in objects(document):
        for name in at(document, path):
            spoiled = copy.deepcopy(document)
            del at(spoiled, path)[name]
            refused(dump(spoiled))
            missing += 1
    assert missing > 40


def test_duplicate_field_anywhere_refuses_the_document(document: dict[str, Any]) -> None:
    """Twice the same field, first with the harmless value: parsers disagree about which of the two counts."""
    duplicates = 0
    for path in objects(document):
        for name in at(document, path):
            marked = copy.deepcopy(document)
            target = at(marked, path)
            value = target.pop(name)
            target["@@"] = value
            one, two = dump(name) + b": " + dump(value), dump(value)
            text = dump(marked).replace(b'"@@": ' + two, one + b", " + one, 1)
            assert b"@@" not in text
            assert refused(text) == "$ (not strict JSON)"
            duplicates += 1
    assert duplicates > 40


def test_null_is_not_a_wildcard(document: dict[str, Any]) -> None:
    for path in objects(document):
        for name in at(document, path):
            spoiled = copy.deepcopy(document)
            at(spoiled, path)[name] = None
            refused(dump(spoiled))


MATCHER = ("rules", 0, "content", 0)
ERC20 = (*MATCHER, "erc20")
UINT256_MAX = str(2**256 - 1)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("v",), 2, "$.v"),
        (("v",), True, "$.v"),
        (("tenant",), "Acme", "$.tenant"),
        (("tenant",), "acme\n", "$.tenant"),
        (("version",), 0, "$.version"),
        (("version",), "7", "$.version"),
        (("version",), 2**53 + 1, "$.version"),
        (("valid_until",), -1, "$.valid_until"),
        (("principals", 1, "id"), "alice", "$.principals[1].id"),
        (("principals", 0, "id"), "", "$.principals[0].id"),
        (("principals", 0, "keys", 0, "scheme"), "rsa", "$.principals[0].keys[0].scheme"),
        (("principals", 0, "keys", 0, "public_key"), "00" * 31, "$.principals[0].keys[0].public_key"),
        (("principals", 0, "keys", 0, "public_key"), "01" + "00" * 31, "$.principals[0].keys[0].public_key"),
        (("principals", 0, "keys", 0, "public_key"), "AB" * 32, "$.principals[0].keys[0].public_key"),
        (("principals", 1, "keys", 0, "public_key"), "02" + "ff" * 32, "$.principals[1].keys[0].public_key"),
        (("principals", 1, "keys", 0, "public_key"), "04" + "11" * 64, "$.principals[1].keys[0].public_key"),
        (("principals", 0, "roles"), "*", "$.principals[0].roles"),
        (("rules", 1, "id"), "pay", "$.rules[1].id"),
        (("rules", 0, "effect"), "Allow", "$.rules[0].effect"),
        (("rules", 0, "operations"), "*", "$.rules[0].operations"),
        (("rules", 0, "operations"), ["mint"], "$.rules[0].operations[0]"),
        (("rules", 0, "operations"), ["export"], "$.rules[0].approvals"),  # key material leaves with a quorum only
        (("rules", 0, "principals"), ["alice"], "$.rules[0].principals[0]"),
        (("rules", 0, "principals"), ["*"], "$.rules[0].principals[0]"),
        (("rules", 0, "principals"), ["principal:nobody"], "$.rules[0].principals"),
        (("rules", 0, "principals"), ["role:sinner"], "$.rules[0].principals"),
        (("rules", 0, "labels"), ["*"], "$.rules[0].labels[0]"),
        (("rules", 0, "labels"), "treasury", "$.rules[0].labels"),
        (("rules", 0, "algorithms"), ["rsa"], "$.rules[0].algorithms[0]"),
        (("rules", 0, "content"), {}, "$.rules[0].content"),
        (("rules", 0, "operations"), ["sign", "sign-raw"], "$.rules[0].content"),
        (("rules", 0, "operations"), ["generate_key"], "$.rules[0].content"),
        ((*MATCHER, "type"), "bitcoin-transaction", "$.rules[0].content[0].type"),
        ((*MATCHER, "chain_ids"), ["1"], "$.rules[0].content[0].chain_ids[0]"),
        ((*MATCHER, "chain_ids"), [0], "$.rules[0].content[0].chain_ids[0]"),
        ((*MATCHER, "chain_ids"), [True], "$.rules[0].content[0].chain_ids[0]"),
        ((*MATCHER, "contract_creation"), 0, "$.rules[0].content[0].contract_creation"),
        ((*MATCHER, "to"), ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"], "$.rules[0].content[0].to"),
        ((*MATCHER, "to"), ["0x" + "AB" * 20], "$.rules[0].content[0].to"),
        ((*MATCHER, "to"), ["5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"], "$.rules[0].content[0].to[0]"),
        ((*MATCHER, "to"), ["0x" + "ab" * 19], "$.rules[0].content[0].to[0]"),
        ((*MATCHER, "to"), [""], "$.rules[0].content[0].to[0]"),
        ((*MATCHER, "max_value"), 5, "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "-1", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "01", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "1e18", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "0x10", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), "١", "$.rules[0].content[0].max_value"),
        ((*MATCHER, "max_value"), str(2**256), "$.rules[0].content[0].max_value"),
        ((*MATCHER, "min_value"), str(2**256), "$.rules[0].content[0].min_value"),
        ((*MATCHER, "max_fee"), "9" * 98, "$.rules[0].content[0].max_fee"),
        ((*MATCHER, "selectors"), ["0xA9059CBB"], "$.rules[0].content[0].selectors[0]"),
        ((*MATCHER, "selectors"), ["0xa9059c"], "$.rules[0].content[0].selectors[0]"),
        ((*MATCHER, "selectors"), [""], "$.rules[0].content[0].selectors[0]"),
        ((*ERC20, "methods"), ["mint"], "$.rules[0].content[0].erc20.methods[0]"),
        (
            (*ERC20, "recipients"),
            ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"],
            "$.rules[0].content[0].erc20.recipients",
        ),
        ((*ERC20, "min_amount"), str(2**256), "$.rules[0].content[0].erc20.min_amount"),
        ((*ERC20, "max_amount"), str(2**256), "$.rules[0].content[0].erc20.max_amount"),
    ],
)
def test_a_bad_value_refuses_and_names_the_field(
    document: dict[str, Any], path: tuple[Any, ...], value: Any, field: str
) -> None:
    at(document, path[:-1])[path[-1]] = value
    assert refused(dump(document)) == field


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("principals", 0, "keys"), []),
        (("rules",), []),
        (("rules", 0, "operations"), []),
        (("rules", 0, "principals"), []),
        (("rules", 0, "content"), []),
        (("rules", 0, "content"), "*"),
        (("rules", 2, "labels"), []),
        ((*MATCHER, "contract_creation"), "*"),
        ((*MATCHER, "erc20"), "*"),
        ((*MATCHER, "max_value"), UINT256_MAX),
        ((*MATCHER, "to"), ["0x" + "12" * 20]),
    ],
)
def test_well_formed_variants_parse(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    at(document, path[:-1])[path[-1]] = value
    parse_policy(dump(document))


def test_two_principals_may_not_share_a_key(document: dict[str, Any]) -> None:
    document["principals"][1]["keys"].append(document["principals"][0]["keys"][0])
    assert refused(dump(document)) == "$.principals[1].keys[1].public_key"


def test_a_key_may_not_be_listed_twice_under_two_schemes(document: dict[str, Any]) -> None:
    """The same 33 bytes as P-256 and as secp256k1: x = 5 lies on both curves with an even y."""
    shared = next(
        key
        for number in range(1, 200)
        if all(
            _is_point(scheme, key := (b"\x02" + number.to_bytes(32, "big")))
            for scheme in (Scheme.P256, Scheme.SECP256K1)
        )
    ).hex()
    document["principals"][0]["keys"] = [{"scheme": "p256", "public_key": shared}]
    parse_policy(dump(document))
    document["principals"][1]["keys"] = [{"scheme": "secp256k1", "public_key": shared}]
    assert refused(dump(document)) == "$.principals[1].keys[0].public_key"


def _is_point(scheme: Scheme, key: bytes) -> bool:
    from adytum_wire.signatures import is_public_key

    return is_public_key(scheme, key)


def test_find_principal(document: dict[str, Any]) -> None:
    policy = parse_policy(dump(document))
    alice = bytes.fromhex(document["principals"][0]["keys"][0]["public_key"])
    found = find_principal(policy, Scheme.ED25519, alice)
    assert found is not None
    assert (found.id, found.roles) == ("alice", frozenset({"signer"}))
    assert find_principal(policy, Scheme.P256, alice) is None
    assert find_principal(policy, Scheme.ED25519, alice[:-1] + b"\0") is None
    assert find_principal(policy, Scheme.ED25519, b"") is None


def test_too_many_rules(document: dict[str, Any]) -> None:
    rule = document["rules"][2]
    document["rules"] = [rule | {"id": f"r{number}"} for number in range(256)]
    parse_policy(dump(document))
    document["rules"].append(rule | {"id": "last"})
    assert refused(dump(document)) == "$.rules"


def test_too_large(document: dict[str, Any]) -> None:
    assert refused(dump(document) + b" " * 128 * 1024) == "$ (too large)"


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        parse_policy(data)
    assert caught.value.code is Code.POLICY_INVALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["*", "principal:alice"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(data=st.data())
def test_a_document_with_any_part_replaced_parses_or_is_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(_document())
    path = data.draw(st.sampled_from(list(objects(document))))
    target = at(document, path)
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    try:
        policy = parse_policy(dump(document))
    except AdytumError as error:
        assert error.code is Code.POLICY_INVALID
    else:
        assert policy.tenant == document["tenant"]


def _document() -> dict[str, Any]:
    key = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    rule = {
        "id": "a",
        "effect": "allow",
        "operations": ["sign"],
        "principals": ["principal:alice"],
        "labels": "*",
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
        "content": [
            {
                "type": "ethereum-transaction",
                "chain_ids": "*",
                "contract_creation": "*",
                "to": "*",
                "min_value": "*",
                "max_value": "*",
                "max_fee": "*",
                "selectors": "*",
                "erc20": {"methods": "*", "recipients": "*", "min_amount": "*", "max_amount": "*"},
            }
        ],
    }
    return {
        "v": 1,
        "tenant": "acme",
        "version": 1,
        "valid_until": 1,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "limits": [],
        "principals": [
            {"id": "alice", "keys": [{"scheme": "ed25519", "public_key": key}], "passkeys": [], "roles": []}
        ],
        "rules": [rule],
    }
