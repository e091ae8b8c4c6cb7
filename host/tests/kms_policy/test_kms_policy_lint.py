"""One policy for each trap: it is flagged, at its statement, and doing what the mend says makes it clean."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kms_policy_parts import ACCOUNT, IAM, KEY, ROLES, ROOT, A, B, C, Json, ask, deployment, rendered, without_denials

from adytum.kms_policy import Image, has_errors, lint, render
from adytum.kms_policy.lint import RULES
from adytum.kms_policy.lint.attestation import PCR2_OF_NOTHING

ROOT_OF_REPOSITORY = Path(__file__).resolve().parents[3]
PCR = "kms:RecipientAttestation:PCR"
TENANT = "kms:EncryptionContext:adytum:tenant"
Edit = Callable[[Json], None]


def by_sid(policy: Json, sid: str) -> Json:
    return next(s for s in policy["Statement"] if s.get("Sid") == sid)


def use(policy: Json) -> Json:
    return dict.__getitem__(policy, "Statement")[0]


def pins(policy: Json) -> Json:
    return use(policy)["Condition"]["StringEqualsIgnoreCase"]


def setting(where: str, **values: Any) -> Edit:
    """Set elements of the statement with this Sid."""
    return lambda p: by_sid(p, where).update(copy.deepcopy(values))


def conditions(where: str, block: Json) -> Edit:
    return setting(where, Condition=block)


def adding(**statement: Any) -> Edit:
    given = {"Sid": "Added", "Effect": "Allow", "Principal": {"AWS": ROLES.admin}, "Resource": "*"} | statement
    return lambda p: p["Statement"].append(copy.deepcopy(given))


def dropping(sid: str) -> Edit:
    return lambda p: p["Statement"].remove(by_sid(p, sid))


def removing(sid: str, element: str) -> Edit:
    return lambda p: by_sid(p, sid).__delitem__(element)


def renaming(sid: str, old: str, new: str) -> Edit:
    """Rename an operator of a statement's Condition."""

    def edit(policy: Json) -> None:
        block = by_sid(policy, sid)["Condition"]
        block.setdefault(new, {}).update(block.pop(old))

    return edit


def pinning(**pcrs: Any) -> Edit:
    """Change the PCRs of the Allow; None drops one."""

    def edit(policy: Json) -> None:
        for name, value in pcrs.items():
            if value is None:
                del pins(policy)[f"kms:RecipientAttestation:{name}"]
            else:
                pins(policy)[f"kms:RecipientAttestation:{name}"] = value

    return edit


def both(*edits: Edit) -> Edit:
    def edit(policy: Json) -> None:
        for one in edits:
            one(policy)

    return edit


def restoring(sid: str) -> Edit:
    """Write the statement as `render` does."""

    def edit(policy: Json) -> None:
        good = by_sid(rendered(), sid)
        kept = [good if s.get("Sid") == sid else s for s in policy["Statement"]]
        policy["Statement"] = kept if good in kept else [*kept, good]

    return edit


ALLOW = "UseImage1V1"
FIX = restoring(ALLOW)
HEX = {index: value.hex() for index, value in A.items()}
NOT_0 = {f"{PCR}0": HEX[0]}
ALL_PCRS = {f"{PCR}{index}": value for index, value in HEX.items()}
PCR_DENIALS = [f"DenyUnlessPCR{index}" for index in A]
NO_PCR_DENIALS = both(*(dropping(sid) for sid in PCR_DENIALS))
PCR_DENIALS_BACK = both(*(restoring(sid) for sid in PCR_DENIALS))


def elsewhere(*indexes: int, **more: str) -> Edit:
    """An Allow (and no Deny) that pins only these PCRs."""

    def edit(policy: Json) -> None:
        for index in set(A) - set(indexes):
            del pins(policy)[f"{PCR}{index}"]
        pinning(**more)(policy)

    return edit


