"""PostgreSQL slow, full, read-only, locked, out of connections, killed and gone, under traffic through the real service
and enclave: clients are told to come again, health says why, and afterwards everything is as if nothing had been.

Each client sends one request until it is answered, always the same bytes. So in the end every request was answered once
and for all, each answer has its receipt, and the chain has no hole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from wallet import TRANSFER, allow_everything, unsigned

from adytum.client import AsyncAdytum, Retries
from adytum.client.errors import RefusedError, UnreachableError
from adytum.storage.embedded import EmbeddedPostgresError
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_verify import verify_archived_enclave, verify_chain
from adytum_wire.errors import Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.types import Algorithm

CLIENTS = 3
PATIENCE_S = 60
# What a client may be told while the database has trouble. All of them say: the same request again, later.
LATER = {Code.AUDIT_UNAVAILABLE, Code.STORAGE_UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED,
         Code.ATTESTATION_FAILED}  # fmt: skip


@dataclass(slots=True)
class Traffic:
    """`answers`: body to result and receipt. `codes`: what clients were told instead, and how often. `moved`: set by
    each answer and each refusal."""

    site: Site
    answers: dict[bytes, tuple[bytes, str, int]] = field(default_factory=dict)
    codes: Counter[Code] = field(default_factory=Counter)
    stopped: bool = False
    number: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, client: AsyncAdytum) -> None:
        while not self.stopped:
            self.number += 1
            await self.insist(client, self.site.body(self.number))

    async def insist(self, client: AsyncAdytum, body: bytes) -> None:
        while True:
            try:
                answer = await client.repeat(body)
            except UnreachableError as error:
                assert error.code in LATER, error
                assert error.code.retryable
                self.codes[error.code] += 1
                self.moved.set()
                await asyncio.sleep(0.05)
            else:
                receipt = answer.receipt.receipt
                assert body not in self.answers
                self.answers[body] = answer.result_bytes, receipt.chain, receipt.sequence
                self.moved.set()
                return

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self.moved.clear()
                await self.moved.wait()

    async def more(self, count: int = 10) -> None:
        wanted = len(self.answers) + count
        await self.until(lambda: len(self.answers) >= wanted)

    async def refused(self, count: int = 3) -> None:
        wanted = self.codes.total() + count
        await self.until(lambda: self.codes.total() >= wanted)


@dataclass(slots=True)
class Site:
    stack: Stack
    host: Host
    alice: Person
    key_id: str = ""

    def body(self, number: int) -> bytes:
        """Every other request makes a key: sent twice it must not make two."""
        now, name = self.stack.now_ms(), f"under-fire-{number:06d}"
        if number % 2:
            fields: dict[str, Any] = {"algorithm": "ed25519", "labels": ["treasury"]}
            return request_body(TENANT, "generate_key", now, request_id=name, **fields)
        content = {"type": "ethereum-transaction", "unsigned": unsigned(TRANSFER | {"nonce": number})}
        fields = {"key_id": self.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": content}
        return request_body(TENANT, "sign", now, request_id=name, **fields)

    def client(self) -> AsyncAdytum:
        """One that does not try again by itself."""
        return AsyncAdytum(
            self.host.service.base_url, TENANT, self.alice.signer, expected=self.stack.allow_list,
            anchors=(self.stack.kms.anchor,), manifest_hash=manifest_hash(self.stack.manifest),
            retries=Retries(attempts=1),
            http=self.http,
        )  # fmt: skip

    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=60, trust_env=False))

    async def health(self) -> tuple[int, dict[str, Any]]:
        answer = await self.http.get(self.host.service.base_url + "/v1/health")
        found: dict[str, Any] = answer.json()
        return answer.status_code, found

    async def admin(self) -> asyncpg.Connection:
        """The database's owner, whatever the default for others is."""
        return await asyncpg.connect(self.host.dsn, server_settings={"default_transaction_read_only": "off"})

    async def sql(self, *statements: str) -> None:
        connection = await self.admin()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[Traffic]:
        traffic = Traffic(self)
        tasks = [asyncio.create_task(traffic.run(self.client())) for _ in range(CLIENTS)]
        try:
            await traffic.more()
            yield traffic
        finally:
            traffic.stopped = True
            await asyncio.gather(*tasks)

    async def judge(self, traffic: Traffic) -> None:
        """The same ids give the same bytes; each answer has its receipt; the chain is whole; health is good again."""
        client = self.client()
        for body, (result, chain, sequence) in traffic.answers.items():
            again = await client.repeat(body)
            assert again.result_bytes == result
            assert (again.receipt.receipt.chain, again.receipt.receipt.sequence) == (chain, sequence)
        made = [body for body in traffic.answers if b"generate_key" in body]
        [row] = await self.host._fetch("SELECT count(*) AS n FROM keys")
        assert row["n"] == len(made) + 1  # none was made twice
        count = (await self.stack.client.health()).receipts
        async with asyncio.timeout(PATIENCE_S):  # the receipts of lost answers are fetched after some seconds
            while len(await self.host.receipts()) < count:
                await asyncio.sleep(0.1)
        [(document, binding)] = await self.host.attested_enclaves()
        enclave = verify_archived_enclave(
            document, binding, expected=self.stack.allow_list, anchors=(self.stack.kms.anchor,)
        )
        key = bytes.fromhex(enclave.binding.receipt_key)
        verify_chain(await self.host.receipts(), receipt_key=key).require_intact()
        status, health = await self.health()
        assert (status, health["ready"], health["database"], health["audit"]) == (200, True, "up", "up")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
        (directory / "h").mkdir(mode=0o711)
        async with (
            running_stack(directory / "s", configure=False) as stack,
            running_host(stack, directory / "h", durable=False, least_privilege=True) as host,
        ):
            site = Site(stack, host, Person.new("alice"))
            async with host.client(site.alice) as client:
                document = stack.policy([site.alice.as_principal("signer")], [allow_everything()])
                await client.put_policy(signed_policy(document, *stack.admins))
                made: Any = (await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result
            site.key_id = made.key_id
            yield site
            await site.http.aclose()


async def killed(site: Site, traffic: Traffic) -> None:
    """SIGKILL to the postmaster, as the kernel does when memory is short; then it is started again."""
    pid_file = site.host.postgres._directory / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split("\n")[0]), signal.SIGKILL)
    await traffic.refused()
    status, health = await site.health()
    assert (status, health["ready"], health["database"]) == (503, False, "down")
    await asyncio.to_thread(site.host.postgres.stop)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:  # until the last of the old processes has noticed that the postmaster is gone
                await asyncio.to_thread(site.host.postgres.start)
                return
            except EmbeddedPostgresError:
                await asyncio.sleep(0.1)


