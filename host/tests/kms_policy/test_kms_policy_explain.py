"""Why a request is allowed or denied, as a library and on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from kms_policy_parts import CONTEXT, IAM, KEY, ROLES, ROOT, A, B, C, Json, ask, rendered

from adytum.cli import main
from adytum.kms_policy import Image, KmsPolicyError, Principal, parse, to_json
from adytum.kms_policy.explain import explain
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.nsm import SimNsm, cbor
from adytum_sim.pki import DevPki

TWO = (Image("v1", A), Image("v2", B))


def test_the_statement_that_allowed_is_named() -> None:
    decision = ask(rendered(*TWO), shown=B)
    assert [s.sid for s in decision.decided_by] == ["UseImage2V2"]
    others = {s.sid: s for s in decision.statements if not s.matches}
    assert any("PCR0 not met" in reason for reason in others["UseImage1V1"].reasons)
    assert "it does not name this principal" in others["Manage"].reasons
    assert "it is not about this action" in others["Manage"].reasons
    assert all(s.reasons for s in others.values())


def test_reasons_show_arns_whole_and_of_pcrs_the_ends() -> None:
    found = {s.sid: s for s in ask(rendered(), shown=A, context={}, who=f"{IAM}:role/else").statements}
    assert any(f"{IAM}:role/else" in reason for reason in found["DenyUseByOthers"].reasons)
    reasons = found["UseImage1V1"].reasons
    assert "kms:EncryptionContext:adytum:key must be present, not met: the request has no such key" in reasons
    assert A[0].hex() not in str(ask(rendered(), shown=C).decided_by[0].reasons)


def test_every_deny_that_hit_is_named() -> None:
    decision = ask(rendered(*TWO))
    assert {s.sid for s in decision.decided_by} >= {"DenyUnlessPCR0"}
    assert all(s.effect == "Deny" for s in decision.decided_by)
    [reason] = decision.decided_by[0].reasons
    assert "the request has no such key" in reason
    assert "met" in reason


def test_nothing_that_allows_is_said_too() -> None:
    decision = ask(rendered(), action="kms:ListGrants", who=f"{IAM}:role/else")
    assert (decision.verdict, decision.decided_by) == ("none", ())


def test_identity_policies_are_told_apart() -> None:
    allow = {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": KEY}]}
    deny = {"Statement": [{"Sid": "No", "Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}]}
    delegated: Json = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "*", "Resource": "*"}]}
    assert ask(delegated).verdict == "none-identity"
    allowed = ask(delegated, iam=(allow,))
    assert {(s.policy, s.number, s.named) for s in allowed.decided_by} == {
        ("key", 0, "account"),
        ("identity", 0, "direct"),
    }
    denied = ask(delegated, iam=(allow, deny))
    assert [(s.policy, s.number, s.sid) for s in denied.decided_by] == [("identity", 1, "No")]


@pytest.mark.parametrize(
    "arn", [ROOT, f"{IAM}:user/x", f"{IAM}:role/path/x", f"{IAM.replace('iam', 'sts')}:assumed-role/x/y"]
)
def test_principals(arn: str) -> None:
    made = Principal.from_arn(arn)
    assert made.account == "111122223333"
    assert {arn} <= made.names()
    assert made.root_arn == ROOT


@pytest.mark.parametrize(
    "arn", ["", "x", "arn:aws:iam::1:role/x", f"{IAM}:role/*", f"{IAM}:group/x", f"{IAM}:role/x\n"]
)
def test_what_is_no_principal_is_refused(arn: str) -> None:
    with pytest.raises(KmsPolicyError):
        Principal.from_arn(arn)


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_any_text_is_a_principal_or_the_one_error(text: str) -> None:
    try:
        Principal.from_arn(text)
    except KmsPolicyError as error:
        assert len(text) < 20 or text not in error.sentence


@pytest.mark.parametrize("action", ["kms:*", "s3:GetObject", "Decrypt", "kms:", "*"])
def test_an_action_is_one_operation_of_kms(action: str) -> None:
    with pytest.raises(KmsPolicyError):
        explain(key_policy=parse(json.dumps(rendered()), kind="key"), principal=Principal.from_arn(ROOT), action=action)


def test_remarks_warn_of_debug_mode_and_of_operations_without_recipient() -> None:
    parsed = parse(json.dumps(rendered()), kind="key")
    who = Principal.from_arn(ROLES.parent)
    zero = {i: bytes(48) for i in (0, 1, 2)}
    found = explain(key_policy=parsed, principal=who, action="kms:Decrypt", key=KEY, pcrs=zero)
    assert any("debug" in remark for remark in found.remarks)
    found = explain(key_policy=parsed, principal=who, action="kms:ReEncryptFrom", key=KEY, pcrs=A)
    assert any("no Recipient" in remark for remark in found.remarks)
    assert "kms:recipientattestation:pcr0" not in found.question.context
    found = explain(key_policy=parsed, principal=who, action="kms:Decrypt", pcrs=A)
    assert any("No key was named" in remark for remark in found.remarks)


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["kms-policy", *arguments], input=text)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "key-policy.json"
    path.write_text(to_json(rendered(*TWO)))
    return str(path)


def pcr_options(shown: dict[int, bytes]) -> list[str]:
    return [item for index, value in shown.items() for item in ("--pcr", f"{index}={value.hex()}")]


CONTEXT_OPTIONS = [item for name, value in CONTEXT.items() for item in ("--context", f"{name}={value}")]


def ask_command(policy: str, *more: str) -> Result:
    base = ["explain", "--policy", policy, "--action", "kms:Decrypt", "--principal", ROLES.parent, "--key", KEY]
    return run(*base, *CONTEXT_OPTIONS, *more)


def test_explain_says_allowed_and_denied_by_exit_status_and_text(policy: str) -> None:
    allowed = ask_command(policy, *pcr_options(A))
    assert allowed.exit_code == 0, allowed.output
    assert "may perform kms:Decrypt" in allowed.output
    assert "decided by:\n  key policy, statement 0 (UseImage1V1), Allow matches" in allowed.output
    denied = ask_command(policy, *pcr_options(C))
    assert denied.exit_code == 1
    assert "explicit deny in a resource-based policy" in denied.output
    assert "(DenyUnlessPCR0), Deny matches" in denied.output
    data = json.loads(ask_command(policy, "--json").output)
    assert (data["allowed"], data["verdict"]) == (False, "deny-key")
    assert {s["sid"] for s in data["decided_by"]} >= {"DenyUnlessPCR0"}
    assert all(s["reasons"] for s in data["others"])


def test_explain_reads_a_document_and_says_loudly_when_it_is_not_authenticated(policy: str, tmp_path: Path) -> None:
    pki = DevPki.create(system_clock_ms())
    nsm = SimNsm(pki, module_id="i-0123456789abcdef0-enc0123456789abcdef", pcrs=A, clock_ms=system_clock_ms)
    nsm.request(cbor.encode({"LockPCR": {"index": 16}}))
    answer: Any = cbor.decode(
        nsm.request(cbor.encode({"Attestation": {"user_data": None, "nonce": None, "public_key": None}}))
    )
    document, root, foreign = tmp_path / "document", tmp_path / "root.pem", tmp_path / "foreign.pem"
    document.write_bytes(answer["Attestation"]["document"])
    pki.save(tmp_path / "pki")
    root.write_bytes(pki.root_pem)
    foreign.write_bytes(DevPki.create(system_clock_ms()).root_pem)
    loose = ask_command(policy, "--document", str(document))
    assert loose.exit_code == 0, loose.output
    assert loose.output.startswith("THE DOCUMENT WAS NOT AUTHENTICATED")
    assert "NOT AUTHENTICATED" in ask_command(policy, "--document", str(document), "--json").output
    for more in ((), ("--at-document-time",)):
        held = ask_command(policy, "--document", str(document), "--root", str(root), *more)
        assert held.exit_code == 0, held.output
        assert "AUTHENTICATED" not in held.output
    for other in (str(foreign), "aws"):
        refused = ask_command(policy, "--document", str(document), "--root", other)
        assert refused.exit_code == 1
        assert "may perform" not in refused.output


@pytest.mark.parametrize(
    "more",
    [
        ["--pcr", "0"], ["--pcr", "0=xy"], ["--pcr", "32=" + "ab" * 48], ["--pcr", "0=abcd"],
        ["--pcr", "0=" + "ab" * 48, "--pcr", "0=" + "ab" * 48], ["--context", "x"], ["--root", "aws"],
        ["--document", "nowhere"], ["--principal", "somebody"], ["--action", "kms:*"],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(policy: str, more: list[str]) -> None:
    assert ask_command(policy, *more).exit_code == 2
    assert ask_command(policy).exit_code == 1


def test_explain_takes_identity_policies_and_the_answer_of_get_key_policy(policy: str, tmp_path: Path) -> None:
    iam = tmp_path / "iam.json"
    iam.write_text(json.dumps({"Statement": [{"Effect": "Deny", "Action": "kms:*", "Resource": "*"}]}))
    wrapped = tmp_path / "answer.json"
    wrapped.write_text(json.dumps({"Policy": Path(policy).read_text(), "PolicyName": "default"}))
    result = ask_command(str(wrapped), "--iam", str(iam), *pcr_options(A))
    assert result.exit_code == 1
    assert "identity policy 0, statement 0, Deny matches" in result.output


def test_explain_refuses_what_it_cannot_evaluate(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps({"Statement": [{"Effect": "Allow", "NotPrincipal": "*", "Action": "*", "Resource": "*"}]})
    )
    result = ask_command(str(path))
    assert result.exit_code == 1
    assert "NotPrincipal" in result.stderr
    assert json.loads(ask_command(str(path), "--json").output)["error"]["code"] == "KMS_POLICY_INVALID"


def test_lint_on_the_command_line(policy: str, tmp_path: Path) -> None:
    clean = run("lint", policy)
    assert (clean.exit_code, clean.output) == (0, "nothing found\n")
    bad = tmp_path / "bad.json"
    made = rendered()
    made["Statement"][0]["Principal"] = "*"
    bad.write_text(json.dumps(made))
    found = run("lint", str(bad))
    assert found.exit_code == 1
    assert "error PRINCIPAL_WILDCARD: statement 0 (UseImage1V1)" in found.output
    assert "mend:" in found.output
    data = json.loads(run("lint", str(bad), "--json").output)
    assert data["ok"] is False
    assert data["findings"][0].keys() == {"code", "severity", "statement", "sid", "sentence", "mend"}
    assert run("lint", "-", text=bad.read_text()).exit_code == 1
    assert run("lint", str(tmp_path / "nowhere")).exit_code == 2
    made = rendered()
    made.pop("Version")
    assert run("lint", "-", text=json.dumps(made)).exit_code == 0  # a note is no error


def test_render_on_the_command_line(tmp_path: Path) -> None:
    file, out = tmp_path / "deployment.yaml", tmp_path / "out"
    images = [{"name": "v1", "pcrs": {str(i): v.hex() for i, v in A.items()}}]
    roles = {"parent": ROLES.parent, "admin": ROLES.admin, "break_glass": ROLES.break_glass}
    file.write_text(json.dumps({"v": 1, "key": KEY, "roles": roles, "tenants": ["acme"], "images": images}))
    assert run("render", str(file), "-o", str(out)).exit_code == 0
    assert (out / "key-policy.json").read_text() == to_json(rendered(Image("v1", A)))
    assert sorted(os.listdir(out)) == [
        "iam-admin.json", "iam-break-glass.json", "iam-parent.json", "key-policy.json", "trust-parent.json",
    ]  # fmt: skip
    printed = run("render", str(file))
    assert json.loads(printed.output)["key-policy"] == rendered(Image("v1", A))
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    file.write_text("v: 1")
    refused = run("render", str(file), "-o", str(out))
    assert refused.exit_code == 1
    assert "deployment file" in refused.stderr
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    file.write_text(json.dumps({"v": 1, "key": KEY, "roles": roles, "images": [{"name": "v1", "manifest": "nowhere"}]}))
    assert run("render", str(file)).exit_code == 1
