"""The decision: default deny, deny wins, an absent fact meets no condition, and who said what."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_matcher import NOBODY, OPEN

from adytum_policy.decide import Decision, decide
from adytum_policy.document import Policy, parse_policy
from adytum_policy.facts import EthereumFacts, TokenFacts
from adytum_policy.matchers import CONTENT_CONDITIONS
from adytum_policy.rules import Subject
from adytum_wire.errors import Code

NOW = 1_000
ADDRESSES = ["0x" + digit * 40 for digit in "123"]


def policy_of(*rules: dict[str, Any]) -> Policy:
    document = NOBODY | {
        "valid_until": NOW,
        "principals": [
            {"id": "alice", "keys": [], "passkeys": [], "roles": ["signer"]},
            {"id": "bob", "keys": [], "passkeys": [], "roles": ["operator"]},
        ],
        "rules": [rule | {"id": f"r{at}"} for at, rule in enumerate(rules)],
    }
    return parse_policy(json.dumps(document).encode())


def rule_of(**changes: Any) -> dict[str, Any]:
    """A rule that matches everything that it may, with changes."""
    operations = ["sign", "sign-raw", "generate_key", "import_key", "seal", "unseal", "reseal"]
    return OPEN | {"effect": "allow", "operations": operations, "content": "*"} | changes


def on_content(**changes: Any) -> dict[str, Any]:
    """A rule for `sign` with one matcher that matches every transaction, with changes."""
    effect = changes.pop("effect", "allow")
    fields = ("chain_ids", "contract_creation", "to", "min_value", "max_value", "max_fee", "selectors", "erc20")
    matcher = {"type": "ethereum-transaction"} | dict.fromkeys(fields, "*") | changes
    return rule_of(effect=effect, operations=["sign"], content=[matcher])


def outcomes(decision: Decision) -> list[str]:
    return [outcome.outcome for outcome in decision.rules]


def said(subject: Subject, *rules: dict[str, Any]) -> list[str]:
    return outcomes(decide(subject, policy_of(*rules), NOW))


def test_an_empty_policy_denies(subject: Callable[..., Subject]) -> None:
    assert decide(subject(), policy_of(), NOW) == Decision(False, Code.POLICY_DENIED, ())


def test_an_allow_rule_allows(subject: Callable[..., Subject]) -> None:
    decision = decide(subject(), policy_of(rule_of()), NOW)
    assert (decision.allowed, decision.code, outcomes(decision)) == (True, None, ["allow"])


def test_deny_wins_in_any_order(subject: Callable[..., Subject]) -> None:
    deny = rule_of(effect="deny")
    for rules in ([rule_of(), deny], [deny, rule_of()], [rule_of(), deny, rule_of()]):
        decision = decide(subject(), policy_of(*rules), NOW)
        assert (decision.allowed, decision.code) == (False, Code.POLICY_DENIED)
        assert len(decision.rules) == len(rules)


def test_expiry_is_the_last_good_moment(subject: Callable[..., Subject]) -> None:
    policy = policy_of(rule_of())
    assert decide(subject(), policy, NOW).allowed
    assert decide(subject(), policy, NOW + 1) == Decision(False, Code.POLICY_EXPIRED, ())


def test_the_full_document_decides_as_it_reads(document: dict[str, Any], subject: Callable[..., Subject]) -> None:
    policy = parse_policy(json.dumps(document).encode())
    decision = decide(subject(), policy, NOW)
    assert decision.allowed
    assert [(o.rule, o.outcome) for o in decision.rules] == [
        ("pay", "allow"),
        ("make", "operation"),
        ("frozen", "label"),
    ]
    assert not decide(subject(labels=["treasury", "frozen"]), policy, NOW).allowed


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"operations": ["sign-raw"]}, "operation"),
        ({"operations": []}, "operation"),
        ({"principals": ["principal:bob"]}, "principal"),
        ({"principals": ["role:operator"]}, "principal"),
        ({"principals": []}, "principal"),
        ({"labels": ["cold"]}, "label"),
        ({"labels": []}, "label"),
        ({"algorithms": ["ed25519"], "paths": "*", "times": "*", "approvals": "none", "limits": "none"}, "algorithm"),
        ({"algorithms": [], "paths": "*", "times": "*", "approvals": "none", "limits": "none"}, "algorithm"),
        ({"operations": ["sign"], "content": []}, "content"),
        ({"principals": ["role:operator", "principal:alice"]}, "allow"),
        ({"principals": ["role:signer"]}, "allow"),
        ({"labels": ["cold", "treasury"]}, "allow"),
    ],
)
def test_the_first_condition_that_fails_is_named(
    subject: Callable[..., Subject], changes: dict[str, Any], outcome: str
) -> None:
    assert said(subject(), rule_of(**changes)) == [outcome]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"chain_ids": [5]}, "content.chain_id"),
        ({"chain_ids": []}, "content.chain_id"),
        ({"contract_creation": True}, "content.contract_creation"),
        ({"to": ADDRESSES}, "content.to"),
        ({"to": []}, "content.to"),
        ({"min_value": "1000000000000000001"}, "content.min_value"),
        ({"max_value": "999999999999999999"}, "content.max_value"),
        ({"max_fee": "9999999999999999"}, "content.max_fee"),
        ({"selectors": ["none"]}, "content.selector"),
        ({"selectors": []}, "content.selector"),
        ({"min_value": "1000000000000000000", "max_value": "1000000000000000000"}, "allow"),
        ({"max_fee": "10000000000000000"}, "allow"),
    ],
)
def test_the_first_condition_on_content_that_fails_is_named(
    subject: Callable[..., Subject], changes: dict[str, Any], outcome: str
) -> None:
    assert said(subject(), on_content(**changes)) == [outcome]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"methods": ["approve", "transferFrom"]}, "content.erc20.method"),
        ({"methods": []}, "content.erc20.method"),
        ({"recipients": ADDRESSES}, "content.erc20.recipient"),
        ({"recipients": []}, "content.erc20.recipient"),
        ({"min_amount": "1000001"}, "content.erc20.min_amount"),
        ({"max_amount": "999999"}, "content.erc20.max_amount"),
        ({"min_amount": "1000000", "max_amount": "1000000"}, "allow"),
    ],
)
def test_the_first_condition_on_a_token_call_that_fails_is_named(
    subject: Callable[..., Subject], changes: dict[str, Any], outcome: str
) -> None:
    erc20 = {"methods": "*", "recipients": "*", "min_amount": "*", "max_amount": "*"} | changes
    assert said(subject(), on_content(erc20=erc20)) == [outcome]


def test_of_several_matchers_the_closest_is_named(subject: Callable[..., Subject]) -> None:
    near, far = on_content(max_value="1")["content"], on_content(chain_ids=[5])["content"]
    for content in (near + far, far + near):
        assert said(subject(), on_content() | {"content": content}) == ["content.max_value"]
    assert said(subject(), on_content() | {"content": far + on_content()["content"]}) == ["allow"]


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ({"to": [ADDRESSES[0]]}, "content.to"),
        ({"selectors": ["none", "0xa9059cbb"]}, "content.selector"),
        ({"erc20": {"methods": "*", "recipients": "*", "min_amount": "*", "max_amount": "*"}}, "content.erc20"),
        ({"contract_creation": False}, "content.contract_creation"),
    ],
)
def test_an_absent_fact_never_satisfies(
    subject: Callable[..., Subject], facts: Callable[..., EthereumFacts], condition: dict[str, Any], outcome: str
) -> None:
    """A contract creation has no destination, no selector and no token; deny rules read facts the same way."""
    creation = subject(facts=facts(to=None, selector=None, token=None))
    assert said(creation, on_content(**condition), on_content(effect="deny", **condition)) == [outcome, outcome]
    assert said(creation, on_content(contract_creation=True)) == ["allow"]


def test_sign_without_facts_is_never_allowed(subject: Callable[..., Subject]) -> None:
    """Whatever the rule says: `sign` means understood content. Raw content has its own right, `sign-raw`."""
    assert said(subject(facts=None), rule_of(), on_content()) == ["content", "content"]
    raw = subject(operation="sign-raw", facts=None)
    assert said(raw, rule_of(), on_content(), rule_of(operations=["sign"])) == ["allow", "operation", "operation"]


def test_a_key_without_labels_meets_no_list(subject: Callable[..., Subject]) -> None:
    assert said(subject(labels=[]), rule_of(labels=["treasury"]), rule_of()) == ["label", "allow"]


@pytest.mark.parametrize("operation", ["generate_key", "import_key", "seal"])
def test_slipping_a_foreign_label_onto_a_new_key(subject: Callable[..., Subject], operation: str) -> None:
    """May make "dev" keys; asks for a key that is "dev" and, beside it, "treasury"."""
    allow, deny = rule_of(labels=["dev", "test"]), rule_of(effect="deny", labels=["treasury"])
    make = {"operation": operation, "facts": None}
    assert said(subject(labels=["dev"], **make), allow, deny) == ["allow", "label"]
    assert said(subject(labels=["dev", "test"], **make), allow, deny) == ["allow", "label"]
    assert said(subject(labels=["dev", "treasury"], **make), allow, deny) == ["label", "deny"]
    assert said(subject(labels=[], **make), allow, deny) == ["label", "label"]


# --- properties over generated rules and subjects

_fields = {
    "effect": st.sampled_from(["allow", "deny"]),
    "principals": st.just("*")
    | st.lists(st.sampled_from(["principal:alice", "principal:bob", "role:signer", "role:operator"]), max_size=2),
    "labels": st.just("*") | st.lists(st.sampled_from(["treasury", "cold", "frozen"]), max_size=2),
    "algorithms": st.just("*") | st.lists(st.sampled_from(["secp256k1", "ed25519", "none"]), max_size=2),
    "paths": st.just("*"),
    "times": st.just("*"),
    "approvals": st.just("none"),
    "limits": st.just("none"),
}
_amounts = st.sampled_from(["*", "0", "5", "10"])
_addresses = st.just("*") | st.lists(st.sampled_from(ADDRESSES), max_size=2)
_erc20 = st.just("*") | st.fixed_dictionaries(
    {
        "methods": st.just("*") | st.lists(st.sampled_from(["transfer", "approve", "transferFrom"]), max_size=2),
        "recipients": _addresses,
        "min_amount": _amounts,
        "max_amount": _amounts,
    }
)
_matchers = st.fixed_dictionaries(
    {
        "type": st.just("ethereum-transaction"),
        "chain_ids": st.just("*") | st.lists(st.sampled_from([1, 5]), max_size=2),
        "contract_creation": st.sampled_from([True, False, "*"]),
        "to": _addresses,
        "min_value": _amounts,
        "max_value": _amounts,
        "max_fee": _amounts,
        "selectors": st.just("*") | st.lists(st.sampled_from(["none", "0xa9059cbb"]), max_size=2),
        "erc20": _erc20,
    }
)
_operations = ["sign", "sign-raw", "generate_key", "unseal"]
_rules = st.fixed_dictionaries(
    _fields | {"operations": st.lists(st.sampled_from(_operations), max_size=3), "content": st.just("*")}
) | st.fixed_dictionaries(_fields | {"operations": st.just(["sign"]), "content": st.lists(_matchers, max_size=2)})
_policies = st.lists(_rules, max_size=5)
_bytes20 = st.sampled_from([bytes.fromhex(text[2:]) for text in ADDRESSES])
_tokens = st.builds(
    TokenFacts,
    method=st.sampled_from(["transfer", "approve", "transferFrom"]),
    recipient=_bytes20,
    source=st.none(),
    amount=st.integers(0, 12),
)
_facts = st.builds(
    EthereumFacts,
    type=st.just("ethereum-transaction"),
    chain_id=st.sampled_from([1, 5]),
    to=st.none() | _bytes20,
    value=st.integers(0, 12),
    max_fee=st.integers(0, 12),
    selector=st.none() | st.sampled_from([b"", bytes.fromhex("a9059cbb")]),
    token=st.none() | _tokens,
)
_subjects = st.builds(
    Subject,
    operation=st.sampled_from(_operations),
    principal_id=st.sampled_from(["alice", "bob"]),
    roles=st.sampled_from([frozenset[str](), frozenset({"signer"}), frozenset({"operator"})]),
    algorithm=st.sampled_from(["secp256k1", "ed25519", "none"]),
    labels=st.lists(st.sampled_from(["treasury", "cold", "frozen"]), max_size=2),
    facts=st.none() | _facts,
)


def allowed(rules: list[dict[str, Any]], subject: Subject) -> bool:
    return decide(subject, policy_of(*rules), NOW).allowed


@settings(max_examples=200)
@given(rules=_policies, subject=_subjects, data=st.data())
def test_removing_an_allow_rule_or_adding_a_deny_rule_never_allows_more(
    rules: list[dict[str, Any]], subject: Subject, data: st.DataObject
) -> None:
    before = allowed(rules, subject)
    for at, rule in enumerate(rules):
        if rule["effect"] == "allow":
            assert allowed(rules[:at] + rules[at + 1 :], subject) <= before
    extra = data.draw(_rules)
    assert allowed([*rules, extra | {"effect": "deny"}], subject) <= before
    assert allowed([*rules, extra | {"effect": "allow"}], subject) >= before


@settings(max_examples=200)
@given(rules=_policies, subject=_subjects)
def test_taking_facts_away_never_makes_an_allow_rule_match(rules: list[dict[str, Any]], subject: Subject) -> None:
    """With allow rules alone, a subject that lost a fact, its roles or its labels is allowed no more than before,
    except that content without a destination *is* a contract creation, which is a fact of its own."""
    only_allow = [
        rule | {"content": rule["content"] if rule["content"] == "*" else [_calls(m) for m in rule["content"]]}
        for rule in rules
        if rule["effect"] == "allow"
    ]
    before = allowed(only_allow, subject)
    poorer = [_with(subject, roles=frozenset()), _with(subject, labels=[]), _with(subject, facts=None)]
    if subject.facts is not None:
        poorer += [_with(subject, facts=_with(subject.facts, **{name: None})) for name in ("to", "selector", "token")]
    for less in poorer:
        assert allowed(only_allow, less) <= before


@settings(max_examples=200)
@given(rules=_policies, subject=_subjects)
def test_replacing_a_wildcard_by_an_empty_list_never_makes_a_rule_match(
    rules: list[dict[str, Any]], subject: Subject
) -> None:
    for name in ("operations", "principals", "labels", "algorithms", "content"):
        emptied = [rule | {name: []} | ({"operations": ["sign"]} if name == "content" else {}) for rule in rules]
        result = decide(subject, policy_of(*emptied), NOW)
        assert not result.allowed
        assert not {"allow", "deny"} & set(outcomes(result))


@settings(max_examples=200)
@given(rules=_policies, subject=_subjects)
def test_the_decision_follows_from_the_outcomes(rules: list[dict[str, Any]], subject: Subject) -> None:
    decision = decide(subject, policy_of(*rules), NOW)
    found = outcomes(decision)
    assert decision.allowed == ("allow" in found and "deny" not in found)
    assert (decision.code is None) == decision.allowed
    names = {"allow", "deny", "operation", "principal", "label", "algorithm", "content", *CONTENT_CONDITIONS}
    assert set(found) <= names
    for rule, outcome in zip(rules, found, strict=True):
        assert outcome in ({rule["effect"]} | names - {"allow", "deny"})
        assert (outcome in ("allow", "deny")) == _matches(rule, subject)


def _calls(matcher: dict[str, Any]) -> dict[str, Any]:
    return matcher | {"contract_creation": False if matcher["contract_creation"] is True else "*"}


def _with(value: Any, **changes: Any) -> Any:
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return type(value)(**(fields | changes))


def _matches(rule: dict[str, Any], subject: Subject) -> bool:
    """spec/policy.md once more, written for clarity and from the uncompiled document."""

    def listed(name: str, *values: str) -> bool:
        return rule[name] == "*" or any(value in rule[name] for value in values)

    labels = list(subject.labels)
    by_label = listed("labels", *labels)
    if rule["effect"] == "allow" and subject.operation == "generate_key" and rule["labels"] != "*":
        by_label = bool(labels) and all(label in rule["labels"] for label in labels)
    if rule["content"] == "*":
        by_content = subject.operation != "sign" or subject.facts is not None
    else:
        facts = copy.copy(subject.facts)
        by_content = facts is not None and any(_matches_content(matcher, facts) for matcher in rule["content"])
    return (
        subject.operation in rule["operations"]
        and listed("principals", f"principal:{subject.principal_id}", *(f"role:{role}" for role in subject.roles))
        and by_label
        and listed("algorithms", subject.algorithm)
        and by_content
    )


def _matches_content(matcher: dict[str, Any], facts: EthereumFacts) -> bool:
    def hexed(value: bytes | None, empty: str = "?") -> str:
        return "absent" if value is None else ("0x" + value.hex() if value else empty)

    def within(low: str, value: int, high: str) -> bool:
        return (low == "*" or value >= int(low)) and (high == "*" or value <= int(high))

    erc20, token = matcher["erc20"], facts.token
    return (
        (matcher["chain_ids"] == "*" or facts.chain_id in matcher["chain_ids"])
        and matcher["contract_creation"] in ("*", facts.to is None)
        and (matcher["to"] == "*" or hexed(facts.to) in matcher["to"])
        and within(matcher["min_value"], facts.value, matcher["max_value"])
        and within("*", facts.max_fee, matcher["max_fee"])
        and (matcher["selectors"] == "*" or hexed(facts.selector, "none") in matcher["selectors"])
        and (
            erc20 == "*"
            or (
                token is not None
                and (erc20["methods"] == "*" or token.method in erc20["methods"])
                and (erc20["recipients"] == "*" or hexed(token.recipient) in erc20["recipients"])
                and within(erc20["min_amount"], token.amount, erc20["max_amount"])
            )
        )
    )


@pytest.mark.parametrize(
    ("listed", "path", "signing", "hit"),
    [
        (["m/86'/0'/0'/0/*"], "m/86'/0'/0'", ["m/86'/0'/0'/0/5"], True),
        (["m/86'/0'/0'/0/5"], "m/86'/0'/0'", ["m/86'/0'/0'/0/4", "m/86'/0'/0'/0/5"], True),
        (["m/86'/0'/0'/*"], "m/86'/0'/0'", ["m/86'/0'/0'/1/0"], True),
        (["m/86'/0'/0'"], "m/86'/0'/0'", ["m/86'/0'/0'/0/5"], True),
        (["m/86'/0'/0'/0/5"], "m/86'/0'/0'", ["m/86'/0'/0'/0/4"], False),
        (["m/86'/0'/0'/0/5"], "m/86'/0'/0'", [], False),
    ],
)
def test_a_deny_rule_sees_every_key_that_signs_and_an_allow_rule_the_account(
    subject: Callable[..., Subject], listed: list[str], path: str, signing: list[str], hit: bool
) -> None:
    asked = subject(path=path, signing_paths=signing)
    denied = decide(asked, policy_of(rule_of(), rule_of(effect="deny", paths=listed)), NOW)
    assert (denied.allowed, outcomes(denied)[1]) == (not hit, "deny" if hit else "path")
    assert decide(asked, policy_of(rule_of(paths=listed)), NOW).allowed == (path in listed)
