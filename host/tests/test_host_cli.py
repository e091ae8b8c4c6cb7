"""The command `adytum`: what it prints, how it exits, and that a mistake is a sentence and not a stack trace."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from host_fake_enclave import ScriptedEnclave, scripted_settings
from test_host_service import UNSIGNED
from test_host_settings import ARN, PCRS

from adytum.app import running_service
from adytum.cli import main
from adytum_verify import cli as verify_cli
from adytum_wire.types import derive_key_id


def commands(
    command: click.Command = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of this distribution, groups too."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and (path or found.callback.__module__.startswith("adytum.cli")):
                yield from commands(found, (*path, name))


COMMANDS = dict(commands())


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    clean = dict.fromkeys(("ADYTUM_URL", "ADYTUM_TENANT", "ADYTUM_KEY", "ADYTUM_PCRS", "ADYTUM_CONFIG"), "")
    result = CliRunner().invoke(main, arguments, env={k: v or None for k, v in (clean | (env or {})).items()})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def write_key(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "adytum.yaml"
    tree = {"tee": {"kmsKeyARN": ARN, "allowedPCRs": [PCRS]}, "database": {"dsn": "postgresql://u:hunter2@db/x"}}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def served(fresh: Any, tmp_path: Path) -> Iterator[tuple[list[str], ScriptedEnclave]]:
    """A service in a thread of its own (the commands block), and the options that reach it."""
    enclave = ScriptedEnclave()
    settings = scripted_settings(enclave, tmp_path)
    ready, stop = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def serve() -> None:
        found.append(asyncio.get_running_loop())
        async with running_service(settings, enclave=enclave, database=fresh.dsn) as service:
            await service.ready()
            found.append(service.base_url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    key = write_key(tmp_path / "client.pem", enclave.client_key)
    options = ["--url", found[1], "--tenant", "acme", "--key", str(key), "--pcr", enclave.allowed[0]]
    yield [*options, "--roots", str(tmp_path / "root.pem")], enclave
    found[0].call_soon_threadsafe(stop.set)
    thread.join(20)


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 80
    assert {("keys", "destroy"), ("policy", "simulate"), ("rotate", "worker"), ("restore", "drill")} <= COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_worth_reading(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    text, _, rest = result.output.partition("Options:")
    assert len(text.split()) > 8, text
    for line in result.output.splitlines():
        assert len(line) <= 100
    found = rest.partition("Commands:")[2]
    assert "..." not in found, "a list of commands says what each does, to the end"
    assert bool(found.strip()) is isinstance(COMMANDS[command], click.Group)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is(command: tuple[str, ...]) -> None:
    options = [one for one in COMMANDS[command].params if isinstance(one, click.Option)]
    assert [one.opts for one in options if not one.help] == []
    choices = [one.type.choices for one in options if isinstance(one.type, click.Choice)]
    assert all(choice for found in choices for choice in found), "a choice of nothing is shown as nothing"


def test_the_first_page_says_what_each_command_is_for_in_a_line() -> None:
    lines = run("--help").output.split("Commands:")[1].strip("\n").splitlines()
    assert [line for line in lines if line.startswith("   ")] == []


def test_commands_of_other_distributions_are_found_by_entry_point() -> None:
    output = run("--help").output
    assert "demo" in output
    assert "image" in output


def test_unknown_commands_and_options_are_usage_errors() -> None:
    for arguments in (["nothing"], ["keys", "nothing"], ["attest", "--nothing"], ["keys", "list"]):
        assert run(*arguments).exit_code == 2, arguments


def test_config_check(config: Path, tmp_path: Path) -> None:
    good = run("config", "check", "-c", str(config), "--json")
    assert (good.exit_code, json.loads(good.output)["images"]) == (0, 1)
    bad = run("config", "check", "-c", str(config), env={"APP_TEE_KMSKEYARN": "alias/x", "APP_HTTP_PORT": "x"})
    assert bad.exit_code == 1
    assert "tee.kmsKeyARN" in bad.output
    assert "http.port" in bad.output
    found = json.loads(run("config", "check", "-c", str(tmp_path / "none.yaml"), "--json").output)
    assert found["error"]["code"] == "SETTINGS_INVALID"


def test_config_show_masks_secrets(config: Path) -> None:
    for more in ((), ("--json",)):
        result = run("config", "show", "-c", str(config), *more)
        assert result.exit_code == 0
        assert json.loads(result.output)["tee"]["vsock"] == {"kmsPort": 8000, "imdsPort": 8001, "stsPort": 8002}
        assert "hunter2" not in result.output


def test_migrate(empty_database: Any, config: Path) -> None:
    env = {"APP_DATABASE_DSN": empty_database.dsn, "ADYTUM_CONFIG": str(config)}
    before = json.loads(run("migrate", "status", "--json", env=env).output)
    assert (before["current"], before["pending"][0]) == (None, "0001")
    assert run("migrate", "up", env=env).exit_code == 0
    assert json.loads(run("migrate", "status", "--json", env=env).output)["current"] == before["head"]
    assert run("migrate", "down", "--to", "base", env=env).exit_code == 2  # not by accident
    assert run("migrate", "down", "--to", "base", "--yes-delete-data", env=env).exit_code == 0
    gone = run("migrate", "status", "--json", env=env | {"APP_DATABASE_DSN": empty_database.dsn + "x"})
    assert gone.exit_code == 1
    assert json.loads(gone.output)["error"]["code"] == "STORAGE_UNAVAILABLE"


def test_keys_sign_attest_and_export(served: tuple[list[str], ScriptedEnclave], tmp_path: Path) -> None:
    options, enclave = served
    made = run("keys", "generate", "secp256k1", "--label", "hot", "--request-id", "r-cli-00001", *options)
    assert made.exit_code == 0, made.output
    key_id = derive_key_id("acme", "r-cli-00001")
    assert key_id in made.output
    listed = json.loads(run("keys", "list", "--json", *options).output)
    assert [k["key_id"] for k in listed["keys"]] == [key_id]
    assert key_id in run("keys", "list", *options).output
    assert "secp256k1" in run("keys", "show", key_id, *options).output

    signed = run("sign", "ethereum", key_id, UNSIGNED, *options)
    assert signed.exit_code == 0, signed.output
    assert "raw_transaction" in signed.output
    as_json = json.loads(run("sign", "ethereum", key_id, "0x" + UNSIGNED, "--json", *options).output)
    assert as_json["result"]["encoded"]["raw_transaction"] in signed.output  # deterministic

    attested = run("attest", *options)
    assert attested.exit_code == 0
    assert enclave.boot_id in attested.output

    file = tmp_path / "audit.jsonl"
    exported = run("audit", "export", "-o", str(file), "--json", *options)
    assert exported.exit_code == 0, exported.output
    chain = json.loads(exported.output)
    assert (chain["chain"], chain["receipts"]) == (enclave.boot_id, 3)
    expectation = [part for pcr in enclave.allowed[0].split(",") for part in ("--pcr", pcr.removeprefix("PCR"))]
    arguments = [str(file), *expectation, "--root", str(tmp_path / "root.pem")]
    assert verify_cli.main(["audit", *arguments]) == 0  # what the auditor's own tool says


def test_refusals_have_codes_and_exit_one(served: tuple[list[str], ScriptedEnclave], tmp_path: Path) -> None:
    options, _ = served
    cases: list[tuple[list[str], str]] = [
        (["sign", "ethereum", "key-" + "0" * 32, UNSIGNED], "RECORD_MISSING"),
        (["keys", "show", "key-" + "0" * 32], "NOT_FOUND"),
        (["keys", "generate", "secp256k1", "--key", str(write_key(tmp_path / "x.pem", Ed25519PrivateKey.generate()))],
         "PRINCIPAL_UNKNOWN"),
        (["attest", "--pcr", PCRS], ""),
        (["policy", "show"], "NOT_FOUND"),
        (["audit", "export", "--chain", "0" * 32, "-o", str(tmp_path / "no")], "NOT_FOUND"),
    ]  # fmt: skip
    for arguments, code in cases:
        if not code:  # --pcr adds to the allowed images; alone it must refuse
            at = options.index("--pcr")
            arguments, code = ["attest", *options[:at], *options[at + 2 :], "--pcr", PCRS], "ATTESTATION_FAILED"
            result, human = run(*arguments, "--json"), run(*arguments)
        else:
            result, human = run(arguments[0], *arguments[1:2], *options, *arguments[2:], "--json"), None
        assert result.exit_code == 1, (arguments, result.output)
        assert json.loads(result.output)["error"]["code"] == code
        if human is not None:
            assert human.output.startswith("adytum: not trusted: ATTESTATION_FAILED (PCR_MISMATCH")


def test_nobody_answers() -> None:
    result = run("keys", "list", "--url", "http://127.0.0.1:9", "--tenant", "acme", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["error"]["code"] == "PEER_UNAVAILABLE"


def test_mistakes_are_sentences(tmp_path: Path, config: Path) -> None:
    bad_key = tmp_path / "bad.pem"
    bad_key.write_text("nonsense")
    base = ["--tenant", "acme", "--pcr", PCRS]
    result = run("keys", "generate", "p256", "--key", str(bad_key), *base)
    assert (result.exit_code, "not a private key" in result.output) == (1, True)
    assert run("keys", "generate", "p256", *base).exit_code == 2  # no --key
    assert run("keys", "generate", "rsa", *base).exit_code == 2
    good_key = str(write_key(tmp_path / "good.pem", Ed25519PrivateKey.generate()))
    assert run("sign", "ethereum", "k", "xyz", "--key", good_key, *base).exit_code == 2
    seed_form = run("attest", "--pcr", "a" * 64)
    assert (seed_form.exit_code, "POLICY_HASHED" in seed_form.output) == (1, True)
    assert run("attest").exit_code == 2
    serve = run("serve", "-c", str(config), env={"APP_TEE_ALLOWEDPCRS": "[]"})
    assert (serve.exit_code, "allowedPCRs must not be empty" in serve.output) == (1, True)


# --- policies


def policy_document(**changes: Any) -> bytes:
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    principal = {"id": "alice", "keys": [{"scheme": "ed25519", "public_key": key}], "passkeys": [], "roles": ["ops"]}
    document = {
        "v": 1,
        "tenant": "acme",
        "version": 1,
        "valid_until": 2**41,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "limits": [],
        "principals": [principal],
        "rules": [],
    }
    return json.dumps(document | changes).encode()


def test_policy_validate_and_sign(tmp_path: Path) -> None:
    file, out = tmp_path / "policy.json", tmp_path / "policy.dsse"
    file.write_bytes(policy_document())
    assert json.loads(run("policy", "validate", str(file), "--json").output)["version"] == 1
    alice = str(write_key(tmp_path / "alice.pem", Ed25519PrivateKey.generate()))
    bob = str(write_key(tmp_path / "bob.pem", Ed25519PrivateKey.generate()))
    first = run("policy", "sign", str(file), "--key", alice, "-o", str(out), "--json")
    assert len(json.loads(first.output)["signatures"]) == 1
    second = run("policy", "sign", str(out), "--key", bob, "-o", str(out), "--json")
    assert len(json.loads(second.output)["signatures"]) == 2
    file.write_bytes(policy_document(surprise=1))
    refused = run("policy", "validate", str(file))
    assert refused.exit_code == 1
    assert refused.output.startswith("adytum: refused: POLICY_INVALID ($")


def test_policy_push_says_who_has_not_signed(tmp_path: Path) -> None:
    file, out, manifest = tmp_path / "policy.json", tmp_path / "policy.dsse", tmp_path / "manifest.json"
    file.write_bytes(policy_document())
    keys = {name: Ed25519PrivateKey.generate() for name in ("alice", "bob", "carol")}
    admins = [
        {"id": name, "scheme": "ed25519", "public_key": key.public_key().public_bytes_raw().hex()}
        for name, key in keys.items()
    ]
    kms = {
        "region": "us-east-1",
        "account": "111122223333",
        "keys": [ARN],
        "host": "kms.x",
        "port": 443,
        "roots": ["-"],
        "credentials": "pushed",
    }
    bounds = {
        "request_past_ms": 300_000,
        "request_future_ms": 60_000,
        "approval_past_ms": 86400000,
        "key_ttl_seconds": 60,
    }
    manifest.write_text(json.dumps({
        "v": 1, "deployment": "d", "epoch": 1, "debug": False, "node_id": "n", "kms": kms,
        "tenants": [{"id": "acme", "kms_key": ARN, "admins": admins, "threshold": 2}],
        "anchor": {"kind": "none"},
        "bounds": bounds | {"key_max_uses": 10, "max_warm_keys": 10},
    }))  # fmt: skip
    alice = str(write_key(tmp_path / "alice.pem", keys["alice"]))
    assert run("policy", "sign", str(file), "--key", alice, "-o", str(out)).exit_code == 0
    pushed = run("policy", "push", str(out), "--manifest", str(manifest))
    assert pushed.exit_code == 1
    assert "POLICY_QUORUM" in pushed.output
    assert "1 of 2 signed; not yet: bob, carol." in pushed.output


def test_policy_push_and_show(served: tuple[list[str], ScriptedEnclave], tmp_path: Path) -> None:
    options, _ = served
    file, out, back = tmp_path / "policy.json", tmp_path / "policy.dsse", tmp_path / "back.dsse"
    limit = {"id": "ten-a-day", "measure": "count", "asset": "*", "per": "tenant", "window_seconds": 86400, "max": "10"}
    times = [{"days": ["mon"], "start": "08:00", "end": "18:00"}]
    rule = dict.fromkeys(("principals", "labels", "algorithms", "paths", "content"), "*") | {
        "id": "raw", "effect": "allow", "operations": ["sign-raw"], "times": times,
        "approvals": {"role": "ops", "count": 1}, "limits": ["ten-a-day"],
    }  # fmt: skip
    file.write_bytes(policy_document(limits=[limit], rules=[rule]))
    alice = str(write_key(tmp_path / "alice.pem", Ed25519PrivateKey.generate()))
    assert run("policy", "sign", str(file), "--key", alice, "-o", str(out)).exit_code == 0
    assert "Version 1 of acme's policy is in force." in run("policy", "push", str(out), *options).output
    shown = run("policy", "show", "-o", str(back), *options)
    assert shown.exit_code == 0
    for text in ("raw", "allow", "sign-raw", "mon 08:00-18:00 UTC", "1 ops", "ten-a-day", "86400 s", "alice"):
        assert text in shown.output
    assert back.read_bytes() == out.read_bytes()
    tree = json.loads(file.read_bytes())
    assert json.loads(run("policy", "show", *options, "--json").output)["policy"] == tree
    assert '"ten-a-day"' in run("policy", "show", "--document", *options).output
    assert run("policy", "diff", str(back), str(file)).output.strip() == "No difference."
    body = {"operation": "open_session", "v": 1, "tenant": "acme", "request_id": "open-0001", "issued_at": 1}
    sealed = {"enc": "00" * 32, "ciphertext": "00"}
    text = tmp_path / "body.json"
    text.write_text(json.dumps(body | {"sealed": sealed, "expires_at": 2}))
    previewed = run("policy", "preview", str(text), "--principal", "alice", *options)  # by the policy in force
    assert previewed.exit_code == 3
    assert "POLICY_DENIED" in previewed.output
