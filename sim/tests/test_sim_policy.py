"""The policy evaluator, as a table of (statements, request) -> verdict, and what is refused when a policy is put."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_sim.kms import KmsFault, attested_key_policy, default_key_policy, policy
from adytum_sim.kms.caller import Caller, root_caller, session_caller, user_caller

ACCOUNT = "111122223333"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/enclave"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave/i-1234567890abcdef0"
USER = f"arn:aws:iam::{ACCOUNT}:user/operator"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
PCR0 = "ab" * 48
OTHER = "cd" * 48
IMAGE = "kms:RecipientAttestation:ImageSha384"
ATTESTED = {IMAGE.lower(): [PCR0], "kms:recipientattestation:pcr0": [PCR0]}


def caller(kind: str, *identity: dict[str, Any]) -> Caller:
    policies = tuple(policy.parse(json.dumps({"Statement": s}), kind="identity") for s in identity)
    if kind == "root":
        return root_caller(account=ACCOUNT)
    if kind == "user":
        return user_caller(account=ACCOUNT, user="operator", user_id="AIDA", policies=policies)
    return session_caller(
        account=ACCOUNT, role="enclave", session="i-1234567890abcdef0", role_id="AROA", policies=policies
    )


def decide(
    statements: list[dict[str, Any]],
    *,
    who: Caller | None = None,
    action: str = "kms:Decrypt",
    context: dict[str, list[str]] | None = None,
) -> str:
    parsed = policy.parse(json.dumps({"Version": "2012-10-17", "Statement": statements}), kind="key")
    question = policy.Question(caller=who or caller("session"), action=action, resource=KEY, context=context or {})
    return policy.decide(question, parsed)


def statement(effect: str = "Allow", principal: Any = "*", action: Any = "kms:Decrypt", **more: Any) -> dict[str, Any]:
    who = principal if principal == "*" else {"AWS": principal}
    return {"Effect": effect, "Principal": who, "Action": action, "Resource": "*"} | more


IAM_ALLOW = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
IAM_DENY = {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": KEY}


@pytest.mark.parametrize(
    ("principal", "who", "verdict"),
    [
        ("*", caller("session"), "allow"),
        (ROLE, caller("session"), "allow"),
        (SESSION, caller("session"), "allow"),
        ([USER, ROLE], caller("session"), "allow"),
        (USER, caller("user"), "allow"),
        (USER, caller("session"), "none"),
        (ROLE, caller("user"), "none"),
        (SESSION + "x", caller("session"), "none"),
        (f"arn:aws:iam::{ACCOUNT}:role/enclave2", caller("session"), "none"),
        ("arn:aws:iam::999999999999:role/enclave", caller("session"), "none"),
        ("arn:aws:iam::999999999999:root", caller("session", IAM_ALLOW), "none"),
        (ROOT, caller("root"), "allow"),
        (ROOT, caller("session"), "none-identity"),
        (ROOT, caller("session", IAM_ALLOW), "allow"),
        (ACCOUNT, caller("session", IAM_ALLOW), "allow"),
        (ROOT, caller("session", IAM_ALLOW, IAM_DENY), "deny-identity"),
        (ROLE, caller("session", IAM_DENY), "deny-identity"),
        (USER, caller("session", IAM_ALLOW), "none"),
    ],
)
def test_principals(principal: Any, who: Caller, verdict: str) -> None:
    assert decide([statement(principal=principal)], who=who) == verdict


@pytest.mark.parametrize(
    ("pattern", "action", "verdict"),
    [
        ("kms:Decrypt", "kms:Decrypt", "allow"),
        ("KMS:decrypt", "kms:Decrypt", "allow"),
        ("kms:*", "kms:Decrypt", "allow"),
        ("*", "kms:Decrypt", "allow"),
        ("kms:GenerateDataKey*", "kms:GenerateDataKeyPair", "allow"),
        ("kms:GenerateDataKey", "kms:GenerateDataKeyPair", "none"),
        ("kms:Decryp?", "kms:Decrypt", "allow"),
        ("kms:Decryp?", "kms:Decryp", "none"),
        ("kms:Decrypt.", "kms:Decrypt", "none"),
        (["kms:Encrypt", "kms:Decrypt"], "kms:Decrypt", "allow"),
        ("kms:Encrypt", "kms:Decrypt", "none"),
        ("s3:*", "kms:Decrypt", "none"),
    ],
)
def test_actions(pattern: Any, action: str, verdict: str) -> None:
    assert decide([statement(action=pattern)], action=action) == verdict


def test_not_action_and_resources() -> None:
    allow = {"Effect": "Allow", "Principal": "*", "NotAction": "kms:Encrypt", "Resource": "*"}
    assert decide([allow]) == "allow"
    assert decide([allow], action="kms:Encrypt") == "none"
    assert decide([statement(Resource=KEY)]) == "allow"
    assert decide([statement(Resource=KEY[:-1] + "?")]) == "allow"
    assert decide([statement(Resource=KEY[:-1] + "6")]) == "none"
    other = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "NotResource": KEY}
    assert decide([other]) == "none"


def test_an_explicit_deny_wins_in_any_order() -> None:
    for principal in ("*", ROLE, SESSION, ROOT, ACCOUNT):
        deny = statement("Deny", principal)
        assert decide([statement(), deny]) == "deny-key"
        assert decide([deny, statement()]) == "deny-key"
    assert decide([statement(), statement("Deny", USER)]) == "allow"
    assert decide([statement(), statement("Deny", action="kms:Encrypt")]) == "allow"


@pytest.mark.parametrize(
    ("operator", "wanted", "values", "met"),
    [
        ("StringEquals", PCR0, [PCR0], True),
        ("StringEquals", PCR0, [OTHER], False),
        ("StringEquals", PCR0, None, False),
        ("StringEquals", PCR0.upper(), [PCR0], False),
        ("StringEquals", [OTHER, PCR0], [PCR0], True),
        ("StringEqualsIgnoreCase", PCR0.upper(), [PCR0], True),
        ("StringEqualsIgnoreCase", PCR0, None, False),
        ("StringNotEquals", PCR0, [PCR0], False),
        ("StringNotEquals", PCR0, [OTHER], True),
        ("StringNotEquals", PCR0, None, True),
        ("StringNotEquals", [OTHER, PCR0], [PCR0], False),
        ("StringNotEqualsIgnoreCase", PCR0.upper(), [PCR0], False),
        ("StringNotEqualsIgnoreCase", PCR0, None, True),
        ("StringLike", "ab*", [PCR0], True),
        ("StringLike", "ab?", [PCR0], False),
        ("StringLike", "*", None, False),
        ("StringLike", "[a]b*", [PCR0], False),
        ("StringNotLike", "ab*", [PCR0], False),
        ("StringNotLike", "cd*", [PCR0], True),
        ("StringNotLike", "*", None, True),
        ("StringEqualsIfExists", PCR0, None, True),
        ("StringEqualsIfExists", PCR0, [OTHER], False),
        ("StringLikeIfExists", "cd*", [PCR0], False),
        ("StringNotEqualsIfExists", PCR0, None, True),
        ("Null", "true", None, True),
        ("Null", "true", [PCR0], False),
        ("Null", "false", [PCR0], True),
        ("Null", "false", None, False),
        ("Null", False, [PCR0], True),
        ("ForAnyValue:StringEquals", PCR0, [OTHER, PCR0], True),
        ("ForAnyValue:StringEquals", PCR0, [OTHER], False),
        ("ForAnyValue:StringEquals", PCR0, None, False),
        ("ForAllValues:StringEquals", PCR0, None, True),
        ("ForAllValues:StringEquals", PCR0, [PCR0, OTHER], False),
        ("ForAllValues:StringEquals", [PCR0, OTHER], [PCR0], True),
        ("ForAnyValue:StringNotEquals", PCR0, [PCR0, OTHER], True),
        ("ForAnyValue:StringNotEquals", PCR0, None, False),
        ("ForAllValues:StringLike", "a*", [PCR0], True),
    ],
)
def test_operators(operator: str, wanted: Any, values: list[str] | None, met: bool) -> None:
    context = {IMAGE.lower(): values} if values is not None else {}
    found = decide([statement(Condition={operator: {IMAGE: wanted}})], context=context)
    assert found == ("allow" if met else "none")


def test_bool_and_arn_operators() -> None:
    context = {"aws:securetransport": ["true"], "aws:principalarn": [ROLE]}
    for condition, met in (
        ({"Bool": {"aws:SecureTransport": "true"}}, True),
        ({"Bool": {"aws:SecureTransport": True}}, True),
        ({"Bool": {"aws:SecureTransport": "false"}}, False),
        ({"BoolIfExists": {"kms:ReEncryptOnSameKey": "true"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/*"}}, True),
        ({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:role/enclave"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:*:role/enclave"}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/*"}}, False),
    ):
        found = decide([statement(Condition=condition)], context=context)
        assert found == ("allow" if met else "none"), condition


def test_all_conditions_of_a_statement_must_be_met() -> None:
    both = {"StringEquals": {IMAGE: PCR0, "kms:EncryptionContext:tenant": "acme"}}
    assert decide([statement(Condition=both)], context=ATTESTED) == "none"
    more = ATTESTED | {"kms:encryptioncontext:tenant": ["acme"]}
    assert decide([statement(Condition=both)], context=more) == "allow"


def test_condition_key_names_ignore_case_and_values_do_not() -> None:
    condition = {"StringEquals": {"KMS:recipientattestation:IMAGESHA384": PCR0}}
    assert decide([statement(Condition=condition)], context=ATTESTED) == "allow"


def test_the_default_policy_lets_iam_go_around_an_attestation_condition() -> None:
    """The trap itself: this is how AWS decides, so the stand-in must decide so too."""
    attested = statement(principal=ROLE, Condition={"StringEquals": {IMAGE: PCR0}})
    default = default_key_policy(ACCOUNT)["Statement"]
    assert decide([attested, *default], who=caller("session", IAM_ALLOW)) == "allow"
    assert decide([attested], who=caller("session", IAM_ALLOW)) == "none"


@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"])
def test_the_attested_policy_demands_every_pcr(action: str) -> None:
    pcrs = {0: bytes.fromhex(PCR0), 16: bytes.fromhex(OTHER)}
    parsed = attested_key_policy(account=ACCOUNT, role_arn=ROLE, pcrs=pcrs)["Statement"]
    good = {"kms:recipientattestation:pcr0": [PCR0], "kms:recipientattestation:pcr16": [OTHER]}
    admin = caller("user", IAM_ALLOW)
    assert decide(parsed, action=action, context=good) == "allow"
    assert decide(parsed, action=action, context={}) == "deny-key"
    for name in good:
        assert decide(parsed, action=action, context={k: v for k, v in good.items() if k != name}) == "deny-key"
        assert decide(parsed, action=action, context=good | {name: ["00" * 48]}) == "deny-key"
    assert decide(parsed, action=action, who=admin) == "deny-key"
    assert decide(parsed, action="kms:ReEncryptFrom", who=admin) == "deny-key"
    assert decide(parsed, action="kms:PutKeyPolicy", who=admin) == "allow"
    with pytest.raises(ValueError, match="at least one PCR"):
        attested_key_policy(account=ACCOUNT, role_arn=ROLE, pcrs={})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"Condition": {"StringEquals": {"kms:RecipientAttestation:Os": "x"}}}, "kms:RecipientAttestation:Os"),
        ({"Condition": {"StringEquals": {"kms:RecipientAttestation:PCR32": "x"}}}, "kms:RecipientAttestation:PCR32"),
        ({"Condition": {"StringEquals": {"kms:ViaService": "ebs.amazonaws.com"}}}, "kms:ViaService"),
        ({"Condition": {"StringEquals": {"kms:GrantOperations": "x"}}}, "kms:GrantOperations"),
        ({"Condition": {"StringEquals": {"kms:RecipientAttestation:NitroTPMPCR0": "x"}}}, "NitroTPMPCR0"),
        ({"Condition": {"StringEquals": {"aws:Nonsense": "x"}}}, "aws:Nonsense"),
        ({"Condition": {"StringEquals": {"kms:EncryptionContext:": "x"}}}, "kms:EncryptionContext:"),
        ({"Condition": {"StringEqual": {IMAGE: "x"}}}, "StringEqual"),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, "IpAddress"),
        ({"Condition": {"NullIfExists": {IMAGE: "true"}}}, "NullIfExists"),
        ({"Condition": {"ForSomeValues:StringEquals": {IMAGE: "x"}}}, "ForSomeValues"),
        ({"Condition": {"StringEquals": {"kms:EncryptionContextKeys": "x"}}}, "ForAnyValue"),
        ({"Condition": {"StringEquals": {IMAGE: "${aws:username}"}}}, "policy variables"),
        ({"Condition": {"Bool": {"aws:SecureTransport": "yes"}}}, "true or false"),
        ({"Condition": {"StringEquals": {}}}, "names no key"),
        ({"Condition": {"StringEquals": {IMAGE: []}}}, "string"),
        ({"Condition": {"StringEquals": {IMAGE: 5}}}, "string"),
        ({"NotPrincipal": "*"}, "NotPrincipal"),
        ({"Effect": "Maybe"}, "Effect"),
        ({"Principal": {"Federated": "x"}}, "Federated"),
        ({"Principal": {"AWS": "arn:aws:iam::1:role/x"}}, "invalid principals"),
        ({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/*"}}, "invalid principals"),
        ({"Principal": {}}, "invalid principals"),
        ({"Action": "Decrypt"}, "action"),
        ({"NotAction": "kms:Encrypt"}, "not both"),
    ],
)
def test_a_policy_that_cannot_be_evaluated_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    text = json.dumps({"Statement": [statement() | change]})
    with pytest.raises(KmsFault) as caught:
        policy.parse(text, kind="key")
    assert caught.value.code == "MalformedPolicyDocumentException"
    assert named in (caught.value.message or "")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"Statement": []}', '{"Statement": [1]}', '{"Version": "2020-01-01", "Statement": [{}]}',
     '{"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}', '{"Else": 1}', " " * 40000],
)  # fmt: skip
def test_what_is_no_key_policy_is_refused(text: str) -> None:
    with pytest.raises(KmsFault) as caught:
        policy.parse(text, kind="key")
    assert caught.value.code == "MalformedPolicyDocumentException"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Statement", "Effect", "Principal", "AWS", "Action", "Resource", "Condition", "StringEquals"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_parses_or_raises_the_one_error(value: Any) -> None:
    try:
        parsed = policy.parse(json.dumps(value), kind="key")
    except KmsFault as fault:
        assert fault.code == "MalformedPolicyDocumentException"
    else:
        policy.decide(policy.Question(caller=caller("session"), action="kms:X", resource=KEY, context={}), parsed)
