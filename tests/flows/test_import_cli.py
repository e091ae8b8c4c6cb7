"""`adytum keys import` and `adytum recover` as somebody uses them, against a whole deployment."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from eth_account import Account
from outsider import open_record
from vault_files import GOOD_MNEMONIC, headed_share, keystore, legacy_share
from wallet import SUITE, allow_everything

from adytum.cli import main
from adytum.client import KeyApprover
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import running_stack
from adytum_wire.record import parse_header

OPERATIONS = ["import_file", "import_key", "seal", "derive_key", "generate_key", "generate_seed"]
PEM = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(slots=True)
class Desk:
    """A host, alice's key on disk, and the command line with the options that find them."""

    host: Host
    directory: Path
    holders: list[X25519PrivateKey]
    bob: Person
    rescue: X25519PrivateKey

    async def approve(self, request_id: str) -> None:
        async with self.host.client(self.bob) as client:
            review = await client.approvals.review(request_id)
            await client.approvals.approve(review, KeyApprover(self.bob.signer))

    async def run(self, *arguments: str, code: int = 0, client: bool = True) -> Any:
        """The JSON that a command prints, or its text."""
        result: Result = await asyncio.to_thread(self._invoke, arguments, client)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return json.loads(result.stdout) if "--json" in arguments else result.output

    def _invoke(self, arguments: tuple[str, ...], client: bool) -> Result:
        options: tuple[str, ...] = ()
        if client:
            options = (
                "--url", self.host.service.base_url, "--tenant", "acme", "--key", str(self.directory / "alice.pem"),
                "--roots", str(self.directory / "roots.pem"), "--pcr", self.host.stack.allowed_pcrs[0],
            )  # fmt: skip
        result = CliRunner().invoke(main, [*arguments, *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def settings(self) -> tuple[str, str]:
        """The option that names the operator's settings."""
        stack = self.host.stack
        made = {"tee": {"kmsKeyARN": stack.key_arn, "allowedPCRs": stack.allowed_pcrs}}
        data = yaml.safe_dump(made | {"database": {"dsn": self.host.dsn}}).encode()
        return "-c", str(self.write("adytum.yaml", data))

    def holder_files(self, *places: int) -> list[str]:
        found = []
        for place in places:
            path = self.write(f"holder{place}.pem", self.holders[place].private_bytes(*PEM))
            found += ["--key", str(path)]
        return found


@pytest.fixture
async def desk(short_directory: Path) -> AsyncIterator[Desk]:
    short_directory.chmod(0o711)  # the database runs as somebody else
    alice = Person.new("alice")
    bob, rescue = Person.new("bob"), X25519PrivateKey.generate()
    holders = [X25519PrivateKey.generate() for _ in range(3)]
    async with (
        running_stack(short_directory / "stack") as stack,
        running_host(stack, short_directory, durable=False) as host,
    ):
        rule = allow_everything("work", operations=OPERATIONS)
        asked = {"approvals": {"role": "approver", "count": 1}}
        slow = allow_everything("slow", operations=["import_file"], labels=["slow"], **asked)
        leave = allow_everything("leave", operations=["export"], **asked)
        people = [alice.as_principal("signer"), bob.as_principal("approver")]
        document = stack.policy(people, [rule, slow, leave], version=5)
        public = rescue.public_key().public_bytes_raw().hex()
        document["recipients"] = [{"id": "rescue", "public_key": public}]
        keys = [holder.public_key().public_bytes_raw().hex() for holder in holders]
        document["recovery"] = {"threshold": 2, "keys": keys}
        async with host.client(alice) as client:
            await client.put_policy(signed_policy(document, *stack.admins))
        desk = Desk(host, short_directory, holders, bob, rescue)
        desk.write("alice.pem", alice.signer._key.private_bytes(*PEM))
        yield desk


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {Path(line["path"]).name: line["outcome"] for line in report["files"]}


async def test_a_folder_comes_in_is_found_again_and_can_be_recovered(desk: Desk) -> None:
    account, raw, share = Account.create(), Account.create(), os.urandom(500)
    name = f"UTC--2026-01-02T03-04-05Z--{account.address[2:].lower()}"
    desk.write(f"old/{name}", keystore(account.key, "pass word"))
    desk.write("old/raw.txt", b"0x" + raw.key.hex().encode() + b"\n")
    desk.write("old/key-7/node-1.enc", legacy_share(share, b"pass word"))
    desk.write("old/key-7/node-1.keydata.enc", legacy_share(b"save data", b"pass word"))
    desk.write("old/new.mpc", headed_share(share, b"pass word"))
    wrong = Account.create()
    desk.write(f"old/{wrong.address}.json", keystore(account.key, "pass word").replace(b'"address"', b'"label"'))
    desk.write("old/kms.mpc", headed_share(share, b"pass word", mode=1))
    desk.write("old/zero.hex", b"0" * 64)
    desk.write("old/again.txt", raw.key.hex().upper().encode())
    (desk.directory / "old/broken.enc").symlink_to("/proc/self/mem")
    desk.write("old/notes.txt", b"call bob")
    desk.write("old/.hidden", b"x")
    password = desk.write("password", b"pass word\n")
    folder = str(desk.directory / "old")
    import_it = ["keys", "import", folder, "--expected-from-filename", "--label", "treasury", "--json"]
    import_it += ["--algorithm", "secp256k1"]

    dry = await desk.run(*import_it, "--dry-run", code=1)
    assert dry["counts"] == {"would-import": 7, "refused": 4}
    assert await desk.host.records() == []
    refused = {name for name, outcome in outcomes(dry).items() if outcome == "refused"}
    assert refused == {"notes.txt", "kms.mpc", "zero.hex", "broken.enc"}
    seen = {Path(line["path"]).name: line for line in dry["files"]}
    assert (seen["raw.txt"]["address"], seen["raw.txt"]["unchecked"]) == (raw.address, "")
    assert seen[name]["unchecked"] == "the password, and the key inside"
    assert seen["zero.hex"]["reason"] == "not a private key of secp256k1"
    assert seen["broken.enc"]["reason"].startswith("cannot be read")

    report_file = desk.directory / "report.json"
    first = await desk.run(*import_it, "--password-file", str(password), "--report", str(report_file), code=1)
    assert first["counts"] == {"imported": 5, "found": 1, "refused": 5}
    assert json.loads(report_file.read_text()) == first
    lines = {Path(line["path"]).name: line for line in first["files"]}
    assert lines[name]["address"] == account.address
    twice = {lines[name]["outcome"]: lines[name]["address"] for name in ("raw.txt", "again.txt")}
    assert twice == {"imported": raw.address, "found": raw.address}
    assert lines["raw.txt"]["same_as"] == str(desk.directory / "old/again.txt")
    assert lines[f"{wrong.address}.json"]["code"] == "IMPORT_INVALID"
    assert lines[f"{wrong.address}.json"]["reason"].startswith("$.expected")
    assert "pass word" not in json.dumps(first)

    again = await desk.run(*import_it, "--password-file", str(password), code=1)
    assert again["counts"] == {"found": 6, "refused": 5}
    known = ("key_id", "address", "public_key", "algorithm")
    found = {Path(line["path"]).name: [line[name] for name in known] for line in again["files"]}
    assert found == {name: [line[one] for one in known] for name, line in lines.items()}
    assert len(await desk.host.records()) == 5

    out = desk.directory / "envelopes"
    exported = await desk.run(
        "recover", "export-envelopes", *desk.settings(), "--out", str(out), "--json", client=False
    )
    assert exported == {"written": 5, "without": 0}
    drilled = await desk.run("recover", "drill", str(out), *desk.holder_files(0, 2), "--json", client=False)
    assert [line["failed"] for line in drilled["opened"]] == [False] * 5
    assert sum("its own" in line["outcome"] for line in drilled["opened"]) == 2
    drilled = await desk.run("recover", "drill", str(out), *desk.holder_files(1), "--json", client=False, code=1)
    assert [line["failed"] for line in drilled["opened"]] == [True] * 5


async def test_one_envelope_opens_for_a_recipient_and_says_nothing_secret(desk: Desk) -> None:
    account = Account.create()
    file = desk.write("k.json", keystore(account.key, "p"))
    password = desk.write("password", b"p")
    await desk.run("keys", "import", str(file), "--label", "treasury", "--password-file", str(password))
    (record,) = await desk.host.records()
    secret = open_record(desk.host.stack, record)[1]
    assert secret == account.key
    rows = await desk.host._fetch("SELECT key_id, version, envelope FROM recovery_envelopes")
    envelope = desk.write("one.recovery", bytes(rows[0]["envelope"]))
    open_it = ["recover", "open", "--envelope", str(envelope), *desk.holder_files(1, 2)]

    text = await desk.run(*open_it, client=False)
    assert "the public key is its own" in text
    assert secret.hex() not in text
    rescue = X25519PrivateKey.generate()
    sealed = desk.directory / "key.sealed"
    public = rescue.public_key().public_bytes_raw().hex()
    await desk.run(*open_it, "--recipient", public, "--out", str(sealed), client=False)
    info = b"adytum/recovered/v1\0" + parse_header(record.header).key_id.encode()
    assert SUITE.decrypt(sealed.read_bytes(), rescue, info) == secret
    clear = desk.directory / "key.bin"
    await desk.run(*open_it, "--out", str(clear), client=False, code=2)
    assert not clear.exists()
    await desk.run(*open_it, "--out", str(clear), "--write-the-secret-in-the-clear", client=False)
    assert clear.read_bytes() == secret
    assert clear.stat().st_mode & 0o777 == 0o600
    broken = desk.write("broken.recovery", envelope.read_bytes()[:-1] + b"\0")
    await desk.run("recover", "open", "--envelope", str(broken), *desk.holder_files(1, 2), client=False, code=1)


async def test_a_mnemonic_and_its_passphrase(desk: Desk) -> None:
    file = desk.write("words.txt", b"  " + GOOD_MNEMONIC.upper().replace(" ", "\n").encode() + b"\n")
    password = desk.write("passphrase", "cafe\u0301 TREZOR".encode())
    Account.enable_unaudited_hdwallet_features()
    told = await desk.run(
        "keys", "import", str(file), "--label", "treasury", "--password-file", str(password), "--json"
    )
    key_id = told["files"][0]["key_id"]
    derived = await desk.run("keys", "derive", key_id, "m/44'/60'/0'/0/0", "--json")
    theirs = Account.from_mnemonic(GOOD_MNEMONIC, passphrase="caf\u00e9 TREZOR").address
    assert derived["result"]["addresses"]["ethereum"] == theirs
    # another passphrase is another seed, not the one that is there
    other = desk.write("other", b"another")
    told = await desk.run("keys", "import", str(file), "--label", "treasury", "--password-file", str(other), "--json")
    assert told["counts"] == {"imported": 1}


@pytest.mark.parametrize("algorithm", ["secp256k1", "p256", "ed25519"])
async def test_a_recovered_key_goes_back_in_as_what_it_was(desk: Desk, algorithm: str) -> None:
    made = (await desk.run("keys", "generate", algorithm, "--label", "treasury", "--json"))["result"]
    await desk.run("recover", "export-envelopes", *desk.settings(), "--out", str(desk.directory / "e"), client=False)
    [envelope] = (desk.directory / "e").iterdir()
    assert envelope.name == f"{made['key_id']}.1.recovery"
    file = envelope.with_suffix(".hex")
    open_it = ["recover", "open", "--envelope", str(envelope), *desk.holder_files(0, 1), "--json", "--hex"]
    opened = await desk.run(*open_it, "--out", str(file), "--write-the-secret-in-the-clear", client=False)
    assert (opened["algorithm"], opened["public_key"]) == (algorithm, made["public_key"])

    import_it = ["keys", "import", str(file), "--label", "treasury", "--json"]
    for other in {"secp256k1", "p256", "ed25519"} - {algorithm}:
        told = await desk.run(*import_it, "--algorithm", other, code=1)
        assert told["files"][0]["reason"] == f"the recovery envelope beside it says that it is a key of {algorithm}"
    away = desk.write("away.hex", file.read_bytes())
    told = await desk.run("keys", "import", str(away), "--label", "treasury", "--json", code=1)
    assert "--algorithm" in told["files"][0]["reason"]
    for other in {"secp256k1", "p256", "ed25519"} - {algorithm}:
        arguments = ["keys", "import", str(away), "--expected", made["public_key"], "--algorithm", other, "--json"]
        assert (await desk.run(*arguments, code=1))["files"][0]["reason"] == "it is not the expected key"
    assert len(await desk.host.records()) == 1

    [line] = (await desk.run(*import_it))["files"]
    assert (line["outcome"], line["algorithm"], line["public_key"]) == ("imported", algorithm, made["public_key"])
    again = (await desk.run("keys", "show", line["key_id"], "--json")) | {"key_id": ""}
    assert (again["algorithm"], again["public_key"]) == (algorithm, made["public_key"])
    arguments = ["keys", "import", str(away), "--expected", made["public_key"], "--algorithm", algorithm]
    [found] = (await desk.run(*arguments, "--label", "treasury", "--json"))["files"]
    assert (found["outcome"], found["key_id"]) == ("found", line["key_id"])


async def test_what_cannot_go_back_in_is_refused_by_name(desk: Desk) -> None:
    await desk.run("keys", "seed", "--label", "treasury")
    await desk.run("recover", "export-envelopes", *desk.settings(), "--out", str(desk.directory / "e"), client=False)
    [envelope] = (desk.directory / "e").iterdir()
    file = envelope.with_suffix(".hex")
    open_it = ["recover", "open", "--envelope", str(envelope), *desk.holder_files(0, 1), "--hex", "--out", str(file)]
    await desk.run(*open_it, "--write-the-secret-in-the-clear", client=False)
    told = await desk.run("keys", "import", str(file), "--label", "treasury", "--format", "raw-hex", "--json", code=1)
    assert told["counts"] == {"refused": 1}
    file.write_bytes(file.read_bytes()[:64])  # somebody cuts it to what a key looks like
    told = await desk.run("keys", "import", str(file), "--algorithm", "ed25519", "--json", code=1)
    assert "hd-seed" in told["files"][0]["reason"]
    assert len(await desk.host.records()) == 1


async def test_a_report_that_cannot_be_written_is_said_before_anything_is_sent(desk: Desk) -> None:
    file = desk.write("k.hex", os.urandom(32).hex().encode())
    report = str(desk.directory / "no" / "where.json")
    arguments = ["keys", "import", str(file), "--label", "treasury", "--algorithm", "p256", "--report", report]
    told = await desk.run(*arguments, "--json", code=1)
    assert told["error"]["code"] == "SYSTEM"
    assert await desk.host.records() == []


async def test_requests_are_listed_a_page_at_a_time(desk: Desk) -> None:
    for number in range(5):
        await desk.run("keys", "generate", "p256", "--label", "treasury", "--request-id", f"request-{number}")
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await desk.run("requests", "list", "--limit", "2", "--after", after, "--json")
        seen += [line["request_id"] for line in page["requests"]]
        after = page["next_after"]
        assert len(seen) <= 5
    assert seen == [f"request-{number}" for number in range(5)]
    assert "more: --after request-1" in await desk.run("requests", "list", "--limit", "2")
    assert "more:" not in await desk.run("requests", "list")


async def test_every_failure_is_json_for_a_program(desk: Desk) -> None:
    bad = desk.write("bad.pem", b"no key")
    desk.write("e/a.recovery", b"x")
    told = await desk.run(
        "recover", "drill", str(desk.directory / "e"), "--key", str(bad), "--json", client=False, code=1
    )
    assert told["error"]["code"] == "FAILED"
    assert "bad.pem" in told["error"]["text"]
    told = await desk.run("keys", "import", str(bad), "--expected", "me", "--json", code=2)
    assert told["error"]["code"] == "USAGE"


async def test_wrong_usage(desk: Desk) -> None:
    file = desk.write("k.json", keystore(b"\x01" * 32, "p"))
    assert "--password-file" in await desk.run("keys", "import", str(file), code=2)
    empty = desk.directory / "empty"
    empty.mkdir()
    await desk.run("keys", "import", str(empty), code=2)
    wrong = desk.write("wrong", b"not it")
    told = await desk.run(
        "keys", "import", str(file), "--label", "treasury", "--password-file", str(wrong), "--json", code=1
    )
    assert told["files"][0]["code"] == "IMPORT_INVALID"
    assert await desk.host.records() == []


async def test_an_import_that_waits_and_an_export_to_its_recipient(desk: Desk) -> None:
    account = Account.create()
    file = desk.write("k.json", keystore(account.key, "p"))
    password = desk.write("password", b"p")
    import_it = ["keys", "import", str(file), "--password-file", str(password), "--json"]
    told = await desk.run(*import_it, "--label", "slow", code=1)
    assert told["counts"] == {"waiting": 1}
    assert (await desk.run(*import_it, "--label", "slow", code=1))["counts"] == {"waiting": 1}
    assert await desk.host.records() == []
    key_id = (await desk.run(*import_it, "--label", "treasury"))["files"][0]["key_id"]

    out = desk.directory / "export.json"
    asked = await desk.run("keys", "export", key_id, "rescue", "--out", str(out), "--json", code=1)
    assert asked["error"]["code"] == "REQUEST_PENDING"
    assert not out.exists()
    await desk.approve(asked["error"]["request_id"])
    body = desk.write("body", asked["error"]["body"].encode())
    answer = await desk.run("requests", "answer", str(body), "--wait", "60", "--json")
    desk.write("export.json", json.dumps(answer).encode())
    pem, clear = desk.write("rescue.pem", desk.rescue.private_bytes(*PEM)), desk.directory / "key.bin"
    open_it = ["keys", "open-export", str(out), "--key", str(pem), "--out", str(clear), "--json"]
    opened = await desk.run(*open_it, client=False)
    assert opened == {"key_id": key_id, "kind": "signing-key", "bytes": 32, "written": str(clear)}
    assert clear.read_bytes() == account.key
    other = desk.write("other.pem", X25519PrivateKey.generate().private_bytes(*PEM))
    none = desk.directory / "none"
    await desk.run("keys", "open-export", str(out), "--key", str(other), "--out", str(none), client=False, code=1)
    assert not none.exists()
