"""The real `aws` command against `adytum sim kms` as its own process: every supported operation, and refusals."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adytum_sim.command import sim
from adytum_sim.kms.operations import OPERATIONS
from adytum_sim.pki import DevPki

START = [sys.executable, "-c", "from adytum_sim.command import sim; sim()", "kms", "--json"]
AWS = Path(sys.executable).with_name("aws")
IMAGE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
PCRS = [f"--pcr={index}={value.hex()}" for index, value in IMAGE.items()]
# awscli takes most of a second to start; this runs many commands in one process of it
DRIVER = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
driver = create_clidriver()
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = driver.main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=sys.__stdout__, flush=True)
"""


def start(directory: Path, *more: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen([*START, "--state", str(directory), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(timeout=20)
        raise AssertionError("the stand-in did not start")
    return process, json.loads(line)


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    try:
        return process.wait(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    process, line = start(tmp_path_factory.mktemp("kms") / "state", *PCRS)
    yield line
    assert stop(process) == 0


def environment(ready: dict[str, Any], who: str) -> dict[str, str]:
    prefix = "operator_" if who == "operator" else ""
    keys = {
        "AWS_ACCESS_KEY_ID": ready[prefix + "access_key_id"],
        "AWS_SECRET_ACCESS_KEY": ready[prefix + "secret_access_key"],
    }
    if who == "role":
        keys["AWS_SESSION_TOKEN"] = ready["session_token"]
    return {
        "PATH": os.environ["PATH"],
        "AWS_CA_BUNDLE": ready["ca_file"],
        "AWS_DEFAULT_REGION": ready["region"],
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_PAGER": "",
        **keys,
    }


def aws(ready: dict[str, Any], who: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(AWS), "--endpoint-url", ready["endpoint"], "--output", "json", "kms", *arguments]
    return subprocess.run(command, env=environment(ready, who), capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def driver(ready: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """`driver("decrypt", ...)`: run one command as the operator; its JSON, or the code of its refusal."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=environment(ready, "operator"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*arguments: str) -> Any:
        argv = ["--endpoint-url", ready["endpoint"], "--output", "json", "kms", *arguments]
        process.stdin.write(json.dumps(argv) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
        if code:
            return err.partition("(")[2].partition(")")[0] or err
        return json.loads(out) if out.strip() else {}

    yield run
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stdout.close()


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str, bytes], str]:
    def write(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return f"fileb://{tmp_path / name}"

    return write


def test_every_supported_operation(driver: Callable[..., Any], files: Callable[[str, bytes], str]) -> None:
    done: set[str] = set()

    def run(command: str, *arguments: str) -> Any:
        done.add("".join(part.capitalize() for part in command.split("-")))
        answer = driver(command, *arguments)
        assert isinstance(answer, dict), (command, answer)
        return answer

    key = run("create-key", "--description", "cli")["KeyMetadata"]["Arn"]
    other = run("create-key")["KeyMetadata"]["Arn"]
    assert run("describe-key", "--key-id", key)["KeyMetadata"]["Description"] == "cli"
    assert key in [k["KeyArn"] for k in run("list-keys")["Keys"]]
    policy = run("get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"]
    run("put-key-policy", "--key-id", key, "--policy-name", "default", "--policy", policy)
    assert run("list-key-policies", "--key-id", key)["PolicyNames"] == ["default"]

    context = ("--encryption-context", "tenant=acme")
    secret = files("secret", b"secret")
    sealed = run("encrypt", "--key-id", key, "--plaintext", secret, *context)
    blob = files("blob", base64.b64decode(sealed["CiphertextBlob"]))
    opened = run("decrypt", "--ciphertext-blob", blob, *context)
    assert base64.b64decode(opened["Plaintext"]) == b"secret"
    moved = run("re-encrypt", "--ciphertext-blob", blob, "--source-encryption-context", "tenant=acme",
                "--destination-key-id", other)  # fmt: skip
    assert moved["KeyId"] == other
    made = run("generate-data-key", "--key-id", key, "--key-spec", "AES_256", *context)
    assert len(base64.b64decode(made["Plaintext"])) == 32
    assert "Plaintext" not in run("generate-data-key-without-plaintext", "--key-id", key, "--number-of-bytes", "64")
    pair = run("generate-data-key-pair", "--key-id", key, "--key-pair-spec", "ECC_NIST_P256")
    assert pair["KeyPairSpec"] == "ECC_NIST_P256"
    run("generate-data-key-pair-without-plaintext", "--key-id", key, "--key-pair-spec", "ECC_NIST_P256")
    assert len(base64.b64decode(run("generate-random", "--number-of-bytes", "9")["Plaintext"])) == 9

    run("create-alias", "--alias-name", "alias/cli", "--target-key-id", key)
    run("update-alias", "--alias-name", "alias/cli", "--target-key-id", other)
    assert "alias/cli" in [a["AliasName"] for a in run("list-aliases")["Aliases"]]
    run("delete-alias", "--alias-name", "alias/cli")

    run("enable-key-rotation", "--key-id", key)
    assert run("get-key-rotation-status", "--key-id", key)["KeyRotationEnabled"] is True
    run("rotate-key-on-demand", "--key-id", key)
    assert len(run("list-key-rotations", "--key-id", key)["Rotations"]) == 1
    run("disable-key-rotation", "--key-id", key)
    run("disable-key", "--key-id", key)
    assert driver("decrypt", "--ciphertext-blob", blob, *context) == "DisabledException"
    run("enable-key", "--key-id", key)
    assert driver("decrypt", "--ciphertext-blob", blob) == "InvalidCiphertextException"
    run("schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")
    run("cancel-key-deletion", "--key-id", key)
    assert driver("create-grant", "--key-id", key, "--grantee-principal", "x", "--operations", "Decrypt") == (
        "UnsupportedOperationException"
    )
    assert done == set(OPERATIONS)


def test_the_attested_key_opens_for_the_measured_image_alone(
    ready: dict[str, Any],
    recipient: Callable[..., Any],
    files: Callable[[str, bytes], str],
    open_cms: Callable[[bytes, bytes], bytes],
) -> None:
    """Another process (this one) shares the attestation PKI through the state directory."""
    pki = DevPki.load(Path(ready["pki_directory"]), region=ready["region"])
    assert Path(ready["anchor_file"]).read_bytes() == pki.root_pem
    attested = recipient(pki)
    document = files("document", attested.document)
    request = ("generate-data-key", "--key-id", ready["key_arn"], "--key-spec", "AES_256")

    def with_document(path: str) -> tuple[str, str]:
        return ("--recipient", f"KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256,AttestationDocument@={path}")

    answer = aws(ready, "role", *request, *with_document(document))
    assert answer.returncode == 0, answer.stderr
    parsed = json.loads(answer.stdout)
    assert not parsed.get("Plaintext")
    blob = base64.b64decode(parsed["CiphertextForRecipient"])
    assert len(open_cms(blob, attested.pem)) == 32

    def refused(*arguments: str) -> str:
        done = aws(ready, "role", *arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr

    one_bit = IMAGE | {0: bytes([IMAGE[0][0] ^ 1]) + IMAGE[0][1:]}
    other = files("other", recipient(pki, pcrs=one_bit).document)
    assert "AccessDeniedException" in refused(*request, *with_document(other))
    assert "AccessDeniedException" in refused(*request)

    context = ("--encryption-context", "purpose=right")
    made = aws(ready, "role", *request, *context, *with_document(document))
    assert made.returncode == 0, made.stderr
    sealed = files("sealed", base64.b64decode(json.loads(made.stdout)["CiphertextBlob"]))
    decrypt = ("decrypt", "--key-id", ready["key_arn"], "--ciphertext-blob", sealed)
    opened = aws(ready, "role", *decrypt, *context, *with_document(document))
    assert opened.returncode == 0, opened.stderr
    assert "AccessDeniedException" in refused(*decrypt, *context, *with_document(other))
    assert "AccessDeniedException" in refused(*decrypt, *context)
    for wrong in (("--encryption-context", "purpose=wrong"), ()):
        assert "InvalidCiphertextException" in refused(*decrypt, *wrong, *with_document(document))


def test_the_fault_port_breaks_the_next_answer(ready: dict[str, Any], driver: Callable[..., Any]) -> None:
    body = json.dumps({"throttle": 1}).encode()
    request = urllib.request.Request(ready["fault_endpoint"], data=body, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["throttle"] == 1
    assert driver("list-keys") == "ThrottlingException"
    assert isinstance(driver("list-keys"), dict)


def test_a_second_start_finds_everything_and_sigint_stops_it(tmp_path: Path) -> None:
    process, first = start(tmp_path / "state", *PCRS)
    assert stop(process, signal.SIGINT) == 0
    process, second = start(tmp_path / "state")
    assert stop(process) == 0
    same = ("key_arn", "access_key_id", "secret_access_key", "session_token", "operator_access_key_id", "ca_file")
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "state").iterdir()} == {0o600}


@pytest.mark.parametrize("pcr", ["0=00", "32=" + "00" * 48, "x", "0=" + "zz" * 48])
def test_a_malformed_pcr_does_not_start(pcr: str) -> None:
    done = CliRunner().invoke(sim, ["kms", "--pcr", pcr])
    assert done.exit_code == 2
    assert "--pcr" in done.output
