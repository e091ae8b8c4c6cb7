"""A tenant's records are rotated while clients sign, and worker, enclave and database die on the way."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from adytum.rotation import finish, job
from adytum.rotation.errors import RotationCode, RotationError
from adytum.rotation.plan import Selection
from adytum.rotation.throttle import burst
from adytum.rotation.wiring import Rotator
from adytum.storage.rows import record_of
from adytum_sim.demo.transfer import Transfer
from adytum_sim.rotating import Site, running_rotation
from adytum_verify import verify_archived_enclave, verify_receipt
from adytum_wire.errors import Code
from adytum_wire.messages import Refusal
from adytum_wire.record import Record
from adytum_wire.results import RotationStatementResult, parse_result
from adytum_wire.types import sha256


@pytest.fixture
async def open_site() -> AsyncIterator[Any]:
    async with AsyncExitStack() as cleanup:

        async def start(records: int, **options: Any) -> Site:
            path = Path(tempfile.mkdtemp(prefix="ad-", dir="/tmp"))
            path.chmod(0o711)  # PostgreSQL runs as another user when we are root
            cleanup.callback(shutil.rmtree, path, ignore_errors=True)
            return await cleanup.enter_async_context(running_rotation(path, records=records, **options))

        yield start


async def rows(site: Site, query: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(site.host.dsn)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def record_at(site: Site, key_id: str, version: int) -> Record:
    [row] = await rows(
        site,
        "SELECT header, ciphertext_blob, data_key_ciphertext FROM key_envelopes WHERE key_id = $1 AND version = $2",
        key_id,
        version,
    )
    return record_of(row["header"], row["ciphertext_blob"], row["data_key_ciphertext"])


async def command(site: Site, *arguments: str, status: int = 0) -> dict[str, Any]:
    """`adytum rotate ...` as an operator runs it; what it printed as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from adytum.cli import main; main()", "rotate", *arguments, "-c", str(site.config),
        "--json", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == status, out
    printed: dict[str, Any] = json.loads(out)
    return printed


async def test_no_signature_fails_while_worker_enclave_and_database_die(open_site: Any) -> None:
    site: Site = await open_site(200)
    await site.put_policy(generation=2)
    old = await record_at(site, site.keys[0], 1)
    first, second = await site.worker_process(), await site.worker_process("--until-done")
    started = await site.start()
    async with site.traffic() as traffic:
        await site.until(started.id, ended=40)
        first.kill()
        await first.wait()
        await site.until(started.id, ended=80)
        await site.stack.process.kill()
        await site.stack.restart_enclave()
        await site.until(started.id, ended=120)
        await asyncio.to_thread(site.host.postgres.stop)
        await asyncio.to_thread(site.host.postgres.start)
        done = await site.until(started.id, states=("complete", "incomplete", "paused"))
        await traffic.more(20)
    assert await second.wait() == 0
    assert traffic.failed == []
    assert (done.state, done.total, done.failed, done.left) == ("complete", 200, 0, 0)
    assert done.resealed == 200

    versions = await rows(site, "SELECT key_id, array_agg(version ORDER BY version) AS v FROM key_envelopes GROUP BY 1")
    assert {tuple(row["v"]) for row in versions} == {(1, 2)}
    assert len(versions) == 200
    [made] = await rows(site, "SELECT count(*) FROM requests WHERE operation = 'reseal' AND state = 'done'")
    assert made[0] == 200

    await _old_records_are_refused_and_removed(site, started.id, old)


async def _old_records_are_refused_and_removed(site: Site, job_id: str, old: Record) -> None:
    rotator = Rotator(site.settings)
    client = rotator.client("acme")
    try:
        with pytest.raises(RotationError) as refused:  # the policy in force still allows them
            await finish.finish(site.database, client, job_id, await site.target(), issued_at=site.stack.now_ms())
        assert refused.value.code is RotationCode.FLOOR
        assert (await rows(site, "SELECT count(*) FROM key_envelopes"))[0][0] == 400
    finally:
        await rotator.close()
    await site.put_policy(generation=2, floor=2)
    await _is_retired(site, old)

    printed = await command(site, "finish", job_id)
    assert printed["shredded"] == 200
    assert (await rows(site, "SELECT count(*) FROM key_envelopes"))[0][0] == 200
    assert (await command(site, "finish", job_id))["shredded"] == 0

    report = await command(site, "report", job_id)
    assert report["job"]["state"] == "finished"
    await _the_statement_verifies(site, report["statement"])

    await site.stack.restart_enclave()  # across boots the floor holds too
    await site.host.service.ready(60)
    await _is_retired(site, old)
    async with site.traffic() as traffic:
        await traffic.more(20)
    assert traffic.failed == []


