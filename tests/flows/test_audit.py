"""The whole way of an audit: a real enclave decides, the host keeps, exports and watches, and an auditor who has
nothing of ours but `adytum-verify` judges. What an administrator of the database could do to it is named."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
from click.testing import CliRunner, Result
from wallet import allow_everything

from adytum.cli import main
from adytum.client import RefusedError
from adytum_sim.host import Host, running_host, write_release
from adytum_sim.people import Person
from adytum_sim.stack import running_stack
from adytum_verify import cli as verify_cli
from adytum_wire.types import Algorithm

DECISIONS = 7


async def adytum(*arguments: object) -> Result:
    """The command, as a process of its own would run beside the service."""
    return await asyncio.to_thread(CliRunner().invoke, main, [str(argument) for argument in arguments])


def judge(capsys: Any, *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = verify_cli.main(["audit", *(str(argument) for argument in arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


async def checkpoints_of(host: Host, up_to: int) -> None:
    """Wait until a checkpoint covers `up_to` receipts."""
    async with asyncio.timeout(30):
        while not await host._fetch(f"SELECT 1 FROM checkpoints WHERE sequence >= {up_to}"):
            await asyncio.sleep(0.05)


async def rewrite(host: Host, statement: str) -> None:
    """As the owner of the database, who can take the trigger away."""
    connection = await asyncpg.connect(host.dsn)
    try:
        await connection.execute(f"ALTER TABLE receipts DISABLE TRIGGER ALL; {statement}")
    finally:
        await connection.close()


async def test_an_audit_needs_nobody_but_the_auditor(short_directory: Path, capsys: Any) -> None:
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    copies = short_directory / "copies"
    copies.mkdir()
    settings = {"audit": {"checkpointReceipts": 3, "checkpointSeconds": 0.2, "fileDirectory": str(copies)}}
    async with (
        running_stack(short_directory) as stack,
        running_host(stack, short_directory, durable=False, settings=settings) as host,
    ):
        alice, mallory = Person.new("alice"), Person.new("mallory")
        document = stack.policy([alice.as_principal("signer"), mallory.as_principal()], [allow_everything()], version=5)
        await stack.put_policy(document)
        async with host.client(alice) as client:
            for _ in range(DECISIONS - 1):
                await client.generate_key(Algorithm.ED25519, labels=["treasury"])
        async with host.client(mallory) as client:
            try:
                await client.generate_key(Algorithm.ED25519, labels=["treasury"])
            except RefusedError as error:
                assert error.code.value == "POLICY_DENIED"
        await checkpoints_of(host, DECISIONS)

        release, roots, manifest = short_directory / "release.json", short_directory / "roots.pem", "manifest.json"
        write_release(stack, release)
        trust = ["--measurements", release, "--root", roots, "--manifest", short_directory / manifest]
        url = ["--url", host.service.base_url]
        seen = ["--pcr", stack.allowed_pcrs[0], "--roots", roots, "--manifest", short_directory / manifest]

        file = short_directory / "audit.jsonl"
        done = await adytum("audit", "export", *url, "--out", file)
        assert done.exit_code == 0, done.output
        [copy] = copies.iterdir()
        async with asyncio.timeout(10):
            while copy.stat().st_size == 0:
                await asyncio.sleep(0.02)
        status, found = judge(capsys, file, *trust)
        assert (status, found["records"], found["newest_checkpoint"]) == (0, DECISIONS, DECISIONS)
        decisions = [json.loads(json.loads(x)["body"]) for x in file.read_bytes().splitlines() if b'{"body"' in x[:8]]
        assert [d["decision"] for d in decisions] == ["allow"] * (DECISIONS - 1) + ["deny"]  # refusals too

        for command in (["verify"], ["watch", "--once"]):
            done = await adytum("audit", *command, *url, *seen, "--checkpoints", copy)
            assert done.exit_code == 0, done.output
            assert "VERIFIED" in done.output
        assert (await adytum("audit", "export", *url, "--out", file)).exit_code == 1  # it is there
        assert (await adytum("audit", "export", *url, "--out", file.parent / "no" / "where")).exit_code == 1
        again = await adytum("audit", "export", *url, "--out", file, "--resume", "--json")
        assert json.loads(again.output)["receipts"] == 0

        await rewrite(host, f"DELETE FROM receipts WHERE sequence > {DECISIONS - 2}")
        cut = short_directory / "cut.jsonl"
        assert (await adytum("audit", "export", *url, "--out", cut)).exit_code == 0
        hidden = short_directory / "hidden.jsonl"  # and the host leaves its checkpoints out as well
        hidden.write_bytes(b"".join(x for x in cut.read_bytes().splitlines(True) if b'{"checkpoint"' not in x[:14]))
        for arguments in ([cut, *trust], [hidden, *trust, "--checkpoints", copy]):
            status, found = judge(capsys, *arguments)
            assert (status, found["defect"], found["sequence"]) == (1, "truncated", DECISIONS - 1)
        for command in (["verify"], ["watch", "--once"]):
            done = await adytum("audit", *command, *url, *seen, "--checkpoints", copy)
            assert done.exit_code == 1, done.output
            assert f"Record {DECISIONS - 1} " in done.output
            assert "truncated" in done.output


async def test_an_export_goes_on_where_it_was_interrupted(short_directory: Path, capsys: Any) -> None:
    short_directory.chmod(0o711)
    settings = {"audit": {"checkpointReceipts": 2, "checkpointSeconds": 0.1}}
    async with (
        running_stack(short_directory) as stack,
        running_host(stack, short_directory, durable=False, settings=settings) as host,
    ):
        alice = Person.new("alice")
        await stack.put_policy(stack.policy([alice.as_principal("signer")], [allow_everything()], version=5))
        async with host.client(alice) as client:
            for _ in range(6):
                await client.generate_key(Algorithm.ED25519, labels=["treasury"])
        await checkpoints_of(host, 6)
        release, url = short_directory / "release.json", ["--url", host.service.base_url]
        write_release(stack, release)
        trust = ["--measurements", release, "--root", short_directory / "roots.pem"]
        whole, part = short_directory / "whole.jsonl", short_directory / "part.jsonl"
        assert (await adytum("audit", "export", *url, "--out", whole)).exit_code == 0
        data = whole.read_bytes()
        for cut in (len(data) - 1, len(data) // 2, len(data) // 3, data.index(b"\n") + 1, 5, 0):
            part.write_bytes(data[:cut])
            done = await adytum("audit", "export", *url, "--out", part, "--resume")
            assert done.exit_code == 0, done.output
            assert judge(capsys, part, *trust)[0] == 0
            assert part.read_bytes() == data
        for wrong in (b"rubbish", b"rubbish\n", data.replace(data[28:60], b"0" * 32)):
            part.write_bytes(wrong)
            done = await adytum("audit", "export", *url, "--out", part, "--resume")
            assert done.exit_code == 1
            assert "not an audit file of chain" in done.output
            assert part.read_bytes() == wrong
