"""What every keeper of usage snapshots must do: memory, DynamoDB (moto, over TLS and checked signatures), PostgreSQL.

The first two are the enclave's port, with its condition. PostgreSQL is the host's table behind `ExecuteReply.usage`,
which has no condition but its own: only a newer snapshot replaces what is there.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dynamo import HOST, REGION, TABLE, Dynamo, running_dynamo

from adytum.storage import migrate
from adytum.storage.database import Database
from adytum.storage.embedded import EmbeddedPostgres
from adytum.storage.rows import UsageRow
from adytum.storage.usage import keep_newest, newest_snapshots
from adytum_enclave.core.effects import Anchored
from adytum_enclave.shell.anchor import Anchor
from adytum_enclave.shell.anchor_dynamodb import DynamoDbAnchorClient
from adytum_sim.anchors import MemoryAnchor
from adytum_sim.kms.caller import Credentials as Known
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.kms.state import State
from adytum_wire.errors import AdytumError, Code
from adytum_wire.limits import MAX_USAGE_SNAPSHOT
from adytum_wire.messages import Credentials

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


class PostgresKeeper:
    """The host's table, looked at as an anchor whose condition is "newer than what is there"."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, tenant: str, *, timeout_s: float) -> Anchored | None:
        for row in await newest_snapshots(self._database):
            if row.tenant == tenant:
                return Anchored(version=row.version, snapshot=row.snapshot)
        return None

    async def write(self, tenant: str, expected: int | None, anchored: Anchored, *, timeout_s: float) -> bool:
        row = UsageRow(tenant=tenant, version=anchored.version, chain="0" * 32, snapshot=anchored.snapshot)
        async with self._database.connection() as connection, connection.transaction():
            await keep_newest(connection, [row])
        found = await self.read(tenant, timeout_s=timeout_s)
        return found is not None and found.snapshot == anchored.snapshot

    async def aclose(self) -> None:
        await self._database.close()


def client_of(dynamo: Dynamo, known: Known, *, deployment: str = "stand-in", **changes: Any) -> DynamoDbAnchorClient:
    async def dial() -> socket.socket:
        line = socket.socket()
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", dynamo.door.port))
        return line

    secret = Credentials(known.access_key_id, known.secret_access_key, known.session_token or "", 0)
    options = {
        "dial": dial,
        "host": HOST,
        "region": REGION,
        "roots": [dynamo.ca.pem.decode()],
        "credentials": lambda: secret,
        "now_ms": system_clock_ms,
        "jitter": lambda: 0.1,
    }
    return DynamoDbAnchorClient(table=TABLE, deployment=deployment, **(options | changes))


def somebody() -> Known:
    import os

    return bootstrap(State(), os.urandom)[0]


@pytest.fixture
async def dynamo() -> AsyncIterator[Dynamo]:
    async with running_dynamo() as running:
        yield running


@pytest.fixture(params=["memory", "dynamodb", "postgresql"])
async def anchor(request: pytest.FixtureRequest) -> AsyncIterator[Anchor]:
    if request.param == "memory":
        yield MemoryAnchor()
    elif request.param == "dynamodb":
        async with running_dynamo() as running:
            known = somebody()
            running.door.known[known.access_key_id] = known
            client = client_of(running, known)
            yield client
            await client.aclose()
    else:
        directory = Path(tempfile.mkdtemp(prefix="ad-"))
        directory.chmod(0o755)  # the server runs as somebody else when we are root
        postgres = EmbeddedPostgres(directory / "pg", durable=False)
        await asyncio.to_thread(postgres.start)
        try:
            await migrate.upgrade(postgres.dsn())
            keeper = PostgresKeeper(Database(postgres.dsn(), pool_size=4))
            yield keeper
            await keeper.aclose()
        finally:
            await asyncio.to_thread(postgres.stop)
            shutil.rmtree(directory, ignore_errors=True)


def sealed(version: int, data: bytes = b"") -> Anchored:
    return Anchored(version=version, snapshot=data or b"snapshot %d" % version)


