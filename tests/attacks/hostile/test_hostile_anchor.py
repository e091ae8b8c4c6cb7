"""The host changes the record that holds the credentials of the anchor's table, on its way back to the enclave.

There is no table here: until credentials are there the enclave asks none, and this is about those credentials.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path as Directory
from typing import Any

import pytest
import pytest_asyncio

from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import UnixEndpoint
from adytum_sim.hostile.cases import BLOB, variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.examples import example
from adytum_sim.hostile.paths import JSON, MSGPACK, Path
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site, bare_site
from adytum_wire import limits, messages
from adytum_wire.frames import Kind
from adytum_wire.manifest import DynamoDbAnchor
from adytum_wire.messages import Done, ExecuteReply, PutAnchorCredentials, Refusal
from adytum_wire.record import Record

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-anchor")]

PLACES: dict[str, Path] = {
    "PutAnchorCredentials": (MSGPACK,),
    "Record": (MSGPACK, "record"),
    "Header": (MSGPACK, "record", "header", JSON),
    "ciphertext_blob": (MSGPACK, "record", "ciphertext_blob", BLOB),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """A policy is in force and nothing was made yet: the anchor's credentials are waited for."""
    path = Directory(tempfile.mkdtemp(prefix="ad-"))
    anchor = example(DynamoDbAnchor) | {"credentials": "sealed"}
    try:
        async with bare_site(path, anchor=anchor) as opened:
            opened.first_state = await opened.state()
            yield opened
            await opened.audit()
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def sealed(site: Site, operation: str, which: int = 0) -> Record:
    reply = await site.send(operation, which=which)
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is not None
    return reply.record


async def say(site: Site, payload: bytes) -> str:
    """Let the host say `payload` on the control port. The code of the refusal."""

    async def instead(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REQUEST, frame, payload)]

    line = await EnclaveConnection.open(UnixEndpoint(site.relay.front), limits.CONTROL_PORT)
    site.relay.on_request = instead
    try:
        reply = await line.call(messages.Health(), timeout_s=10)
    finally:
        site.relay.honest()
        line.close()
    if isinstance(reply, messages.GetUsageReply):
        return "MESSAGE_INVALID"  # an answer of another kind: so says the client
    assert isinstance(reply, Refusal | Done), reply
    return reply.code if isinstance(reply, Refusal) else "accepted"


async def test_changed_credentials_of_the_anchor_are_refused(site: Site) -> None:
    """Swap, relocate, truncate, flip, forge and drop each field, of the record and of its header too; the enclave goes
    on waiting, and takes the genuine ones. Then older ones are refused."""
    older, newest = await sealed(site, "seal_anchor"), await sealed(site, "seal_anchor", 1)
    honest, donor = (messages.encode(PutAnchorCredentials("acme", record)) for record in (newest, older))
    inside = row("PutAnchorCredentials", "record")
    for struct, path in PLACES.items():
        for field in table()[struct]:
            stop = row(struct, field) if struct == "PutAnchorCredentials" else inside
            assert isinstance(stop, Stop)
            seen: Counter[str] = Counter()
            # a whole genuine record is no attack until a newer one was taken
            other = None if struct == "PutAnchorCredentials" else donor
            for variant in variants(honest, struct, path, field, donor=other):
                code = await say(site, variant.payload)
                assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, code)
                seen[code] += 1
            assert seen.total() >= 2, (struct, field)
            assert field != "generation" or "RECORD_RETIRED" in seen
    assert await site.state() == site.first_state
    waiting = await site.send("generate_key")
    assert isinstance(waiting, Refusal)
    assert waiting.code == "ANCHOR_UNAVAILABLE"
    assert await say(site, honest) == "accepted"
    assert await say(site, donor) == "RECORD_ROLLBACK"
    assert await say(site, honest) == "accepted"
    # it was put without asking the anchor: out of force until it is put again
    assert (await site.state())["policies"] == {}


async def test_another_deployments_anchor_takes_no_credentials(site: Site) -> None:
    """The same record where the manifest trusts the host with the table: refused, whatever it holds."""
    path = Directory(tempfile.mkdtemp(prefix="ad-"))
    try:
        async with bare_site(path) as plain:
            record = await sealed(plain, "seal_anchor")
            assert await say(plain, messages.encode(PutAnchorCredentials("acme", record))) == "USAGE_INVALID"
            key_id = json.loads(record.header)["key_id"]
            for operation in ("unseal", "export", "sign", "derive_key"):
                plain.holds = {name: [] for name in plain.holds}
                body = plain.body(operation, key_id=key_id)
                approvals = (plain.approval(body),) if operation == "export" else ()
                reply = await plain.client.execute(body, plain.alice.stamp(body), record, approvals)
                assert isinstance(reply, Refusal)
                assert (reply.code, reply.field) == ("RECORD_MISMATCH", "$.kind"), operation
            await plain.audit()
    finally:
        shutil.rmtree(path, ignore_errors=True)
