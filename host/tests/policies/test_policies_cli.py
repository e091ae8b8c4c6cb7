"""`adytum policy`: what is printed, how it exits, and that a mistake is a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from adytum.cli import main

MONDAY = 1_800_262_800_000  # 2027-01-18 09:00 UTC
KEY_ID = "key-" + "0" * 32
PUBLIC = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"


def run(*arguments: object) -> Result:
    env = dict.fromkeys(("ADYTUM_URL", "ADYTUM_TENANT", "ADYTUM_KEY", "ADYTUM_PCRS", "ADYTUM_CONFIG"))
    result = CliRunner().invoke(main, ["policy", *map(str, arguments)], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def file(guide: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    guide["valid_until"] = 4_102_444_800_000  # commands look at the clock
    path.write_text(json.dumps(guide))
    return path


def record(number: int = 1, **more: Any) -> str:
    body = {
        "operation": "sign",
        "v": 1,
        "tenant": "acme",
        "request_id": f"payout-{number:04}",
        "issued_at": MONDAY,
        "key_id": KEY_ID,
        "path": "",
        "scheme": "ecdsa-secp256k1",
        "content": {"type": "raw-digest", "digest": "0" * 64},
    }
    line = {"body": json.dumps(body), "principal": "payments", "labels": ["payouts"], "algorithm": "secp256k1"}
    return json.dumps(line | more)


def test_init_writes_a_valid_document_and_guidance(tmp_path: Path) -> None:
    private = tmp_path / "ops.pem"
    key = Ed25519PrivateKey.generate()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = tmp_path / "olga.pem"
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    public.write_bytes(point.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    out = tmp_path / "first.json"
    arguments = ["init", "--tenant", "acme", "--principal", f"operator:ops={private}"]
    arguments += ["--principal", f"approver:olga={public}", "--principal", f"signer:pay=ed25519:{PUBLIC}"]
    done = run(*arguments, "-o", out)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "What to do next" in done.stderr
    document = json.loads(out.read_text())
    assert [p["keys"][0]["scheme"] for p in document["principals"]] == ["ed25519", "p256", "ed25519"]
    assert document["principals"][0]["keys"][0]["public_key"] == key.public_key().public_bytes_raw().hex()
    assert run("validate", out).exit_code == 0
    assert json.loads(run(*arguments).stdout)["tenant"] == "acme"
    again = run(*arguments, "-o", out)  # what somebody has worked on is not overwritten
    assert again.exit_code == 1
    assert json.loads(out.read_text()) == document


@pytest.mark.parametrize(
    ("principal", "code", "text"),
    [
        ("ops", 2, "want ROLE:NAME=KEY"),
        ("king:ops=x.pem", 2, "want ROLE:NAME=KEY"),
        ("signer:ops=nowhere.pem", 1, "there is no such file"),
        ("signer:ops=ed25519:00", 1, "POLICY_INVALID ($.principals[0].keys[0].public_key)"),
        ("signer:Ops=ed25519:" + PUBLIC, 1, "POLICY_INVALID ($.principals[0].id)"),
    ],
)
def test_init_refuses_in_a_sentence(principal: str, code: int, text: str) -> None:
    refused = run("init", "--tenant", "acme", "--principal", principal)
    assert refused.exit_code == code
    assert text in refused.output


def test_init_refuses_a_file_that_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no key")
    refused = run("init", "--tenant", "acme", "--principal", f"signer:ops={tmp_path / 'x.pem'}")
    assert refused.exit_code == 1
    assert "is not a key in PEM" in refused.output


def test_validate_warns_and_explains(file: Path, guide: dict[str, Any]) -> None:
    assert json.loads(run("validate", file, "--json").output)["warnings"] == []
    assert run("validate", file, "--strict").exit_code == 0
    guide["rules"][1]["labels"] = "*"
    file.write_text(json.dumps(guide))
    warned = run("validate", file)
    assert warned.exit_code == 0
    assert "wide   $.rules[1].labels" in warned.output
    assert run("validate", file, "--strict").exit_code == 3
    guide["rules"][1]["limits"] = ["euro"]
    file.write_text(json.dumps(guide))
    refused = run("validate", file)
    assert refused.exit_code == 1
    assert "$.rules[1].limits" in refused.output
    assert "not in `limits`" in refused.output
    told = run("validate", file, "--json")
    assert told.exit_code == 1
    assert json.loads(told.output)["error"]["field"] == "$.rules[1].limits"
    assert "not in `limits`" in json.loads(told.output)["error"]["reason"]


def test_diff_says_what_changes_and_exits_accordingly(file: Path, guide: dict[str, Any], tmp_path: Path) -> None:
    assert run("diff", file, file).output.strip() == "No difference."
    other = tmp_path / "new.json"
    guide["version"] = 3
    guide["rules"][1]["content"][0]["erc20"]["max_amount"] = "1"
    other.write_text(json.dumps(guide))
    less, more = run("diff", file, other), run("diff", other, file, "--json")
    assert less.exit_code == 0
    assert "[0].erc20.max_amount 5000000000 -> 1" in less.output or "erc20.max_amount 5000000000 -> 1" in less.output
    assert more.exit_code == 3
    assert json.loads(more.output)["may_allow_more"] is True


def test_simulate_counts_changes(file: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text(record(1, outcome="POLICY_DENIED") + "\n")
    same = run("simulate", file, requests)
    assert same.exit_code == 0
    assert "0 of 1 requests would be answered otherwise. POLICY_DENIED: 1" in same.output
    requests.write_text(record(1, outcome="POLICY_DENIED") + "\n" + record(2, outcome="allowed"))
    changed = run("simulate", file, requests, "--json")
    assert changed.exit_code == 3
    told = json.loads(changed.output)
    assert (told["requests"], told["changed"], told["outcomes"]) == (2, 1, {"POLICY_DENIED": 2})
    [answer] = told["answers"]
    assert (answer["request_id"], answer["before"], answer["after"]) == ("payout-0002", "allowed", "POLICY_DENIED")
    assert run("simulate", file, requests, "--against", file, "--all").exit_code == 0
    requests.write_text("nonsense")
    refused = run("simulate", file, requests)
    assert refused.exit_code == 1
    assert "line 1" in refused.output


def test_preview_answers_without_a_service(file: Path, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.loads(record())["body"])
    arguments = ["preview", body, "--principal", "payments", "--policy", file, "--label", "payouts"]
    refused = run(*arguments, "--algorithm", "secp256k1", "--json")
    assert refused.exit_code == 3
    told = json.loads(refused.output)
    assert (told["operation"], told["outcome"]) == ("sign-raw", "POLICY_DENIED")
    make = {"operation": "generate_key", "v": 1, "tenant": "acme", "request_id": "make-0001", "issued_at": MONDAY}
    body.write_text(json.dumps(make | {"algorithm": "secp256k1", "labels": ["payouts"]}))
    waits = run("preview", body, "--principal", "ops", "--policy", file)
    assert waits.exit_code == 3
    assert "APPROVALS_MISSING" in waits.output
    assert "could: olga, peter" in waits.output
    allowed = run("preview", body, "--principal", "ops", "--policy", file, "--approved", "olga")
    assert allowed.exit_code == 0
    assert "make-keys" in allowed.output