async def test_the_contract(anchor: Anchor) -> None:
    """One deployment a keeper, for it takes seconds to start one."""
    is_conditional = not isinstance(anchor, PostgresKeeper)

    async def write(expected: int | None, anchored: Anchored, tenant: str = "acme") -> bool:
        return await anchor.write(tenant, expected, anchored, timeout_s=20)

    async def read(tenant: str = "acme") -> Anchored | None:
        return await anchor.read(tenant, timeout_s=20)

    assert await read() is None
    assert await write(None, sealed(5))
    assert await read() == sealed(5)
    assert await read("other") is None, "tenants are apart"
    assert await write(None, sealed(1), "other")
    assert await read() == sealed(5)

    assert await write(5, sealed(9))
    assert await read() == sealed(9)
    assert not await write(5, sealed(9, b"another")), "not twice"
    assert not await write(None, sealed(7))
    assert await read() == sealed(9)
    if is_conditional:
        assert not await write(8, sealed(10)), "somebody else wrote since"
        assert not await write(None, sealed(10)), "it is not the first"
        assert await read() == sealed(9)

    large = sealed(20, bytes(range(256)) * (MAX_USAGE_SNAPSHOT // 256))
    assert await write(9, large)
    assert await read() == large

    tried = await asyncio.gather(*(write(20, sealed(21 + number)) for number in range(6)))
    assert any(tried)
    assert not is_conditional or tried.count(True) == 1
    stands = await read()
    assert stands is not None
    if is_conditional:
        assert stands == sealed(21 + tried.index(True))
    else:
        assert stands == sealed(26), "the newest stays, in whatever order they came"


async def test_a_deployment_has_its_own_items(dynamo: Dynamo) -> None:
    known = somebody()
    dynamo.door.known[known.access_key_id] = known
    here, there = client_of(dynamo, known), client_of(dynamo, known, deployment="other")
    assert await here.write("acme", None, sealed(1), timeout_s=20)
    assert await there.read("acme", timeout_s=20) is None
    item = dynamo.item()
    assert item is not None and item["version"] == {"N": "1"}
    await here.aclose()
    await there.aclose()


async def test_somebody_without_rights_and_an_anchor_that_is_not_theirs(dynamo: Dynamo) -> None:
    """The door checks SigV4; another authority's certificate is refused before a byte is sent."""
    known, other = somebody(), somebody()
    dynamo.door.known[known.access_key_id] = known
    for client in (client_of(dynamo, other), client_of(dynamo, known, region="eu-west-1")):
        with pytest.raises(AdytumError) as caught:
            await client.read("acme", timeout_s=20)
        assert caught.value.code is Code.ANCHOR_UNAVAILABLE
        await client.aclose()
    assert dynamo.door.unsigned == 2
    from adytum_sim.kms.tls import DevCa

    client = client_of(dynamo, known, roots=[DevCa.create(system_clock_ms()).pem.decode()])
    with pytest.raises(AdytumError) as caught:
        await client.read("acme", timeout_s=20)
    assert (caught.value.code, caught.value.field) == (Code.ANCHOR_UNAVAILABLE, "tls.certificate")
    assert dynamo.door.calls == []
    await client.aclose()


async def test_an_anchor_that_throttles_is_asked_again_and_one_that_refuses_is_not(dynamo: Dynamo) -> None:
    known = somebody()
    dynamo.door.known[known.access_key_id] = known
    client = client_of(dynamo, known)
    dynamo.door.faults["GetItem"] = ["throttle", "cut-before"]
    assert await client.read("acme", timeout_s=20) is None
    dynamo.door.calls.clear()
    dynamo.door.faults["GetItem"] = ["deny"]
    with pytest.raises(AdytumError) as caught:
        await client.read("acme", timeout_s=20)
    assert (caught.value.code, caught.value.field) == (Code.ANCHOR_UNAVAILABLE, "AccessDeniedException")
    assert dynamo.door.calls == ["GetItem"]
    await client.aclose()


def test_our_signature_is_botocores() -> None:
    """The same request at the same moment, signed by AWS's own library."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as BotoCredentials

    from adytum_enclave.shell.sigv4 import Signer

    now_ms, body = system_clock_ms(), b'{"TableName":"adytum-anchor"}'
    sent = [("X-Amz-Target", "DynamoDB_20120810.PutItem"), ("Content-Type", "application/x-amz-json-1.0")]
    ours = dict(
        Signer(service="dynamodb", region=REGION).sign(
            "POST", HOST, sent, body, Credentials("AKID", "secret", "token", 0), now_ms=now_ms
        )
    )
    request = AWSRequest("POST", f"https://{HOST}/", headers=dict(sent), data=body)
    request.context["timestamp"] = ours["X-Amz-Date"]
    request.headers["X-Amz-Date"] = ours["X-Amz-Date"]
    request.headers["X-Amz-Security-Token"] = "token"
    auth = SigV4Auth(BotoCredentials("AKID", "secret", "token"), "dynamodb", REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    signature = auth.signature(text, request)
    names = auth.signed_headers(auth.headers_to_sign(request))
    scope = f"{ours['X-Amz-Date'][:8]}/{REGION}/dynamodb/aws4_request"
    assert ours["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKID/{scope}, SignedHeaders={names}, Signature={signature}"
    )