async def _is_retired(site: Site, old: Record) -> None:
    """A host that goes back to the old record is refused, whatever it is asked for but a reseal."""
    content = {"type": "ethereum-transaction", "unsigned": Transfer(nonce=1).unsigned().hex()}
    asked = {"key_id": site.keys[0], "path": "", "scheme": "ecdsa-secp256k1", "content": content}
    reply = await site.stack.ask(site.alice, "sign", record=old, **asked)
    assert isinstance(reply, Refusal)
    assert reply.code == Code.RECORD_RETIRED.value


async def _the_statement_verifies(site: Site, statement: dict[str, str]) -> None:
    """As an auditor does it, with the receipt and the archived attestation document alone."""
    [chain] = await rows(
        site,
        "SELECT DISTINCT ON (a.chain) a.document, a.binding FROM attestations a WHERE a.chain = $1"
        " ORDER BY a.chain, a.verified_at",
        json.loads(json.loads(statement["receipt"])["body"])["chain"],
    )
    enclave = verify_archived_enclave(
        chain["document"], chain["binding"], expected=site.stack.allow_list, anchors=(site.stack.kms.anchor,)
    )
    verified = verify_receipt(
        statement["receipt"].encode(), receipt_key=bytes.fromhex(enclave.binding.receipt_key)
    ).receipt
    assert verified.operation == "rotation_statement"
    assert verified.request_digest == sha256(statement["request"].encode()).hex()
    assert verified.result_digest == sha256(statement["result"].encode()).hex()
    said = parse_result(statement["result"].encode())
    assert isinstance(said, RotationStatementResult)
    assert (said.generation, said.min_generation, said.kms_key_arn) == (2, 2, site.stack.key_arn)


async def test_dry_run_pause_throttle_failures_and_cancel(open_site: Any) -> None:
    site: Site = await open_site(60)
    await site.put_policy(generation=2)
    before = await _everything(site)
    plan = (await command(site, "start", "--tenant", "acme", "--dry-run"))["plan"]
    assert (plan["records"], plan["needed"], plan["kms_calls"]) == (60, 60, 120)
    assert plan["by_generation"] == {"1": 60}
    assert await _everything(site) == before

    broken = site.keys[7]  # the host damages one record: the job goes on, and says which
    await rows(site, "UPDATE key_envelopes SET ciphertext_blob = overlay(ciphertext_blob placing 'AAAA' from 80)"
               " WHERE key_id = $1", broken)  # fmt: skip

    began = (await command(site, "start", "--tenant", "acme", "--rate", "2", "--batch", "2"))["id"]
    with pytest.raises(RotationError) as refused:
        await site.start()
    assert refused.value.code is RotationCode.ACTIVE
    async with site.worker():
        await site.until(began, ended=4)
        await _rate_is_kept(site, began, 2.0)
        await job.pause(site.database, began)
    # The worker has ended, so nothing of it is under way: what is done now stays what is done.
    held = await _resealed(site)
    assert 3 <= held < 60
    await site.work()  # a worker that ends when no job runs finds none
    assert await _resealed(site) == held
    assert (await command(site, "resume", began))["state"] == "running"
    await rows(site, "UPDATE jobs SET rate = 0")  # the rest as fast as it goes
    await site.work()
    ended = await site.progress(began)
    assert (ended.state, ended.resealed, ended.failed) == ("incomplete", 59, 1)
    report = await command(site, "report", began)
    assert report["failures"] == [{"key_id": broken, "code": "RECORD_TAMPERED", "field": ""}]
    assert report["statement"]["result"] == ""
    with pytest.raises(RotationError) as early:
        await finish.finish(site.database, _nobody(), began, await site.target(), issued_at=0)
    assert early.value.code is RotationCode.STATE

    await site.put_policy(generation=3)
    again = await site.start(Selection(label="treasury"), rate=2.0, batch=2)
    async with site.worker():
        await site.until(again.id, ended=2)
        await job.cancel(site.database, site.queue, again.id)
    [left] = await rows(site, "SELECT count(*) FROM adytum_queue.pgqueuer")
    assert left[0] == 0
    assert (await site.progress(again.id)).state == "cancelled"
    with pytest.raises(RotationError):
        await job.resume(site.database, again.id)
    async with site.host.client(site.alice) as client:
        listed = (await client.get("/v1/jobs?tenant=acme"))["jobs"]
        one = await client.get(f"/v1/jobs/{began}")
    assert [(j["id"], j["state"]) for j in listed] == [(began, "incomplete"), (again.id, "cancelled")]
    assert one["failed"] == 1
    assert (await command(site, "status", began))["left"] == 0
    assert (await command(site, "status", began, "--watch", status=1))["state"] == "incomplete"
    assert [found["id"] for found in (await command(site, "list"))["jobs"]] == [began, again.id]
    metrics = site.host.service.base_url + "/metrics"
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(metrics)).text
    assert 'adytum_rotation_jobs{state="incomplete"} 1.0' in text
    assert 'adytum_rotation_records{outcome="left"} 0.0' in text


