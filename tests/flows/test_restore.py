"""A backup under traffic, a restore into an empty database, and a drill in an enclave of its own: by the commands that
an operator runs. Then the backup is damaged, cut and mixed, and each time the restore says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from wallet import TRANSFER, allow_everything, unsigned

from adytum.cli import main
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import dsse
from adytum_wire.pae import USAGE_RESET, pae
from adytum_wire.types import Algorithm

PEM = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
LIMIT = {"id": "daily", "measure": "count", "asset": "*", "per": "tenant", "window_seconds": 3600, "max": "1000"}
OPERATIONS = ["generate_key", "generate_seed", "seal", "reseal", "disable_key"]


@dataclass(slots=True)
class Bank:
    """A deployment whose operator has the command line, a second copy on disk, and as many databases as he likes."""

    stack: Stack
    host: Host
    place: Path
    alice: Person
    rotator: Person
    keys: list[str] = field(default_factory=list)
    version: int = 1
    numbers: int = 0

    async def put_policy(self) -> None:
        self.version += 1
        rules = [
            allow_everything("make", operations=OPERATIONS),
            allow_everything("pay", operations=["sign"], limits=["daily"]),
            allow_everything("rotate", operations=["reseal"], principals=["role:rotator"], labels="*"),
        ]
        people = [self.alice.as_principal("signer"), self.rotator.as_principal("rotator")]
        document = self.stack.policy(people, rules, version=self.version)
        document["limits"] = [LIMIT]
        async with self.host.client(self.alice) as client:
            await client.put_policy(signed_policy(document, *self.stack.admins))
            boot = (await client.attestation()).binding.boot_id
            data = json.dumps({"v": 1, "tenant": TENANT, "boot_id": boot, "limits": "*"}).encode()
            signed = [(a.public_key, a.sign(pae(USAGE_RESET, data))) for a in self.stack.admins]
            await client.reset_usage(dsse.build(USAGE_RESET, data, signed))

    async def sign(self, key_id: str = "") -> None:
        async with self.host.client(self.alice) as client:
            await client.sign_ethereum(key_id or self.keys[0], bytes.fromhex(unsigned(TRANSFER)))

    async def empty(self) -> str:
        """A new database; its connection string."""
        self.numbers += 1
        await self.sql(f"CREATE DATABASE copy{self.numbers}")
        return self.host.postgres.dsn(f"copy{self.numbers}")

    async def sql(self, statement: str, dsn: str = "") -> None:
        connection = await asyncpg.connect(dsn or self.host.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def run(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        words = [str(one) for one in (*arguments, "-c", self.place / "adytum.yaml", "--json")]
        result = await asyncio.to_thread(CliRunner().invoke, main, words)
        assert result.exit_code == code, (result.output, result.exception)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    async def backup(self, name: str = "backup") -> Path:
        await self.run("backup", "create", "--out", self.place / name)
        return self.place / name

    def checkpoints(self) -> Path:
        return self.place / "copies"

    async def copied(self, up_to: int) -> None:
        """Wait until the second copy has a checkpoint that covers so many receipts."""
        async with asyncio.timeout(30):
            while True:
                for file in self.checkpoints().iterdir():
                    for line in file.read_text().splitlines():
                        if json.loads(json.loads(line)["checkpoint"]["body"])["sequence"] >= up_to:
                            return
                await asyncio.sleep(0.05)


def lacks(report: dict[str, Any]) -> set[str]:
    return {finding["lack"] for finding in report["findings"]}


@pytest.fixture
async def bank(short_directory: Path) -> AsyncIterator[Bank]:
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    place = short_directory / "h"
    (place / "copies").mkdir(parents=True)
    place.chmod(0o711)
    audit = {"checkpointReceipts": 1, "checkpointSeconds": 0.1, "fileDirectory": str(place / "copies")}
    async with (
        running_stack(short_directory / "s", configure=False, anchor={"kind": "host"}) as stack,
        running_host(stack, place, durable=False, settings={"audit": audit}) as host,
    ):
        bank = Bank(stack, host, place, Person.new("alice"), Person.new("rotator"))
        (place / "rotator.pem").write_bytes(bank.rotator.signer._key.private_bytes(*PEM))
        tee = {
            "kmsKeyARN": stack.key_arn,
            "allowedPCRs": stack.allowed_pcrs,
            "manifestFile": str(place / "manifest.json"),
            "attestationRootsFile": str(place / "roots.pem"),
            "developmentDirectory": str(stack.directory),
        }
        aws = {
            "accessKeyId": stack.credentials.access_key_id,
            "secretAccessKey": stack.credentials.secret_access_key,
            "sessionToken": stack.credentials.session_token,
        }
        made = {"tee": tee, "database": {"dsn": host.dsn}, "rotation": {"signerFile": str(place / "rotator.pem")}}
        (place / "adytum.yaml").write_text(json.dumps(made | {"aws": aws}))
        await bank.put_policy()
        async with host.client(bank.alice) as client:
            for _ in range(4):
                key: Any = (await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result
                bank.keys.append(key.key_id)
            await client.generate_seed(labels=["treasury"])
            await client.seal(b"a secret of the treasury", labels=["treasury"])
            await client.disable_key(bank.keys[3])
        yield bank


async def _seems_ready(*_: object, **__: object) -> None:
    pass


async def test_a_backup_under_traffic_is_restored_checked_and_opened(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = asyncio.Event()

    async def traffic() -> int:
        count = 0
        async with bank.host.client(bank.alice) as client:
            while not stop.is_set():
                await client.generate_key(Algorithm.ED25519, labels=["treasury"])
                count += 1
        return count

    task = asyncio.create_task(traffic())
    try:
        async with asyncio.timeout(20):
            while not await bank.host._fetch("SELECT 1 FROM keys WHERE algorithm = 'ed25519'"):
                await asyncio.sleep(0.02)
        backup = await bank.backup()
    finally:
        stop.set()
        assert await task > 0
    assert sorted(path.name for path in backup.iterdir()) == ["database.dump", "manifest.json"]
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} == {0o600}
    assert (await bank.run("backup", "create", "--out", backup, code=1))["error"]["code"] == "BACKUP_EXISTS"

    target = await bank.empty()
    report = await bank.run("restore", backup, "--into", target)
    assert report["whole"] is True, report["findings"]
    assert report["attested"] is True
    manifest = json.loads((backup / "manifest.json").read_text())
    assert report["receipts"] == sum(chain["receipts"] for chain in manifest["chains"]) > 0
    assert report["keys"] == manifest["rows"]["keys"] >= 7
    again = await bank.run("restore", backup, "--into", target, code=1)
    assert again["error"]["code"] == "RESTORE_NOT_EMPTY"

    # The enclave that serves production is not for drills: what it is shown it remembers.
    target = await bank.empty()
    used = await bank.run("restore", backup, "--into", target, "--drill", code=1)
    assert used["error"]["code"] == "DRILL_ENCLAVE"
    with monkeypatch.context() as blind:  # it is refused all the same when it shows only afterwards
        blind.setattr("adytum.backup.drill.require_ready", _seems_ready)
        late = await bank.run("restore", backup, "--into", target, "--drill", code=1)  # nothing had been restored
    assert late["drill"]["error"]["code"] == "DRILL_ENCLAVE"
    assert late["whole"] is True
    assert late["keys"] == report["keys"]
    await bank.sign()

    await bank.host.service.stop()
    await bank.stack.restart_enclave()
    drilled = await bank.run("restore", backup, "--into", await bank.empty(), "--drill", "--sample", "200")
    assert drilled["whole"] is True, drilled["findings"]
    records = drilled["drill"]["records"]
    assert drilled["drill"]["opened"] == drilled["drill"]["sampled"] == len(records) == manifest["rows"]["keys"]
    assert {record["kind"] for record in records} >= {"signing-key", "hd-seed", "secret"}
    assert all(record["sequence"] > 0 for record in records)  # the enclave's receipts, which the client has verified


async def test_a_damaged_backup_and_a_record_that_does_not_open_are_named(bank: Bank) -> None:
    backup = await bank.backup()
    damaged = bank.place / "damaged"
    shutil.copytree(backup, damaged)
    data = bytearray((damaged / "database.dump").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "database.dump").write_bytes(data)
    target = await bank.empty()
    report = await bank.run("restore", damaged, "--into", target, code=1)
    assert report["error"]["code"] == "BACKUP_DAMAGED"
    (damaged / "manifest.json").write_text("{}")
    assert (await bank.run("restore", damaged, "--into", target, code=1))["error"]["code"] == "BACKUP_MANIFEST"
    assert (await bank.run("restore", backup, "--into", target))["whole"] is True  # it is still empty

    # A record that somebody edited is no concern of counts and chains; the drill finds it.
    await bank.sql(
        "UPDATE key_envelopes SET ciphertext_blob = 'AAAA' || substr(ciphertext_blob, 5)"
        f" WHERE key_id = '{bank.keys[1]}'",
    )
    edited = await bank.backup("edited")
    await bank.host.service.stop()
    await bank.stack.restart_enclave()
    report = await bank.run("restore", edited, "--into", await bank.empty(), "--drill", code=1)
    bad = [record for record in report["drill"]["records"] if record["code"]]
    assert [(record["key_id"], record["code"]) for record in bad] == [(bank.keys[1], "RECORD_TAMPERED")]


async def test_what_a_partial_restore_lacks_is_named(bank: Bank) -> None:
    await bank.sign()
    backup = await bank.backup()
    key = bank.keys[0]
    cases: list[tuple[str, set[str]]] = [
        (f"DELETE FROM key_envelopes WHERE key_id = '{key}'",
         {"KEY_WITHOUT_RECORD", "RECORD_MISSING", "ANSWER_WITHOUT_RECORD"}),
        (f"SET session_replication_role = replica; DELETE FROM keys WHERE key_id = '{key}'",
         {"RECORD_WITHOUT_KEY", "ROWS_MISSING"}),
        (f"UPDATE keys SET status = 'deleted' WHERE key_id = '{key}'", {"DELETED_KEY_HAS_RECORD"}),
        (f"UPDATE key_envelopes SET version = version - 1 WHERE key_id = '{bank.keys[3]}'", {"ANSWER_WITHOUT_RECORD"}),
        ("ALTER TABLE receipts DISABLE TRIGGER ALL; DELETE FROM receipts WHERE sequence = 3",
         {"CHAIN_GAP", "CHAIN_BROKEN", "REQUEST_WITHOUT_RECEIPT", "ROWS_MISSING"}),
        ("DELETE FROM policies", {"POLICY_OLDER", "ROWS_MISSING"}),
        ("DELETE FROM usage_snapshots", {"USAGE_OLDER", "ROWS_MISSING"}),
        ("TRUNCATE attestations", {"CHAIN_UNATTESTED"}),
    ]  # fmt: skip
    for statement, wanted in cases:
        target = await bank.empty()
        assert (await bank.run("restore", backup, "--into", target))["whole"] is True
        await bank.sql(statement, target)
        report = await bank.run("restore", "check", "--dsn", target, "--backup", backup, code=1)
        assert wanted <= lacks(report), (statement, report["findings"])


async def test_a_database_that_was_put_back_is_named_beside_the_second_copy(bank: Bank) -> None:
    """The host restores yesterday's dump. By itself it is whole; what was noted elsewhere says how much it lacks."""
    await bank.sign()
    [before] = await bank.host._fetch("SELECT max(sequence) AS n, min(chain) AS chain FROM receipts")
    backup = await bank.backup()
    for _ in range(5):
        await bank.sign()
    await bank.copied(before["n"] + 5)
    newer = await bank.backup("newer")
    [usage] = await bank.host._fetch("SELECT tenant, version FROM usage_snapshots")

    target = await bank.empty()
    report = await bank.run("restore", backup, "--into", target)
    assert report["whole"] is True
    report = await bank.run("restore", "check", "--dsn", target, "--checkpoints", bank.checkpoints(), code=1)
    [short] = report["findings"]
    assert (short["lack"], short["subject"], short["count"]) == ("CHAIN_SHORT", before["chain"], 5)
    assert (short["expected"], short["found"]) == (before["n"] + 5, before["n"])
    report = await bank.run("restore", "check", "--dsn", target, "--backup", newer, code=1)
    assert {"CHAIN_SHORT", "USAGE_OLDER", "ROWS_MISSING"} == lacks(report)
    anchored = ["--usage", f"{usage['tenant']}={usage['version']}"]
    report = await bank.run("restore", "check", "--dsn", target, *anchored, code=1)
    assert lacks(report) == {"USAGE_OLDER"}
    everything = ["--checkpoints", bank.checkpoints(), "--backup", newer, *anchored]
    assert (await bank.run("restore", "check", *everything))["whole"] is True  # production has it all
    assert (await bank.run("restore", "check", "--backup", backup))["whole"] is True  # and more than the older one

    await bank.sql("ALTER TABLE receipts DISABLE TRIGGER ALL; DELETE FROM requests; DELETE FROM receipts", target)
    report = await bank.run("restore", "check", "--dsn", target, "--checkpoints", bank.checkpoints(), code=1)
    assert ("CHAIN_MISSING", before["n"] + 5) in {(f["lack"], f["count"]) for f in report["findings"]}

    copy = next(bank.checkpoints().iterdir())
    forged = bank.place / "forged.jsonl"
    line = json.loads(copy.read_text().splitlines()[-1])
    line["checkpoint"]["body"] = line["checkpoint"]["body"].replace('"time":1', '"time":2')
    forged.write_text(json.dumps(line, separators=(",", ":")) + "\n")
    report = await bank.run("restore", "check", "--checkpoints", forged, code=1)
    assert lacks(report) == {"CHECKPOINT_FORGED"}


async def test_the_service_says_at_its_start_what_its_database_lacks(bank: Bank) -> None:
    await bank.sign()
    async with bank.host.client(bank.alice) as client:
        assert (await client.get("/v1/health"))["database_lacks"] == []
    await bank.sql(f"DELETE FROM key_envelopes WHERE key_id = '{bank.keys[2]}'")
    watch = bank.host.service.database_watch
    watch._again_s = 0.0
    task = asyncio.create_task(watch.watch())
    try:
        async with asyncio.timeout(20), bank.host.client(bank.alice) as client:
            while not (await client.get("/v1/health"))["database_lacks"]:
                await asyncio.sleep(0.02)
            health = await client.get("/v1/health")
            metrics = (await client._http.get(bank.host.service.base_url + "/metrics")).text
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert health["ready"] is True  # said, and not refused
    found = {(lack["lack"], lack["subject"]) for lack in health["database_lacks"]}
    assert found == {("KEY_WITHOUT_RECORD", bank.keys[2]), ("ANSWER_WITHOUT_RECORD", bank.keys[2])}
    assert 'adytum_database_findings{lack="KEY_WITHOUT_RECORD"} 1.0' in metrics
    await bank.sign()
