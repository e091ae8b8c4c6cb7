"""The evaluator against properties, and our catalogue of KMS against the service model that AWS publishes.

Its table of principals, actions, operators and verdicts is in sim/tests/test_sim_policy.py: the stand-in uses it too.
"""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kms_policy_parts import ACCOUNT, CONTEXT, IAM, ROLES, ROOT, A, B, C, ask, rendered

from adytum.kms_policy import Image, KmsPolicyError, parse
from adytum.kms_policy.keys import ATTESTABLE, NOT_ATTESTABLE, OPERATIONS

PCR0 = "kms:RecipientAttestation:PCR0"
PRINCIPALS = st.sampled_from(["*", ROOT, ACCOUNT, ROLES.parent, ROLES.admin, ROLES.break_glass, f"{IAM}:role/else"])
CONDITIONS = st.dictionaries(
    st.sampled_from(
        ["StringEquals", "StringNotEquals", "StringLike", "StringEqualsIfExists", "StringNotEqualsIgnoreCase"]
    ),
    st.dictionaries(
        st.sampled_from(
            [PCR0, "kms:RecipientAttestation:PCR16", "aws:PrincipalArn", "kms:EncryptionContext:adytum:tenant"]
        ),
        st.sampled_from([A[0].hex(), B[0].hex(), A[16].hex(), ROLES.parent, "acme", "*"]),
        min_size=1,
        max_size=2,
    ),
    max_size=2,
)
ACTIONS = st.lists(
    st.sampled_from(["*", "kms:*", "kms:Decrypt", "kms:GenerateDataKey*", "kms:PutKeyPolicy", "kms:ReEncrypt*"]),
    min_size=1,
    max_size=2,
)
ALLOWS = st.builds(
    lambda principal, action, condition: {
        "Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "*",
        **({"Condition": condition} if condition else {}),
    },
    PRINCIPALS, ACTIONS, CONDITIONS,
)  # fmt: skip
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
TWO = (Image("v1", A), Image("v2", B))


@given(
    st.lists(ALLOWS, max_size=3), st.sampled_from([None, C, A | {0: B[0]}, B | {16: A[16]}, {0: bytes(48)}]), PRINCIPALS
)
@settings(max_examples=100, deadline=None)
def test_no_allows_added_to_a_rendered_policy_open_it_to_another_image(
    added: list[dict[str, Any]], shown: dict[int, bytes] | None, principal: str
) -> None:
    policy = rendered(*TWO)
    policy["Statement"] += added
    who = principal if principal.startswith("arn:") else f"{IAM}:role/else"
    for action in ("kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom"):
        assert not ask(policy, who=who, action=action, shown=shown, iam=(EVERYTHING,)).allowed


@given(st.lists(ALLOWS, min_size=1, max_size=4), st.data())
@settings(max_examples=80, deadline=None)
def test_order_does_not_matter_and_a_deny_only_takes_away(
    statements: list[dict[str, Any]], data: st.DataObject
) -> None:
    shown = data.draw(st.sampled_from([None, A, B]))
    decision = ask({"Statement": statements}, shown=shown)
    shuffled = data.draw(st.permutations(statements))
    assert ask({"Statement": shuffled}, shown=shown).verdict == decision.verdict
    denied = [*statements, data.draw(ALLOWS) | {"Effect": "Deny"}]
    assert decision.allowed or not ask({"Statement": denied}, shown=shown).allowed
    assert bool(decision.decided_by) == decision.allowed
    for result in decision.statements:
        assert result.matches or result.reasons


@given(st.text(max_size=80) | st.binary(max_size=40).map(repr))
@settings(max_examples=100)
def test_any_text_parses_or_raises_the_one_error(text: str) -> None:
    for kind in ("key", "identity"):
        with pytest.raises(KmsPolicyError):
            parse(text, kind=kind)  # type: ignore[arg-type]


def test_a_repeated_member_is_refused() -> None:
    """Readers disagree which one counts."""
    text = json.dumps({"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]})
    with pytest.raises(KmsPolicyError, match="repeats"):
        parse(text.replace('"Effect": "Deny"', '"Effect": "Deny", "Effect": "Allow"'), kind="key")


def test_keys_that_do_not_exist_are_absent_or_refused() -> None:
    allow = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}
    for operator, met in (("StringEquals", False), ("StringNotEquals", True), ("StringEqualsIfExists", True)):
        policy = {"Statement": [allow | {"Condition": {operator: {"kms:RecipientAttestation:Os": "x"}}}]}
        assert ask(policy, shown=A).allowed is met
        with pytest.raises(KmsPolicyError, match="kms:RecipientAttestation:Os"):
            parse(json.dumps(policy), kind="key")


def test_the_service_model_of_aws_agrees_which_operations_take_a_recipient() -> None:
    model = botocore.session.get_session().get_service_model("kms")
    members = {
        name: set(shape.members) if (shape := model.operation_model(name).input_shape) else set()
        for name in model.operation_names
    }
    assert {name for name, found in members.items() if "Recipient" in found} == {*ATTESTABLE, "GenerateRandom"}
    ours = {name for name in OPERATIONS if not name.startswith("ReEncrypt")} | {"ReEncrypt"}
    without_a_key = {
        "ConnectCustomKeyStore", "CreateCustomKeyStore", "CreateKey", "DeleteCustomKeyStore", "DescribeCustomKeyStores",
        "DisconnectCustomKeyStore", "GenerateRandom", "ListAliases", "ListKeys", "ListRetirableGrants",
        "UpdateCustomKeyStore",
    }  # fmt: skip
    assert set(members) - ours <= without_a_key  # a new operation on keys must be sorted in here
    assert ours <= set(members)
    assert not {*NOT_ATTESTABLE} & {*ATTESTABLE}


def test_the_same_question_has_the_same_answer_whoever_wrote_the_case() -> None:
    upper = rendered()
    text = json.dumps(upper).replace("kms:Decrypt", "KMS:DECRYPT").replace(A[0].hex(), A[0].hex().upper())
    policy = json.loads(text)
    assert ask(policy, shown=A, context=CONTEXT).allowed
    assert not ask(policy, shown=C).allowed
