"""The policies of the anchor's table: who may write it, by the evaluator that the KMS stand-in uses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from adytum.cli import main
from adytum.kms_policy.anchor import CHANGES, WRITES, anchor_policies
from adytum.kms_policy.evaluate import Question, decide
from adytum_sim.kms.caller import Caller

ACCOUNT = "111122223333"
TABLE = f"arn:aws:dynamodb:eu-west-1:{ACCOUNT}:table/adytum-anchor"
USER = f"arn:aws:iam::{ACCOUNT}:user/adytum-anchor"
ADMIN = f"arn:aws:iam::{ACCOUNT}:role/break-glass"
PARENT = f"arn:aws:iam::{ACCOUNT}:role/adytum-enclave"
OF_USER, OF_TABLE = anchor_policies(table=TABLE, user=USER, admin=ADMIN, deployment="prod", tenant="acme")
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def verdict(principal: str, action: str, key: str = "prod/acme") -> str:
    """With all rights from IAM, but for the user, who has its own policy."""
    is_user = principal == USER
    caller = Caller(
        kind="user" if is_user else "session",
        account=ACCOUNT,
        arn=principal if is_user else principal.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/x",
        user_id="X",
        role_arn=None if is_user else principal,
        identity_policies=(OF_USER if is_user else EVERYTHING,),
    )
    context = {"aws:principalarn": (principal,), "dynamodb:leadingkeys": (key,)}
    allow_by_iam = {"Effect": "Allow", "Principal": {"AWS": caller.root_arn}, "Action": "*", "Resource": "*"}
    policy = OF_TABLE | {"Statement": [*OF_TABLE["Statement"], allow_by_iam]}  # IAM decides, as it does of tables
    return decide(Question(caller=caller, action=action, resource=TABLE, context=context), policy).verdict


@pytest.mark.parametrize("action", WRITES)
@pytest.mark.parametrize("principal", [PARENT, ADMIN])
def test_nobody_but_the_user_writes(principal: str, action: str) -> None:
    assert verdict(principal, action) == "deny-key"


@pytest.mark.parametrize("action", CHANGES)
def test_only_one_role_changes_the_table(action: str) -> None:
    assert verdict(PARENT, action) == "deny-key"
    assert verdict(USER, action) == "deny-key"
    assert verdict(ADMIN, action) == "allow"


def test_the_user_reads_and_writes_its_tenants_item_and_does_nothing_else() -> None:
    for action in ("dynamodb:GetItem", "dynamodb:PutItem"):
        assert verdict(USER, action) == "allow"
        assert verdict(USER, action, key="prod/other") == "none-identity"
    for action in ("dynamodb:DeleteItem", "dynamodb:UpdateItem", "dynamodb:Scan", "dynamodb:BatchWriteItem"):
        assert verdict(USER, action) == "none-identity", action


def test_the_command_prints_both() -> None:
    result = CliRunner().invoke(
        main,
        [
            *("usage", "anchor-policies", "--table", TABLE, "--user", USER, "--admin", ADMIN),
            *("--deployment", "prod", "--tenant", "acme"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"user": OF_USER, "table": OF_TABLE}


@pytest.mark.parametrize("content", [b"", b"{", b'{"AccessKey":{"AccessKeyId":"A"}}', b'{"SecretAccessKey":"hidden"}'])
def test_a_file_that_is_no_access_key_is_refused_without_showing_it(tmp_path: object, content: bytes) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "key.json"
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["usage", "seal-anchor", "--file", str(path)])
    assert result.exit_code != 0
    assert "hidden" not in result.output and "Traceback" not in result.output