def _nobody() -> Any:
    """No client: the refusal comes before anything is asked."""
    return None


async def _everything(site: Site) -> list[str]:
    found = await rows(
        site,
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM key_envelopes t UNION ALL"
        " SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM keys t UNION ALL"
        " SELECT count(*)::text FROM jobs UNION ALL SELECT count(*)::text FROM adytum_queue.pgqueuer UNION ALL"
        " SELECT count(*)::text FROM receipts WHERE request_id LIKE 'rot-%'",
    )
    return [row[0] for row in found]


async def _resealed(site: Site) -> int:
    [found] = await rows(site, "SELECT count(*) FROM key_envelopes WHERE version = 2")
    return int(found[0])


async def _rate_is_kept(site: Site, job_id: str, rate: float) -> None:
    """Never more than the bucket can have given by now, however fast or slow this machine is."""
    [found] = await rows(
        site,
        "SELECT (SELECT count(*) FROM key_envelopes WHERE version = 2) AS done,"
        " extract(epoch FROM clock_timestamp() - created_at)::float8 AS elapsed FROM jobs WHERE id = $1",
        job_id,
    )
    assert 0 < found["done"] <= burst(rate) + rate * found["elapsed"]


async def test_records_move_to_another_kms_key(open_site: Any) -> None:
    """Another KMS key is another manifest, hence another release: the old key stays listed until the job has ended."""
    site: Site = await open_site(12, second_key=True)
    other = json.loads(site.stack.manifest)["kms"]["keys"][1]
    assert (await site.target()).kms_key == site.stack.key_arn != other
    plan = (await command(site, "start", "--tenant", "acme", "--dry-run"))["plan"]
    assert plan["by_kms_key"] == {other: 12}
    refused = await command(site, "start", "--tenant", "acme", "--kms-key", site.stack.key_arn, status=1)
    assert refused["error"]["code"] == RotationCode.SELECTION
    async with site.traffic() as traffic:
        ended = await command(site, "start", "--tenant", "acme", "--kms-key", other, "--workers", "1")
        await traffic.more(10)
    assert (ended["state"], ended["resealed"], traffic.failed) == ("complete", 12, [])
    newest = await rows(site, "SELECT DISTINCT ON (key_id) kms_key_id FROM key_envelopes ORDER BY key_id, version DESC")
    assert {row[0] for row in newest} == {site.stack.key_arn}


async def test_policies_that_are_pushed_on_the_way_stop_nothing(open_site: Any) -> None:
    """What is under way is refused for the moment, and comes again: by the worker, and by the client that signs."""
    site: Site = await open_site(60)
    await site.put_policy(generation=2)
    begun = await site.start()
    async with site.worker(), site.traffic() as traffic:
        for ended in (5, 20, 35, 50):
            await site.until(begun.id, ended=ended)
            await site.put_policy(generation=2)
        done = await site.until(begun.id, states=("complete", "incomplete", "paused"))
        await traffic.more(5)
    assert (done.state, done.resealed, done.failed, traffic.failed, traffic.wrong) == ("complete", 60, 0, [], [])
    doubled = await rows(site, "SELECT key_id FROM key_envelopes GROUP BY key_id HAVING count(*) <> 2")
    assert doubled == []
