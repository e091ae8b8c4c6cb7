"""`adytum approve` and `adytum requests`, as somebody at a terminal uses them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from approval_parts import KEY_ID, TENANT, UNSIGNED, Bench
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from host_fake_enclave import ScriptedEnclave

from adytum.cli import main
from adytum_sim.people import Person
from adytum_wire.errors import Code

_CLEAN = dict.fromkeys(("ADYTUM_URL", "ADYTUM_TENANT", "ADYTUM_KEY", "ADYTUM_PCRS", "ADYTUM_CONFIG"))


class Terminal:
    """Runs commands in a thread: they block, and the service lives in our loop."""

    def __init__(self, bench: Bench, enclave: ScriptedEnclave, directory: Path) -> None:
        self._roots = directory / "cli-root.pem"
        self._roots.write_bytes(enclave.pki.root_pem)
        self._bench, self._enclave, self._directory = bench, enclave, directory

    def key(self, person: Person) -> str:
        path = self._directory / f"{person.name}.pem"
        key: Any = person.signer._key
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(path)

    async def run(self, person: Person | None, *arguments: str, says: str | None = None) -> Result:
        options = ["--url", self._bench.service.base_url, "--tenant", TENANT, "--roots", str(self._roots)]
        options += ["--pcr", self._enclave.allowed[0]]
        if person is not None:
            options += ["--key", self.key(person)]
        line = [*arguments[:2], *options, *arguments[2:]]
        result = await asyncio.to_thread(CliRunner().invoke, main, line, input=says, env=_CLEAN)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result


@pytest.fixture
def terminal(bench: Bench, enclave: ScriptedEnclave, tmp_path: Path) -> Terminal:
    return Terminal(bench, enclave, tmp_path)


async def test_look_approve_and_see_it_done(terminal: Terminal, bench: Bench) -> None:
    await bench.ask()
    listed = await terminal.run(None, "approve", "list")
    assert listed.exit_code == 0, listed.output
    assert "r-payment-01" in listed.output
    assert "2 more of approver (bob, carol, dave)" in listed.output
    shown = await terminal.run(None, "approve", "show", "r-payment-01")
    assert shown.exit_code == 0, shown.output
    assert "0x3535353535353535353535353535353535353535" in shown.output
    assert "asked by" in shown.output
    bob = await terminal.run(bench.people.bob, "approve", "sign", "r-payment-01", says="y\n")
    assert bob.exit_code == 0, bob.output
    assert "Approve this request? [y/N]" in bob.output
    assert "1 more of approver (carol, dave)" in bob.output
    carol = await terminal.run(bench.people.carol, "approve", "sign", "r-payment-01", "--yes", "--json")
    assert carol.exit_code == 0, carol.output
    assert json.loads(carol.output)["requests"][0]["approvals"][0]["principal"] == "bob"
    done = await terminal.run(None, "requests", "show", "r-payment-01", "--wait", "20", "--json")
    assert json.loads(done.output)["state"] == "done"


async def test_who_asks_on_the_command_line_gets_the_answer_later(terminal: Terminal, bench: Bench) -> None:
    alice = bench.people.alice
    plain = await terminal.run(alice, "sign", "ethereum", KEY_ID, UNSIGNED, "--request-id", "r-plain-0001")
    assert plain.exit_code == 1
    assert "not yet: request r-plain-0001 waits for approvals. Wanted: 2 more of approver (bob, carol, dave)" in (
        plain.output
    )
    asked = await terminal.run(alice, "sign", "ethereum", KEY_ID, UNSIGNED, "--json", "--request-id", "r-payment-01")
    error = json.loads(asked.output)["error"]
    assert (asked.exit_code, error["code"]) == (1, Code.REQUEST_PENDING.value)
    early = await terminal.run(alice, "requests", "answer", "-", says=error["body"])
    assert early.exit_code == 1
    for person in (bench.people.bob, bench.people.carol):
        assert (await terminal.run(person, "approve", "sign", "r-payment-01", "--yes")).exit_code == 0
    later = await terminal.run(alice, "requests", "answer", "-", "--wait", "20", says=error["body"])
    assert later.exit_code == 0, later.output
    assert "raw_transaction" in later.output


async def test_no_is_no(terminal: Terminal, bench: Bench, fresh: Any) -> None:
    await bench.ask()
    for said in ("n\n", "\n"):
        result = await terminal.run(bench.people.bob, "approve", "sign", "r-payment-01", says=said)
        assert result.exit_code == 1
    asked = await terminal.run(bench.people.bob, "approve", "sign", "r-payment-01", "--json")
    assert asked.exit_code == 2
    pinned = await terminal.run(bench.people.bob, "approve", "sign", "r-payment-01", "--yes", "--policy-version", "7")
    assert pinned.exit_code == 1
    assert await fresh.count("approvals") == 0


async def test_reject(terminal: Terminal, bench: Bench) -> None:
    await bench.ask()
    result = await terminal.run(bench.people.dave, "approve", "reject", "r-payment-01", "--yes")
    assert result.exit_code == 0, result.output
    done = await terminal.run(None, "requests", "show", "r-payment-01", "--wait", "20")
    assert "rejected" in done.output
    again = await terminal.run(bench.people.carol, "approve", "sign", "r-payment-01", "--yes")
    assert again.exit_code == 1
    assert Code.APPROVALS_REJECTED.value in again.output


async def test_several_at_once_are_one_signature(terminal: Terminal, bench: Bench, fresh: Any) -> None:
    ids = ["r-payroll-1", "r-payroll-2", "r-payroll-3"]
    for request_id in ids:
        await bench.ask(request_id)
    result = await terminal.run(bench.people.bob, "approve", "sign", *ids, says="y\n")
    assert result.exit_code == 0, result.output
    assert "Approve these 3 requests?" in result.output
    rows = await fresh.rows("SELECT DISTINCT digest FROM approvals")
    assert len(rows) == 1


async def test_requests_can_be_listed_and_taken_back(terminal: Terminal, bench: Bench) -> None:
    await bench.ask()
    thief = await terminal.run(bench.people.bob, "requests", "cancel", "r-payment-01")
    assert thief.exit_code == 1
    assert Code.STAMP_INVALID.value in thief.output
    mine = await terminal.run(bench.people.alice, "requests", "cancel", "r-payment-01")
    assert mine.exit_code == 0, mine.output
    listed = await terminal.run(None, "requests", "list", "--state", "cancelled", "--json")
    assert [r["request_id"] for r in json.loads(listed.output)["requests"]] == ["r-payment-01"]


async def test_a_security_key_that_is_not_there_is_a_sentence(terminal: Terminal, bench: Bench) -> None:
    await bench.ask()
    result = await terminal.run(None, "approve", "sign", "r-payment-01", "--yes", "--fido2", "bob")
    assert result.exit_code == 1
    assert "the policy has no passkey of bob" in result.output
    unknown = await terminal.run(None, "approve", "sign", "r-payment-01", "--yes")
    assert unknown.exit_code == 2
    assert "--key is needed" in unknown.output
