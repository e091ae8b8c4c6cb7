"""`adytum demo` as its user runs it, and what it leaves, judged by libraries that we did not write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from eth_utils import keccak
from hexbytes import HexBytes

from adytum_sim.enclave.witness import digests, scan

BIN = Path(sys.executable).parent
FILES = ("result.json", "attestation.bin", "receipts.jsonl", "db.sql", "logs.txt")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "adytum"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    done = run("demo", "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "result.json").read_text())
    return out


@pytest.mark.xdist_group("demo")
class TestDemo:
    def test_it_leaves_the_named_files(self, evidence: Path) -> None:
        for name in FILES:
            assert (evidence / name).stat().st_size > 0, name
        result = json.loads((evidence / "result.json").read_text())
        wanted = {"key_id", "public_key", "address", "raw_transaction", "transaction_hash", "request_id", "pcrs"}
        assert wanted <= result.keys()
        assert {"0", "1", "2", "16"} <= result["pcrs"].keys()

    def test_eth_account_recovers_the_address_and_the_hash(self, evidence: Path) -> None:
        result = json.loads((evidence / "result.json").read_text())
        raw = HexBytes(result["raw_transaction"])
        assert Account.recover_transaction(raw) == result["address"]
        assert keccak(bytes(raw)).hex() == result["transaction_hash"].removeprefix("0x")
        assert TypedTransaction.from_bytes(raw).as_dict()["chainId"] == 1

    def test_the_auditors_command_verifies_the_files_alone(self, evidence: Path) -> None:
        common = ["--attestation", "attestation.bin", "--binding", "binding.json", "--manifest", "manifest.json"]
        common += ["--measurements", "measurements.json", "--root", "root.pem"]
        command = [str(BIN / "adytum-verify"), "audit", "receipts.jsonl", *common]
        done = subprocess.run(command, cwd=evidence, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (evidence / "receipts.jsonl").read_text().splitlines()
        (evidence / "cut.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
        command[2] = "cut.jsonl"
        done = subprocess.run(command, cwd=evidence, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr

    def test_the_dump_holds_what_was_stored(self, evidence: Path) -> None:
        """The absence of secrets is only worth something in a dump that has the records."""
        result = json.loads((evidence / "result.json").read_text())
        dump = (evidence / "db.sql").read_text()
        for name in ("key_id", "public_key", "request_id"):
            assert result[name] in dump
        assert result["key_id"] in dump


@pytest.mark.parametrize("form", ["raw", "hex", "HEX", "base64", "shifted base64", "reversed"])
def test_the_scan_finds_every_encoding(form: str) -> None:
    import base64

    secret = bytes(range(100, 132))
    planted = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": base64.b64encode(secret),
        "shifted base64": base64.urlsafe_b64encode(b"!" + secret + b"?"),
        "reversed": secret[::-1],
    }[form]
    assert scan(b"before " + planted + b" after", digests([secret]))
    assert not scan(b"before " + planted[:20] + b"~" + planted[21:] + b" after", digests([secret]))


def test_a_typo_gets_a_sentence_and_no_stack_trace() -> None:
    done = run("demo", "--jsn")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--jsn" in done.stderr