# code, what makes the policy bad, what its mend says, the Sid of the statement that is flagged ("" for the policy)
KEY_TRAPS: list[tuple[str, Edit, Edit, str]] = [
    ("VERSION_OLD", lambda p: p.pop("Version"), lambda p: p.update(Version="2012-10-17"), ""),
    ("VERSION_OLD", lambda p: p.update(Version="2008-10-17"), lambda p: p.update(Version="2012-10-17"), ""),
    ("ELEMENT_UNKNOWN", setting(ALLOW, Conditions={}), removing(ALLOW, "Conditions"), ALLOW),
    ("OPERATOR_UNKNOWN", renaming(ALLOW, "StringEqualsIgnoreCase", "StringEqualIgnoreCase"),
     renaming(ALLOW, "StringEqualIgnoreCase", "StringEqualsIgnoreCase"), ALLOW),
    ("CONDITION_KEY_UNKNOWN", pinning(Os="aws-nitro-enclaves"), pinning(Os=None), ALLOW),
    ("CONDITION_KEY_UNKNOWN", pinning(IntegrityAlgorithm="SHA384ECDSA"), pinning(IntegrityAlgorithm=None), ALLOW),
    ("CONDITION_KEY_UNKNOWN", pinning(PCR32="ab" * 48), pinning(PCR32=None), ALLOW),
    ("PRINCIPAL_WILDCARD", setting(ALLOW, Principal="*"), setting(ALLOW, Principal={"AWS": ROLES.parent}), ALLOW),
    ("PRINCIPAL_WILDCARD", setting("Manage", Principal={"AWS": "*"}), restoring("Manage"), "Manage"),
    ("PRINCIPAL_NEGATED", both(removing(ALLOW, "Principal"), setting(ALLOW, NotPrincipal={"AWS": ROLES.admin})),
     FIX, ALLOW),
    ("PRINCIPAL_NEGATED", both(removing("DenyUseByOthers", "Principal"),
     setting("DenyUseByOthers", NotPrincipal={"AWS": ROLES.parent})), restoring("DenyUseByOthers"), "DenyUseByOthers"),
    ("PRINCIPAL_INVALID", setting(ALLOW, Principal={"AWS": "arn:aws:iam::<account-id>:role/<role>"}), FIX, ALLOW),
    ("PRINCIPAL_INVALID", setting(ALLOW, Principal={"AWS": f"{IAM}:role/*"}), FIX, ALLOW),
    ("PRINCIPAL_SERVICE", setting(ALLOW, Principal={"Service": "ec2.amazonaws.com"}), FIX, ALLOW),
    ("PRINCIPAL_GONE", setting("Manage", Principal={"AWS": "AROA1234567890EXAMPLE"}), restoring("Manage"), "Manage"),
    ("ROOT_DELEGATION", adding(Principal={"AWS": ROOT}, Action=["kms:Decrypt"]), dropping("Added"), "Added"),
    ("ROOT_DELEGATION", adding(Principal={"AWS": ACCOUNT}, Action=["kms:GenerateDataKey"]), dropping("Added"), "Added"),
    ("ROOT_DELEGATION", adding(Principal={"AWS": ROOT}, Action="kms:*"), dropping("Added"), "Added"),
    ("ACTION_WILDCARD", adding(Action="kms:*"), setting("Added", Action="kms:DescribeKey"), "Added"),
    ("ACTION_WILDCARD", adding(Action="*"), setting("Added", Action="kms:DescribeKey"), "Added"),
    ("ACTION_WILDCARD", setting(ALLOW, Action=["kms:Decrypt", "kms:GenerateDataKey*"]), FIX, ALLOW),
    ("ACTION_WILDCARD", adding(Action="kms:Put*"), setting("Added", Action="kms:DescribeKey"), "Added"),
    ("ACTION_NEGATED", adding(NotAction="kms:Decrypt"),
     both(removing("Added", "NotAction"), setting("Added", Action="kms:DescribeKey")), "Added"),
    ("RESOURCE_NEGATED", both(removing(ALLOW, "Resource"), setting(ALLOW, NotResource="x")), FIX, ALLOW),
    ("RESOURCE_NOT_THIS_KEY", setting("Manage", Resource="arn:aws:kms:eu-central-1:111122223333:alias/x"),
     setting("Manage", Resource="*"), "Manage"),
    ("REENCRYPT_ALLOWED", both(dropping("DenyWhatIsNeverNeeded"), adding(Action="kms:ReEncryptFrom")),
     both(dropping("Added"), restoring("DenyWhatIsNeverNeeded")), "Added"),
    ("GRANT_ALLOWED", both(dropping("DenyWhatIsNeverNeeded"), adding(Action="kms:CreateGrant")),
     both(dropping("Added"), restoring("DenyWhatIsNeverNeeded")), "Added"),
    ("COPY_ALLOWED", both(dropping("DenyWhatIsNeverNeeded"), adding(Action="kms:ReplicateKey")),
     both(dropping("Added"), restoring("DenyWhatIsNeverNeeded")), "Added"),
    ("UNATTESTED_USE_ALLOWED", both(dropping("DenyWhatIsNeverNeeded"), adding(Action="kms:Encrypt")),
     both(dropping("Added"), restoring("DenyWhatIsNeverNeeded")), "Added"),
    ("POLICY_CHANGE_WIDE", both(dropping("DenyChangesButBreakGlass"),
     setting(ALLOW, Action=["kms:Decrypt", "kms:PutKeyPolicy"])),
     both(FIX, restoring("DenyChangesButBreakGlass")), ALLOW),
    ("POLICY_CHANGE_WIDE", adding(Principal={"AWS": ROOT}, Action="kms:PutKeyPolicy"), dropping("Added"), "Added"),
    ("POLICY_CHANGE_NOBODY", dropping("BreakGlass"), restoring("BreakGlass"), ""),
    ("POLICY_CHANGE_NOBODY", setting("BreakGlass", Principal={"AWS": f"{IAM}:role/else"}), restoring("BreakGlass"), ""),
    ("POLICY_CHANGE_NOBODY", removing("DenyChangesButBreakGlass", "Condition"),
     restoring("DenyChangesButBreakGlass"), ""),
    ("ATTESTATION_MISSING", lambda p: use(p)["Condition"].pop("StringEqualsIgnoreCase"), FIX, ALLOW),
    ("ATTESTATION_MISSING", adding(Action="kms:Decrypt", Condition={"StringEquals": {TENANT: "acme"}}),
     dropping("Added"), "Added"),
    ("ATTESTATION_UNSUPPORTED", both(dropping("DenyWhatIsNeverNeeded"), setting(ALLOW, Action="kms:Sign")),
     both(setting(ALLOW, Action=["kms:Decrypt", "kms:GenerateDataKey"]), restoring("DenyWhatIsNeverNeeded")), ALLOW),
    ("ATTESTATION_UNSUPPORTED", setting(ALLOW, Action=["kms:Decrypt", "kms:ReEncryptFrom"]), FIX, ALLOW),
    ("ATTESTATION_IF_EXISTS", renaming(ALLOW, "StringEqualsIgnoreCase", "StringEqualsIgnoreCaseIfExists"),
     renaming(ALLOW, "StringEqualsIgnoreCaseIfExists", "StringEqualsIgnoreCase"), ALLOW),
    ("ATTESTATION_SET_OPERATOR", renaming(ALLOW, "StringEqualsIgnoreCase", "ForAllValues:StringEqualsIgnoreCase"),
     renaming(ALLOW, "ForAllValues:StringEqualsIgnoreCase", "StringEqualsIgnoreCase"), ALLOW),
    ("ATTESTATION_NEGATED", lambda p: use(p)["Condition"].update(StringNotEqualsIgnoreCase={f"{PCR}8": "ab" * 48}),
     lambda p: use(p)["Condition"].pop("StringNotEqualsIgnoreCase"), ALLOW),
    ("ATTESTATION_ANY_IMAGE", lambda p: use(p)["Condition"].update(
        Null=use(p)["Condition"]["Null"] | {f"{PCR}0": "false"}) or use(p)["Condition"].pop("StringEqualsIgnoreCase"),
     FIX, ALLOW),
    ("NITROTPM_KEY", pinning(NitroTPMPCR4="ab" * 48), pinning(NitroTPMPCR4=None), ALLOW),
    ("OPERATOR_CASE_SENSITIVE", lambda p: use(p)["Condition"]["StringEquals"].update(
        use(p)["Condition"].pop("StringEqualsIgnoreCase")), FIX, ALLOW),
    ("OPERATOR_CASE_SENSITIVE", renaming("DenyUnlessPCR0", "StringNotEqualsIgnoreCase", "StringNotEquals"),
     renaming("DenyUnlessPCR0", "StringNotEquals", "StringNotEqualsIgnoreCase"), "DenyUnlessPCR0"),
    ("PCR_UPPER_CASE", conditions("DenyUnlessPCR0", {"StringNotEquals": {f"{PCR}0": ("ab" * 48).upper()}}),
     restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("PCR_ZERO", pinning(PCR0="0" * 96), pinning(PCR0=HEX[0]), ALLOW),
    ("PCR_ZERO", conditions("DenyUnlessPCR2", {"StringNotEqualsIgnoreCase": {f"{PCR}2": [HEX[2], "0" * 96]}}),
     restoring("DenyUnlessPCR2"), "DenyUnlessPCR2"),
    ("PCR_LENGTH", pinning(PCR1="ab" * 32), pinning(PCR1=HEX[1]), ALLOW),
    ("PCR_LENGTH", pinning(PCR1="xy" * 48), pinning(PCR1=HEX[1]), ALLOW),
    ("PCR_PATTERN", both(
        renaming(ALLOW, "StringEqualsIgnoreCase", "StringLike"),
        lambda p: use(p)["Condition"]["StringLike"].update({f"{PCR}0": HEX[0][:8] + "*"})), FIX, ALLOW),
    ("PCR2_CONSTANT", both(pinning(PCR2=PCR2_OF_NOTHING), conditions(
        "DenyUnlessPCR2", {"StringNotEqualsIgnoreCase": {f"{PCR}2": PCR2_OF_NOTHING}})),
     both(FIX, restoring("DenyUnlessPCR2")), ALLOW),
    ("PIN_NOT_THE_IMAGE", elsewhere(16, PCR3="ab" * 48), FIX, ALLOW),
    ("PIN_NOT_THE_IMAGE", elsewhere(PCR8="ab" * 48), FIX, ALLOW),
    ("PIN_NOT_THE_IMAGE", elsewhere(PCR4="ab" * 48), FIX, ALLOW),
    ("PIN_PCR1_ONLY", elsewhere(1, 16), FIX, ALLOW),
    ("PIN_PCR2_ONLY", elsewhere(2, 16), FIX, ALLOW),
    ("PIN_PCR0_MISSING", elsewhere(1, 2, 16), FIX, ALLOW),
    ("PIN_INCOMPLETE", elsewhere(0, 16), FIX, ALLOW),
    ("PIN_INCOMPLETE", elsewhere(0, 1, 16), FIX, ALLOW),
    ("PIN_MANIFEST_MISSING", elsewhere(0, 1, 2), FIX, ALLOW),
    ("PIN_INSTANCE", pinning(PCR4="ab" * 48), pinning(PCR4=None), ALLOW),
    ("IMAGES_MIXED", both(NO_PCR_DENIALS, pinning(PCR0=[HEX[0], B[0].hex()], PCR2=[HEX[2], B[2].hex()])),
     both(FIX, PCR_DENIALS_BACK), ALLOW),
    ("CONTEXT_MISSING", conditions(ALLOW, {"StringEqualsIgnoreCase": ALL_PCRS}),
     FIX, ALLOW),
    ("CONTEXT_FOR_ALL_VALUES", lambda p: [use(p)["Condition"].pop(o) for o in ("StringEquals", "Null")], FIX, ALLOW),
    ("DENY_UNATTESTED_MISSING", NO_PCR_DENIALS, PCR_DENIALS_BACK, ""),
    ("DENY_REENCRYPT_MISSING", dropping("DenyWhatIsNeverNeeded"), restoring("DenyWhatIsNeverNeeded"), ""),
    ("DENY_GRANT_MISSING", dropping("DenyWhatIsNeverNeeded"), restoring("DenyWhatIsNeverNeeded"), ""),
    ("DENY_GRANT_MISSING", conditions("DenyWhatIsNeverNeeded", {"StringNotEquals": {"aws:PrincipalArn": ROLES.admin}}),
     removing("DenyWhatIsNeverNeeded", "Condition"), ""),
    ("DENY_POLICY_CHANGE_MISSING", dropping("DenyChangesButBreakGlass"), restoring("DenyChangesButBreakGlass"), ""),
    ("DENY_ANDED", conditions("DenyUnlessPCR0", {"StringNotEqualsIgnoreCase": ALL_PCRS}),
     restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("DENY_ANDED", conditions("DenyUnlessPCR0", {"StringNotEqualsIgnoreCase": NOT_0,
     "StringNotEquals": {"aws:PrincipalArn": ROLES.admin}}), restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("DENY_MISSES_UNATTESTED", conditions("DenyUnlessPCR0", {"StringNotEqualsIgnoreCase": NOT_0,
     "Null": {f"{PCR}0": "false"}}), restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("DENY_MISSES_UNATTESTED", conditions("DenyUnlessPCR0", {"ForAnyValue:StringNotEqualsIgnoreCase": NOT_0}),
     restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("DENY_MISSES_UNATTESTED", conditions("DenyUnlessPCR0", {"StringEqualsIgnoreCase": {f"{PCR}0": C[0].hex()}}),
     restoring("DenyUnlessPCR0"), "DenyUnlessPCR0"),
    ("ALLOW_NEVER_USED", conditions("DenyUnlessPCR0", {"StringNotEqualsIgnoreCase": {f"{PCR}0": B[0].hex()}}),
     restoring("DenyUnlessPCR0"), ALLOW),
    ("ALLOW_NEVER_USED", conditions("DenyOtherTenants", {"StringNotEquals": {TENANT: "globex"}}),
     restoring("DenyOtherTenants"), ALLOW),
    ("ALLOW_NEVER_USED", adding(Effect="Deny", Principal="*", Action="kms:Decrypt"), dropping("Added"), ALLOW),
]  # fmt: skip


@pytest.mark.parametrize(("code", "break_", "mend", "sid"), KEY_TRAPS)
def test_a_trap_in_a_key_policy_is_flagged_and_its_mend_makes_it_clean(
    code: str, break_: Edit, mend: Edit, sid: str
) -> None:
    policy = rendered()
    assert lint(json.dumps(policy)) == ()
    break_(policy)
    found = [f for f in lint(json.dumps(policy)) if f.code == code]
    assert found, lint(json.dumps(policy))
    assert {f.sid for f in found} == {sid}
    if sid:
        assert policy["Statement"][found[0].statement or 0]["Sid"] == sid
    assert found[0].severity == RULES[code].severity
    assert found[0].mend == RULES[code].mend
    mend(policy)
    assert lint(json.dumps(policy)) == ()


IDENTITY_TRAPS: list[tuple[str, Edit, Edit]] = [
    ("RESOURCE_WILDCARD", setting(ALLOW, Resource="*"), setting(ALLOW, Resource=KEY)),
    ("RESOURCE_WILDCARD", setting(ALLOW, Resource=f"arn:aws:kms:*:{ACCOUNT}:key/*"), setting(ALLOW, Resource=KEY)),
    ("ATTESTATION_MISSING", removing(ALLOW, "Condition"),
     lambda p: use(p).update(Condition=use(rendered())["Condition"])),
    ("ACTION_WILDCARD", setting(ALLOW, Action="kms:*"), setting(ALLOW, Action=["kms:Decrypt", "kms:GenerateDataKey"])),
    ("GRANT_ALLOWED", setting(ALLOW, Action=["kms:CreateGrant"]), setting(ALLOW, Action=["kms:Decrypt"])),
    ("REENCRYPT_ALLOWED", setting(ALLOW, Action=["kms:ReEncryptTo"]), setting(ALLOW, Action=["kms:Decrypt"])),
    ("RESOURCE_NEGATED", both(removing(ALLOW, "Resource"), setting(ALLOW, NotResource=KEY)),
     both(removing(ALLOW, "NotResource"), setting(ALLOW, Resource=KEY))),
    ("PCR_ZERO", pinning(PCR0="0" * 96), pinning(PCR0=HEX[0])),
]  # fmt: skip


@pytest.mark.parametrize(("code", "break_", "mend"), IDENTITY_TRAPS)
def test_a_trap_in_an_identity_policy_is_flagged_and_its_mend_makes_it_clean(
    code: str, break_: Edit, mend: Edit
) -> None:
    policy = copy.deepcopy(render(deployment(Image("v1", A)))["iam-parent"])
    assert lint(json.dumps(policy)) == ()
    break_(policy)
    assert code in {f.code for f in lint(json.dumps(policy))}
    mend(policy)
    assert lint(json.dumps(policy)) == ()


MALFORMED = [
    "", "[]", "{}", '"x"', "null", "{", '{"Statement": []}', '{"Statement": 1}', '{"Statement": [1]}',
    '{"Statement": [{"Effect": "Maybe", "Action": "kms:*"}]}', '{"Statement": [{"Effect": "Allow"}]}',
    '{"Statement": [{"Effect": "Allow", "Action": []}]}', '{"Statement": [{"Effect": "Allow", "Action": 5}]}',
    '{"Statement": [{"Effect": "Allow", "Action": "kms:*", "NotAction": "x"}]}',
    '{"Statement": [{"Effect": "Allow", "Action": "kms:*", "Principal": 5}]}',
    '{"Statement": [{"Effect": "Allow", "Action": "kms:*", "Condition": 5}]}',
    '{"Statement": [{"Effect": "Allow", "Action": "kms:*", "Condition": {"Bool": 5}}]}',
    '{"Statement": [{"Effect": "Allow", "Effect": "Deny", "Action": "kms:*"}]}', '{"Else": 1, "Statement": [{}]}',
    " " * 40_000, "[" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_policy_is_a_finding(text: str) -> None:
    [finding] = lint(text)
    assert (finding.code, finding.severity) == ("POLICY_MALFORMED", "error")


def test_every_rule_has_a_trap_here_and_a_line_in_the_reference() -> None:
    covered = {code for code, *_ in KEY_TRAPS} | {code for code, *_ in IDENTITY_TRAPS}
    assert set(RULES) - covered == {"POLICY_MALFORMED", "NOT_ABOUT_KMS"}
    page = (ROOT_OF_REPOSITORY / "docs/reference/kms-policy.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (error|warning|note) \|", page, re.MULTILINE))
    assert rows == {code: rule.severity for code, rule in RULES.items()}


@pytest.mark.parametrize("code", ["ATTESTATION_IF_EXISTS", "ATTESTATION_SET_OPERATOR", "ATTESTATION_MISSING"])
def test_what_is_called_open_is_open(code: str) -> None:
    """Without the Denies that `render` writes, the parent opens the key with no document at all."""
    break_ = next(b for c, b, *_ in KEY_TRAPS if c == code)
    policy = rendered()
    assert not ask(without_denials(policy)).allowed
    break_(policy)
    assert ask(without_denials(policy)).allowed
    found = lint(json.dumps(policy))
    assert has_errors(found)
    assert {code, "ATTESTATION_MISSING"} <= {f.code for f in found}


DEBUG = {i: bytes(48) for i in (0, 1, 2)} | {16: A[16], 3: b"\xab" * 48}


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("IMAGES_MIXED", A | {0: B[0]}),
        ("PIN_NOT_THE_IMAGE", DEBUG),
        ("PIN_PCR1_ONLY", C | {1: A[1], 16: A[16]}),
        ("PIN_PCR2_ONLY", C | {2: A[2], 16: A[16]}),
        ("PIN_PCR0_MISSING", A | {0: C[0]}),
        ("PIN_MANIFEST_MISSING", A | {16: C[16]}),
        ("PCR_PATTERN", A | {0: A[0][:4] + C[0][4:]}),
    ],
)
def test_the_traps_that_let_other_images_pass_are_real(code: str, shown: dict[int, bytes]) -> None:
    policy = rendered()
    assert not ask(without_denials(policy), shown=shown).allowed
    next(b for c, b, *_ in KEY_TRAPS if c == code)(policy)
    assert ask(without_denials(policy), shown=shown).allowed


def test_a_deny_with_and_is_switched_off_by_one_right_pcr() -> None:
    policy = rendered()
    for sid in PCR_DENIALS[1:]:
        dropping(sid)(policy)
    conditions("DenyUnlessPCR0", {"StringNotEqualsIgnoreCase": ALL_PCRS})(policy)
    adding(Principal="*", Action="kms:*")(policy)
    assert ask(policy, shown=C).verdict == "deny-key"
    assert ask(policy, shown=C | {1: A[1]}).allowed


def test_root_delegation_with_an_iam_policy_goes_around_attestation() -> None:
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    policy = without_denials(rendered())
    adding(Principal={"AWS": ROOT}, Action="kms:*")(policy)
    assert ask(policy, who=f"{IAM}:role/else", iam=(everything,)).allowed
    found = {f.code: f.severity for f in lint(json.dumps(policy))}
    assert found["ROOT_DELEGATION"] == "error"
    assert found["DENY_UNATTESTED_MISSING"] == "error"


@pytest.fixture
def seeds_policies() -> list[str]:
    path = ROOT_OF_REPOSITORY.parent / "shared" / "seed-design.zh.md"
    if not path.is_file():
        if os.environ.get("CI"):
            pytest.fail("the seed design is missing")
        pytest.skip("the seed design is not on this machine")
    section = path.read_text().partition("### 5.7")[2]
    found = re.findall(r"```json\n(.*?)```", section, re.DOTALL)[:2]
    assert len(found) == 2
    return found


def test_the_seeds_own_policy_is_flagged_with_the_reasons(seeds_policies: list[str]) -> None:
    found = lint(seeds_policies[0])
    assert {(f.code, f.severity) for f in found} >= {
        ("CONDITION_KEY_UNKNOWN", "error"), ("ATTESTATION_MISSING", "error"), ("PRINCIPAL_INVALID", "error"),
        ("OPERATOR_CASE_SENSITIVE", "warning"), ("CONTEXT_MISSING", "warning"), ("DENY_UNATTESTED_MISSING", "warning"),
        ("DENY_REENCRYPT_MISSING", "warning"), ("DENY_GRANT_MISSING", "warning"), ("POLICY_CHANGE_NOBODY", "error"),
        ("DENY_POLICY_CHANGE_MISSING", "warning"),
    }  # fmt: skip
    invented = {f.sentence.partition("key ")[2].partition(":  ")[0] for f in found if f.code == "CONDITION_KEY_UNKNOWN"}
    assert any("kms:RecipientAttestation:Os" in text for text in invented)
    assert any("kms:RecipientAttestation:IntegrityAlgorithm" in text for text in invented)
    assert [f.code for f in lint(seeds_policies[1])] == ["NOT_ABOUT_KMS"]


def test_dropping_the_seeds_condition_makes_it_worse_and_says_so(seeds_policies: list[str]) -> None:
    """The obvious way to make the seed's policy work."""
    policy = json.loads(seeds_policies[0].replace("<account-id>", ACCOUNT).replace("<ec2-instance-role>", "parent"))
    who = f"{IAM}:role/parent"
    assert not ask(policy, who=who, shown=A).allowed
    del policy["Statement"][0]["Condition"]
    assert ask(policy, who=who).allowed
    assert "ATTESTATION_MISSING" in {f.code for f in lint(json.dumps(policy))}


def test_findings_carry_no_control_characters() -> None:
    policy = rendered()
    setting(ALLOW, **{"Sid": "\x1b[2Jx", "Evil\x1b[0m\ud800": 1})(policy)
    for finding in lint(json.dumps(policy)):
        assert finding.sentence.isprintable()
        assert finding.sid.isprintable()


WORDS = st.sampled_from([
    "Effect", "Allow", "Deny", "Principal", "NotPrincipal", "AWS", "*", "Action", "kms:*", "kms:Decrypt", "Resource",
    "Condition", "StringEquals", "ForAllValues:StringNotEqualsIfExists", f"{PCR}0", "Null", ROOT, "Statement",
])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
STATEMENT = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Deny"]), "Action": WORDS | st.lists(WORDS, min_size=1, max_size=2)},
    optional={"Principal": JSON, "NotPrincipal": JSON, "Resource": JSON, "Condition": st.dictionaries(
        WORDS, st.dictionaries(WORDS, WORDS, max_size=2), max_size=2)},
)  # fmt: skip


@given(JSON | st.builds(lambda s: {"Statement": s}, st.lists(STATEMENT, max_size=3)))
@settings(max_examples=150, deadline=None)
def test_any_json_has_findings_and_raises_nothing(value: Any) -> None:
    found = lint(json.dumps(value))
    assert found
    assert all(f.code in RULES for f in found)


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_any_text_has_findings_and_raises_nothing(text: str) -> None:
    assert lint(text)
