"""`adytum-verify` as a person and as a script meets it: exit status, text, JSON, and never a traceback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adytum_verify.cli import main
from adytum_wire.binding import Binding, encode_binding

NOW_MS = 1_790_000_000_000
AT = "2026-09-21T14:13:20Z"
NONCE = bytes(range(32))
PCRS = [f"{i}={bytes([i + 1]).hex() * 48}" for i in range(3)]
MANIFEST = b'{"v":1}'


@pytest.fixture
def folder(tmp_path: Path, pki: Any) -> Path:
    (tmp_path / "root.pem").write_bytes(pki.root_pem)
    (tmp_path / "document").write_bytes(pki.document(nonce=NONCE, user_data=b"u", public_key=b"p"))
    (tmp_path / "release.json").write_text(
        json.dumps({"Measurements": {"HashAlgorithm": "Sha384 { ... }"} | {f"PCR{p[0]}": p[2:] for p in PCRS}})
    )
    return tmp_path


@pytest.fixture
def enclave(folder: Path, pki: Any, make_ledger: Any) -> Any:
    """An enclave's document, binding and manifest beside the receipts of its ledger."""
    ledger = make_ledger()
    manifest_hash = hashlib.sha256(MANIFEST).digest()
    binding = encode_binding(
        Binding(
            protocol=1,
            build="test",
            boot_id=ledger.chain,
            manifest_hash=manifest_hash.hex(),
            receipt_key=ledger.key.hex(),
            hpke_key="22" * 32,
        )
    )
    document = pki.document(
        nonce=NONCE,
        user_data=hashlib.sha256(binding).digest(),
        public_key=bytes.fromhex("22" * 32),
        pcrs={**pki.payload()["pcrs"], 16: hashlib.sha384(bytes(48) + manifest_hash).digest()},
    )
    (folder / "enclave").write_bytes(document)
    (folder / "binding.json").write_bytes(binding)
    (folder / "manifest.json").write_bytes(MANIFEST)
    return ledger


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert all(line.isprintable() and line.isascii() for line in (out + err).splitlines())
    return status, out, err


def pcr_options() -> list[str]:
    return [part for pcr in PCRS for part in ("--pcr", pcr)]


def live(folder: Path) -> list[object]:
    return ["attestation", folder / "document", "--root", folder / "root.pem", "--nonce", NONCE.hex(), "--at", AT]


def test_attestation_is_verified(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for expectation in (
        pcr_options(),
        ["--measurements", folder / "release.json"],
        ["--pcr", "PCR" + PCRS[0], *pcr_options()[2:]],
    ):
        status, out, _ = run(capsys, *live(folder), *expectation)
        assert status == 0
        assert out.startswith("VERIFIED\n")
    status, out, _ = run(capsys, *live(folder), *pcr_options(), "--json", "--user-data", "75", "--public-key", "70")
    found = json.loads(out)
    assert (status, found["verified"], found["nonce"], found["timestamp_ms"]) == (0, True, NONCE.hex(), NOW_MS)
    assert found["pcrs"]["PCR1"] == "02" * 48


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (["--nonce", "00" * 32], "NONCE_MISMATCH"),
        (["--nonce", "00"], "NONCE_TOO_SHORT"),
        (["--at", "2026-09-21T14:20:00Z"], "TIMESTAMP_OLD"),
        (["--at", "2026-09-21T16:10:00+02:00"], "TIMESTAMP_FUTURE"),
        (["--at", "2027-09-21T14:20:00Z"], "EXPIRED"),
        (["--user-data", "00"], "USER_DATA_MISMATCH"),
        (["--public-key", "00"], "PUBLIC_KEY_MISMATCH"),
        (["--pcr", "16=" + "aa" * 48], "PCR_MISMATCH"),
        (["--pcr", PCRS[0]], "POLICY_INVALID"),
        (["--pcr", "aa" * 32], "POLICY_HASHED"),
    ],
)
def test_attestation_is_refused(capsys: pytest.CaptureFixture[str], folder: Path, change: list[str], code: str) -> None:
    status, out, _ = run(capsys, *live(folder), *pcr_options(), *change)
    assert status == 1
    assert out.startswith(f"REFUSED {code}: ")
    status, out, _ = run(capsys, *live(folder), *pcr_options(), *change, "--json")
    found = json.loads(out)
    assert (status, found["verified"], found["code"]) == (1, False, code)