async def gone(site: Site, traffic: Traffic) -> None:
    await asyncio.to_thread(site.host.postgres.stop)
    await traffic.refused()
    status, health = await site.health()
    assert (status, health["ready"], health["database"]) == (503, False, "down")
    await asyncio.to_thread(site.host.postgres.start)


async def read_only(site: Site, traffic: Traffic) -> None:
    """As a standby that was not promoted, or a full disk that an administrator froze."""
    await site.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    await _refused_for_the_audit(site, traffic)
    await site.sql("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


async def full(site: Site, traffic: Traffic) -> None:
    """No space left on the device (SQLSTATE 53100), where the receipts go."""
    await _trigger(site, "RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'")
    await _refused_for_the_audit(site, traffic)
    await _no_trigger(site)


async def slow(site: Site, traffic: Traffic) -> None:
    """Each write takes half a minute, and is cut off by the statement timeout."""
    await _trigger(site, "PERFORM pg_sleep(30)")
    await _refused_for_the_audit(site, traffic)
    await _no_trigger(site)


async def locked(site: Site, traffic: Traffic) -> None:
    """Somebody holds the table of receipts, and has gone to lunch: it can be read and not written."""
    async with _lock(site, "SHARE"):
        await _refused_for_the_audit(site, traffic)


async def barred(site: Site, traffic: Traffic) -> None:
    """It cannot be read either."""
    async with _lock(site, "ACCESS EXCLUSIVE"):
        await traffic.refused()
        async with asyncio.timeout(PATIENCE_S):
            while (await site.health())[1]["problem"] != "STORAGE_UNAVAILABLE":
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _lock(site: Site, mode: str) -> AsyncIterator[None]:
    connection = await site.admin()
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE receipts IN {mode} MODE")
            yield
    finally:
        await connection.close()


async def exhausted(site: Site, traffic: Traffic) -> None:
    """Somebody else has taken every connection that there is."""
    held = [await site.admin()]
    try:
        for _ in range(200):
            await held[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'wallet'")
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                held.append(await site.admin())
                continue
            [left] = await held[0].fetch("SELECT count(*) AS n FROM pg_stat_activity WHERE usename = 'wallet'")
            if left["n"] == 0:
                break
        await traffic.refused()
        status, health = await site.health()
        assert (status, health["database"]) == (503, "down")
    finally:
        for connection in held:
            await connection.close()


async def _refused_for_the_audit(site: Site, traffic: Traffic) -> None:
    before = traffic.codes[Code.AUDIT_UNAVAILABLE]
    await traffic.until(lambda: traffic.codes[Code.AUDIT_UNAVAILABLE] >= before + 3)
    status, health = await site.health()
    assert (status, health["ready"], health["audit"]) == (503, False, "AUDIT_UNAVAILABLE")


async def _trigger(site: Site, body: str) -> None:
    await site.sql(
        f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$",
        "CREATE TRIGGER fault BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION fault()",
    )


async def _no_trigger(site: Site) -> None:
    await site.sql("DROP TRIGGER fault ON receipts", "DROP FUNCTION fault")


FAULTS = [killed, gone, read_only, full, slow, locked, barred, exhausted]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
async def test_the_database_fails_under_traffic_and_everything_recovers_by_itself(site: Site, fault: Any) -> None:
    async with site.traffic() as traffic:
        await fault(site, traffic)
        await traffic.more()
    assert traffic.codes.total() >= 3
    await site.judge(traffic)


async def test_a_request_that_was_never_answered_can_still_be_refused_for_good(site: Site) -> None:
    """While receipts cannot be written nobody hears of a decision, not even of a refusal."""
    await _trigger(site, "RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'")
    body = request_body(TENANT, "generate_key", site.stack.now_ms(), algorithm="ed25519", labels=["elsewhere"])
    client = site.client()
    with pytest.raises(UnreachableError) as later:
        await client.repeat(body)
    assert later.value.code is Code.AUDIT_UNAVAILABLE
    await _no_trigger(site)
    with pytest.raises(RefusedError) as denied:
        await client.repeat(body)
    assert denied.value.code is Code.POLICY_DENIED
    assert denied.value.receipt is not None
