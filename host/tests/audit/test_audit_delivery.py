"""Checkpoints are asked for, verified, kept and brought to the second copies, in order and without loss."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from host_fake_enclave import ScriptedEnclave, now_ms, scripted_settings
from prometheus_client import CollectorRegistry

from adytum.app import running_service
from adytum.audit import store
from adytum.audit.checkpointer import PATIENCE_S, Checkpointer
from adytum.audit.delivery import Delivery
from adytum.audit.file_sink import FileSink
from adytum.audit.ports import Entry, SinkError
from adytum.service.gate import Proof
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome, receipt_row
from adytum_verify import checkpoint_of, verify_archived_enclave, verify_chain, verify_checkpoint
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import GenerateKey
from adytum_wire.types import Algorithm

REQUEST = GenerateKey(
    v=1, tenant="acme", request_id="r-00000001", issued_at=1, algorithm=Algorithm.SECP256K1, labels=[]
)  # what is in it does not matter here


class Boot:
    """A scripted enclave with its proof, and the receipts that the host has stored of it."""

    def __init__(self, enclave: ScriptedEnclave, database: Database) -> None:
        self.enclave = enclave
        self.database = database
        self.batcher = AuditBatcher(database)
        self.proof: Proof | None = None

    async def prove(self) -> None:
        reply = await self.enclave.attest(b"n" * 32)
        verified = verify_archived_enclave(
            reply.document, reply.binding, expected=self.enclave.allow_list, anchors=(self.enclave.pki.anchor,)
        )
        self.proof = Proof(verified, reply.document, reply.binding, now_ms())

    def decide(self, count: int) -> list[bytes]:
        return [self.enclave.receipt(REQUEST, b"raw") for _ in range(count)]

    async def keep(self, envelopes: Sequence[bytes]) -> None:
        for envelope in envelopes:
            await self.batcher.commit(Outcome(receipt=receipt_row(envelope)))

    def checkpointer(self, **options: Any) -> Checkpointer:
        made = {"every_receipts": 10, "every_s": 60.0} | options
        return Checkpointer(self.enclave, self.database, proof=lambda: self.proof, **made)

    async def kept(self) -> list[int]:
        return [n for n, _ in await store.list_checkpoints(self.database, self.enclave.boot_id, after=0, limit=100)]


@pytest.fixture
async def boot(enclave: ScriptedEnclave, database: Database) -> Any:
    made = Boot(enclave, database)
    await made.prove()
    yield made
    await made.batcher.close()


async def test_after_so_many_receipts_or_so_many_seconds(boot: Boot) -> None:
    checkpointer = boot.checkpointer()
    await boot.keep(boot.decide(3))
    await checkpointer.step(boot.enclave.boot_id, 3, 0)
    await checkpointer.step(boot.enclave.boot_id, 3, 59)
    assert await boot.kept() == []
    await checkpointer.step(boot.enclave.boot_id, 3, 60)
    assert await boot.kept() == [3]
    await checkpointer.step(boot.enclave.boot_id, 3, 600)  # nothing is new
    await boot.keep(boot.decide(10))
    await checkpointer.step(boot.enclave.boot_id, 13, 601)
    assert await boot.kept() == [3, 13]
    assert checkpointer.problem == ""
    again = boot.checkpointer()  # a restarted host goes on where the database stands
    await again.step(boot.enclave.boot_id, 13, 0)
    await again.step(boot.enclave.boot_id, 13, 1000)
    assert await boot.kept() == [3, 13]


async def test_a_checkpoint_waits_for_the_receipts_that_it_covers(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    checkpointer = boot.checkpointer()
    envelopes = boot.decide(10)
    await boot.keep(envelopes[:9])
    await checkpointer.step(boot.enclave.boot_id, 10, 0)
    assert await boot.kept() == []
    await boot.keep(envelopes[9:])
    await checkpointer.step(boot.enclave.boot_id, 10, 1)
    assert await boot.kept() == [10]
    boot.decide(10)  # never stored: not for ever
    await checkpointer.step(boot.enclave.boot_id, 20, 2)
    await checkpointer.step(boot.enclave.boot_id, 20, 2 + PATIENCE_S)
    assert await boot.kept() == [10, 20]
    assert "covers 10 receipts that are not stored" in caplog.text


async def test_a_checkpoint_that_contradicts_what_is_stored_is_kept_and_told(
    boot: Boot, fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await boot.keep(boot.decide(10))
    connection = await asyncpg.connect(fresh.dsn)
    try:  # as an administrator of the database could, who takes the trigger away
        await connection.execute(
            "ALTER TABLE receipts DISABLE TRIGGER ALL;"
            " UPDATE receipts SET envelope = (SELECT envelope FROM receipts WHERE sequence = 9) WHERE sequence = 10"
        )
    finally:
        await connection.close()
    await boot.checkpointer().step(boot.enclave.boot_id, 10, 0)
    assert await boot.kept() == [10]
    assert "contradicts the stored receipts" in caplog.text


async def test_forged_foreign_and_old_checkpoints_are_refused(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    await boot.keep(boot.decide(10))
    genuine = await boot.enclave.checkpoint()
    checkpointer = boot.checkpointer()
    await checkpointer.step(boot.enclave.boot_id, 10, 0)
    await boot.keep(boot.decide(10))
    newer = await boot.enclave.checkpoint()
    other = ScriptedEnclave()
    other.receipt(REQUEST, b"raw")
    for envelope in (
        newer.replace(b'\\"sequence\\":20', b'\\"sequence\\":21'),
        await other.checkpoint(),
        b"{}",
    ):

        async def answer(*, timeout_s: float | None = None, envelope: bytes = envelope) -> bytes:
            return envelope

        monkeypatch.setattr(boot.enclave, "checkpoint", answer)
        await checkpointer.step(boot.enclave.boot_id, 20, 1)
        assert checkpointer.problem == Code.RECEIPT_INVALID.value
        assert await boot.kept() == [10]

    async def old(*, timeout_s: float | None = None) -> bytes:
        return genuine

    restarted = boot.checkpointer()
    monkeypatch.setattr(boot.enclave, "checkpoint", old)  # an old one as the newest
    await boot.database.execute("INSERT INTO checkpoints VALUES ($1, 15, $2, 0)", boot.enclave.boot_id, newer)
    await restarted.step(boot.enclave.boot_id, 30, 0)
    assert restarted.problem == Code.RECEIPT_INVALID.value
    assert await boot.kept() == [10, 15]


async def test_nothing_is_asked_of_an_enclave_that_has_proven_nothing(boot: Boot) -> None:
    boot.proof = None
    await boot.keep(boot.decide(10))
    await boot.checkpointer().step(boot.enclave.boot_id, 10, 0)
    assert await boot.kept() == []


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE checkpoints SET envelope = ''",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
        "INSERT INTO checkpoints SELECT * FROM checkpoints ON CONFLICT (chain, sequence) DO UPDATE SET envelope = ''",
        "SET session_replication_role = replica; DELETE FROM checkpoints",
    ],
)
async def test_checkpoints_edited_in_the_database_are_refused(boot: Boot, fresh: Any, attack: str) -> None:
    await boot.keep(boot.decide(10))
    await boot.checkpointer().step(boot.enclave.boot_id, 10, 0)
    before = await fresh.rows("SELECT * FROM checkpoints")
    assert len(before) == 1
    connection = await asyncpg.connect(fresh.dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(attack)
    finally:
        await connection.close()
    assert await fresh.rows("SELECT * FROM checkpoints") == before


# --- second copies


class Flaky:
    """A sink that fails when told, before or after it has written."""

    def __init__(self, *, receipts: bool) -> None:
        self.takes_receipts = receipts
        self.name = "flaky"
        self.lines: list[bytes] = []
        self.fail: str = ""

    async def put(self, entries: Sequence[Entry]) -> None:
        if self.fail != "before":
            self.lines += [entry.line for entry in entries]
        if self.fail:
            raise SinkError("BROKEN")


@pytest.mark.parametrize("receipts", [True, False])
async def test_what_fails_comes_again_and_nothing_is_lost(
    boot: Boot, receipts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adytum.audit.delivery.PAGE", 4)
    sink = Flaky(receipts=receipts)
    delivery = Delivery(boot.database, [sink], registry=CollectorRegistry())
    checkpointer = boot.checkpointer(every_receipts=1)
    envelopes: list[bytes] = []
    for size, fail in zip((1, 9, 2, 4, 8), ("", "before", "after", "before", ""), strict=True):
        new = boot.decide(size)
        envelopes += new
        await boot.keep(new)
        await checkpointer.step(boot.enclave.boot_id, len(envelopes), len(envelopes))
        sink.fail = fail
        await delivery.step()
        assert delivery.states["flaky"].problem == ("BROKEN" if fail else "")
    unique = list(dict.fromkeys(sink.lines))
    assert [line for line in unique if checkpoint_of(line) is None] == (envelopes if receipts else [])
    marks = [mark for line in unique if (mark := checkpoint_of(line)) is not None]
    key = boot.enclave.receipt_key.public_key().public_bytes_raw()
    assert (
        [verify_checkpoint(mark, receipt_key=key).sequence for mark in marks]
        == await boot.kept()
        == [1, 10, 12, 16, 24]
    )
    before = list(sink.lines)
    await delivery.step()
    assert sink.lines == before  # up to date
    if receipts:
        verify_chain(unique, receipt_key=key).require_intact()


async def test_the_file_copy_is_what_the_verifier_takes(boot: Boot, tmp_path: Path) -> None:
    sink = FileSink(tmp_path, receipts=True, now_ms=now_ms)
    delivery = Delivery(boot.database, [sink], registry=CollectorRegistry())
    checkpointer = boot.checkpointer(every_receipts=5)
    for count in (5, 10):
        await boot.keep(boot.decide(5))
        await checkpointer.step(boot.enclave.boot_id, count, count)
    await delivery.step()
    lines = [line for path in sorted(tmp_path.iterdir()) for line in path.read_bytes().splitlines()]
    key = boot.enclave.receipt_key.public_key().public_bytes_raw()
    report = verify_chain(lines, receipt_key=key, chain=boot.enclave.boot_id)
    report.require_intact()
    assert (report.records, report.checkpoints) == (10, 2)


@pytest.mark.parametrize("required", [False, True])
async def test_a_broken_copy_stops_signing_only_where_it_is_required(boot: Boot, required: bool) -> None:
    sink = Flaky(receipts=False)
    delivery = Delivery(boot.database, [sink], registry=CollectorRegistry(), is_required=required)
    await boot.keep(boot.decide(10))
    await boot.checkpointer().step(boot.enclave.boot_id, 10, 0)
    sink.fail = "before"
    await delivery.step()
    if required:
        with pytest.raises(AdytumError) as caught:
            delivery.require()
        assert caught.value.code is Code.AUDIT_UNAVAILABLE
    else:
        delivery.require()
    sink.fail = ""
    await delivery.step()
    delivery.require()


async def test_the_service_makes_checkpoints_and_says_how_its_copies_are(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path
) -> None:
    import httpx

    copies = tmp_path / "copies"
    copies.mkdir()
    settings = scripted_settings(enclave, tmp_path)
    changed = settings.audit.model_copy(update={"checkpointReceipts": 3, "fileDirectory": copies})
    settings = settings.model_copy(update={"audit": changed})
    async with running_service(settings, enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.02) as running:
        await running.ready()
        batcher = AuditBatcher(running.database)
        for envelope in [enclave.receipt(REQUEST, b"raw") for _ in range(3)]:
            await batcher.commit(Outcome(receipt=receipt_row(envelope)))
        async with asyncio.timeout(10):
            for _ in itertools.count():
                if list(copies.iterdir()) and any(path.stat().st_size for path in copies.iterdir()):
                    break
                await asyncio.sleep(0.02)
        await batcher.close()
        async with httpx.AsyncClient(base_url=running.base_url) as http:
            health = (await http.get("/v1/health")).json()
            page = (await http.get(f"/v1/checkpoints?chain={enclave.boot_id}")).json()
            metrics = (await http.get("/metrics")).text
    assert health["second_copies"] == [{"name": "file", "problem": ""}]
    assert len(page["checkpoints"]) == 1
    assert 'adytum_audit_sink_up{sink="file"} 1.0' in metrics
    [path] = copies.iterdir()
    mark = checkpoint_of(path.read_bytes())
    assert mark is not None
    key = enclave.receipt_key.public_key().public_bytes_raw()
    assert verify_checkpoint(mark, receipt_key=key).sequence == 3


async def test_a_service_whose_copy_cannot_be_written_does_not_start(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path
) -> None:
    settings = scripted_settings(enclave, tmp_path)
    changed = settings.audit.model_copy(update={"fileDirectory": tmp_path / "absent"})
    with pytest.raises(FileNotFoundError):
        async with running_service(settings.model_copy(update={"audit": changed}), enclave=enclave, database=fresh.dsn):
            pytest.fail("it started")