def test_live_check_without_a_nonce_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["attestation", folder / "document", "--root", folder / "root.pem", *pcr_options()]
    assert run(capsys, *arguments)[:2] == (1, run(capsys, *arguments, "--at", AT)[1])
    assert run(capsys, *arguments)[1].startswith("REFUSED NONCE_TOO_SHORT")
    status, out, _ = run(capsys, *arguments, "--at-document-time")
    assert status == 0
    assert "no statement about now" in out


def test_without_any_expectation_it_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, _ = run(capsys, *live(folder))
    assert (status, out.partition(":")[0]) == (1, "REFUSED POLICY_EMPTY")


def test_aws_is_the_default_root(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["attestation", folder / "document", "--at-document-time", *pcr_options()]
    assert run(capsys, *arguments)[1].startswith("REFUSED CHAIN_ANCHOR")


def test_genuine_document(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    [document] = vectors.glob("01_*.bin")
    pcrs = json.loads(run(capsys, "inspect", document, "--json")[1])["pcrs"]
    options = [part for i in range(3) for part in ("--pcr", f"{i}={pcrs[f'PCR{i}']}")]
    status, out, _ = run(capsys, "attestation", document, "--at-document-time", *options)
    assert status == 0
    assert "time: 2026-02-06T08:24:18.452+00:00" in out
    assert run(capsys, "attestation", document, "--nonce", "00" * 32, *options)[1].startswith("REFUSED EXPIRED")


def test_inspect_says_that_nothing_is_verified(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    [debug] = vectors.glob("05_*.bin")
    status, out, _ = run(capsys, "inspect", debug)
    assert status == 0
    assert out.startswith("NOT VERIFIED: decoded only\n")
    assert "NOTHING" in out
    assert "debug_mode: True" in out
    assert json.loads(run(capsys, "inspect", debug, "--json")[1])["verified"] is False
    assert "nobody signed" in run(capsys, "inspect", vectors / "negative" / "derived_sig_qemu_64_zero.bin")[1]
    assert run(capsys, "inspect", vectors / "negative" / "derived_not_cbor.bin")[0] == 1


def test_enclave_with_binding_and_manifest(capsys: pytest.CaptureFixture[str], folder: Path, enclave: Any) -> None:
    arguments = ["attestation", folder / "enclave", *live(folder)[2:], "--measurements", folder / "release.json"]
    bound = [*arguments, "--binding", folder / "binding.json", "--manifest", folder / "manifest.json"]
    status, out, _ = run(capsys, *bound, "--json")
    assert (status, json.loads(out)["binding"]["receipt_key"]) == (0, enclave.key.hex())
    (folder / "manifest.json").write_bytes(MANIFEST + b" ")
    assert run(capsys, *bound)[1].startswith("REFUSED MANIFEST_MISMATCH")
    (folder / "binding.json").write_bytes(b"{}")
    assert run(capsys, *bound)[1].startswith("REFUSED USER_DATA_MISMATCH")
    assert run(capsys, *arguments, "--manifest", folder / "manifest.json")[0] == 2


def attested(folder: Path) -> list[object]:
    return [
        "--attestation",
        folder / "enclave",
        "--binding",
        folder / "binding.json",
        "--measurements",
        folder / "release.json",
        "--root",
        folder / "root.pem",
        "--manifest",
        folder / "manifest.json",
    ]


def test_receipt(capsys: pytest.CaptureFixture[str], folder: Path, enclave: Any, make_ledger: Any) -> None:
    path = folder / "receipt.json"
    path.write_bytes(enclave.group(2, summary={"to": "\u202e\x1b[2J"})[0])
    for source in (attested(folder), ["--key", enclave.key.hex()]):
        status, out, _ = run(capsys, "receipt", path, *source)
        assert status == 0
        assert "sequence: 1" in out
        assert json.loads(run(capsys, "receipt", path, *source, "--json")[1])["summary"] == {"to": "\u202e\x1b[2J"}
    path.write_bytes(make_ledger(seed=2).group(1)[0])
    assert run(capsys, "receipt", path, *attested(folder))[:2][0] == 1
    path.write_bytes(make_ledger(chain="cd" * 16).group(1)[0])  # the same key, in another chain than the document's
    status, out, _ = run(capsys, "receipt", path, *attested(folder))
    assert status == 1
    assert out.startswith("REFUSED RECEIPT_INVALID")


def test_receipt_under_a_document_that_does_not_verify(
    capsys: pytest.CaptureFixture[str], folder: Path, enclave: Any
) -> None:
    path = folder / "receipt.json"
    path.write_bytes(enclave.group(1)[0])
    without_root = [x for x in attested(folder) if x not in ("--root", folder / "root.pem")]
    assert run(capsys, "receipt", path, *without_root)[1].startswith("REFUSED CHAIN_ANCHOR")


def test_audit(capsys: pytest.CaptureFixture[str], folder: Path, enclave: Any, make_ledger: Any) -> None:
    lines = enclave.groups(2, 3, 1)
    path = folder / "audit.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n\n")
    status, out, _ = run(capsys, "audit", path, *attested(folder))
    assert status == 0
    assert "records: 6" in out
    assert "--head" in out
    head = f"6:{enclave.link.hex()}"
    status, out, _ = run(capsys, "audit", path, "--key", enclave.key.hex(), "--head", head, "--json")
    assert (status, json.loads(out)["head"]) == (0, head)
    path.write_bytes(b"\n".join(lines[:5]))
    status, out, _ = run(capsys, "audit", path, *attested(folder), "--head", head)
    assert status == 1
    assert out.startswith("REFUSED RECEIPT_INVALID: Record 6 (line 6) is truncated: ")
    path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"acme", b"evil"), *lines[2:]]))
    status, out, _ = run(capsys, "audit", path, *attested(folder), "--json")
    found = json.loads(out)
    assert (status, found["defect"], found["sequence"], found["position"]) == (1, "edited", 2, 2)
    path.write_bytes(b"\n".join(lines[2:]))
    assert run(capsys, "audit", path, *attested(folder), "--from", "3")[0] == 0
    path.write_bytes(make_ledger(chain="cd" * 16).group(1)[0])  # the same key, in another chain than the document's
    assert json.loads(run(capsys, "audit", path, *attested(folder), "--json")[1])["defect"] == "foreign"
    path.write_bytes(b"x" * 300_000)
    assert json.loads(run(capsys, "audit", path, *attested(folder), "--json")[1])["defect"] == "malformed"
    path.write_bytes(b"")
    assert run(capsys, "audit", path, *attested(folder))[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["attestation"],
        ["attestation", "/nonexistent"],
        ["attestation", "/", "--at-document-time"],
        ["attestation", "{}", "--at", "now"],
        ["attestation", "{}", "--nonce", "xyz"],
        ["attestation", "{}", "--nonce", "00" * 16, "--at", "yesterday", *pcr_options()],
        ["attestation", "{}", "--nonce", "00" * 16, "--at", "2026-09-21T14:13:20", *pcr_options()],
        ["attestation", "{}", "--at", AT, "--at-document-time"],
        ["inspect", "/nonexistent"],
        ["receipt", "{}"],
        ["receipt", "{}", "--attestation", "{}"],
        ["receipt", "{}", "--key", "zz"],
        ["receipt", "{}", "--key", "00"],
        ["receipt", "{}", "--key", "00" * 32, "--attestation", "{}"],
        ["audit", "{}", "--key", "00" * 32],
        ["audit", "{}", "--key", "11" * 32, "--head", "5"],
        ["audit", "{}", "--key", "11" * 32, "--head", "5:00"],
        ["audit", "{}", "--key", "11" * 32, "--head", "x:" + "00" * 32],
        ["audit", "{}", "--key", "11" * 32, "--from", "x"],
        ["audit", "/nonexistent", "--key", "11" * 32],
        ["audit", "{}", "--key", "11" * 32, "--from", "9", "--head", "3:" + "00" * 32],
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str]) -> None:
    filled = [argument.replace("{}", str(folder / "document")) for argument in arguments]
    if arguments[:1] == ["attestation"] and "--pcr" not in filled:
        filled += pcr_options()
    status, out, err = run(capsys, *filled)
    assert (status, out) == (2, "")
    assert err


@pytest.mark.parametrize("command", ["attestation", "inspect", "receipt", "audit"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert "FILE" in out


def test_as_a_program(folder: Path) -> None:
    program = [sys.executable, "-W", "error", "-m", "adytum_verify.cli"]
    done = subprocess.run([*program, "inspect", folder / "document"], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("NOT VERIFIED")
    assert subprocess.run([*program, "inspect", "/nonexistent"], capture_output=True).returncode == 2
    piped = f"{' '.join(program)} inspect {folder / 'document'} | true"
    assert b"Traceback" not in subprocess.run(["sh", "-c", piped], capture_output=True).stderr
