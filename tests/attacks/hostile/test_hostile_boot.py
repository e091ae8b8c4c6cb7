"""What the host may say to an enclave that has just begun, and what a false manifest proves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path as Directory
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import UnixEndpoint
from adytum_sim.hostile.cases import variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.examples import example
from adytum_sim.hostile.paths import JSON, MSGPACK, Path, edit
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site, attested, open_site
from adytum_sim.hostile.surface import structs
from adytum_verify import AttestationError
from adytum_verify.enclave import manifest_pcr
from adytum_wire import limits, messages
from adytum_wire.errors import AdytumError
from adytum_wire.frames import Kind
from adytum_wire.manifest import manifest_hash, parse_manifest
from adytum_wire.messages import (
    Attest,
    Configure,
    ConfigureReply,
    Execute,
    GetReceipts,
    Hello,
    HelloReply,
    PutPolicy,
    Refusal,
    Reply,
    SetCredentials,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-boot")]

NONCE = b"n" * 32
MANIFEST: dict[str, Path] = {
    "Configure": (MSGPACK,),
    "Manifest": (MSGPACK, "manifest", JSON),
    "Kms": (MSGPACK, "manifest", JSON, "kms"),
    "Tenant": (MSGPACK, "manifest", JSON, "tenants", 0),
    "Admin": (MSGPACK, "manifest", JSON, "tenants", 0, "admins", 0),
    "Bounds": (MSGPACK, "manifest", JSON, "bounds"),
    "NoAnchor": (MSGPACK, "manifest", JSON, "anchor"),
    "HostAnchor": (MSGPACK, "manifest", JSON, "anchor"),
    "DynamoDbAnchor": (MSGPACK, "manifest", JSON, "anchor"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """A site whose enclave each test starts anew."""
    path = Directory(tempfile.mkdtemp(prefix="ad-"))
    try:
        async with open_site(path) as opened:
            yield opened
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def instead(site: Site, line: EnclaveConnection, message: msgspec.Struct, payload: bytes) -> Reply:
    """The host passes on `payload` when the client says `message`."""

    async def hook(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REQUEST, frame, payload)]

    site.relay.on_request = hook
    try:
        return await line.call(message, timeout_s=10)
    finally:
        site.relay.on_request = None


async def refused_by(line: EnclaveConnection, message: msgspec.Struct, code: str) -> None:
    reply = await line.call(message, timeout_s=5)
    assert isinstance(reply, Refusal), reply
    assert reply.code == code


async def test_a_changed_manifest_is_refused_or_shows(site: Site) -> None:
    """A malformed manifest is refused and the phase stays; a well-formed one is another PCR16."""
    await site.stack.restart_enclave()
    message = Configure(site.stack.manifest, site.stack.credentials)
    line = await EnclaveConnection.open(UnixEndpoint(site.relay.front), limits.CONTROL_PORT)
    try:
        for early in (SetCredentials(site.stack.credentials), PutPolicy("acme", b"{}"), Attest(NONCE), GetReceipts(1)):
            await refused_by(line, early, "PHASE_INVALID")
        assert await signing(site) == "PHASE_INVALID"
        others = await _malformed(site, line, message)
    finally:
        line.close()
    assert len(others) >= 40
    expected = site.stack.pcrs[16]
    assert all(manifest_pcr(manifest_hash(other)) != expected for other in others)


async def _malformed(site: Site, line: EnclaveConnection, message: Configure) -> list[bytes]:
    """Send what the enclave must refuse; return the manifests that it would take."""
    taken = []
    for struct, path in MANIFEST.items():
        for field in table()[struct]:
            stop = row(struct, field)
            assert isinstance(stop, Stop)
            if field == "credentials":
                continue
            honest = messages.encode(message)
            if struct.endswith("Anchor"):  # of a deployment that has such a one
                honest = edit(honest, path, lambda _, struct=struct: example(structs()[struct]))
                own = parsed(honest)
                assert own is not None, struct
                taken.append(own)
            for variant in variants(honest, struct, path, field):
                manifest = parsed(variant.payload)
                if manifest is not None:
                    taken.append(manifest)
                    continue
                reply = await instead(site, line, message, variant.payload)
                assert isinstance(reply, Refusal), variant.detail
                codes = ("MESSAGE_INVALID", "MANIFEST_INVALID")
                assert reply.code in codes if struct == "Configure" else reply.code in stop.malformed
    hello = await line.call(Hello(1), timeout_s=5)
    assert isinstance(hello, HelloReply)
    assert hello.phase == "awaiting-manifest"
    return taken


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"deployment": "another"},
        {"node_id": "node-2"},
        {"bounds": {"request_past_ms": 3_600_000}},
        {"tenants": [{"threshold": 1}]},
        {"kms": {"port": 8001}},
        {"kms": {"credentials": "imds"}},
        {"anchor": {"kind": "host"}},
        {"bounds": {"approval_past_ms": 14 * 86_400_000}},
    ],
    ids=json.dumps,
)
async def test_an_enclave_with_another_manifest_proves_it(site: Site, change: dict[str, Any]) -> None:
    """Taken by the enclave, refused by every verifier, and by KMS."""
    manifest = json.loads(site.stack.manifest)
    for name, value in change.items():
        if isinstance(value, dict):
            manifest[name] |= value
        elif isinstance(value, list):
            manifest[name][0] |= value[0]
        else:
            manifest[name] = value
    false = json.dumps(manifest).encode()
    await site.stack.restart_enclave()
    reply = await site.stack.client.configure(false, site.stack.credentials)
    assert isinstance(reply, ConfigureReply)
    assert reply.pcr16 == manifest_pcr(manifest_hash(false))
    with pytest.raises(AttestationError) as caught:
        await attested(site)
    assert caught.value.code.value == "PCR_MISMATCH"
    await site.stack.client.put_policy("acme", site.envelope())
    used = await site.stack.client.execute(*as_call(site.message("sign")))
    assert isinstance(used, Refusal)
    assert used.code in ("KMS_DENIED", "KMS_UNAVAILABLE", "RECORD_MISMATCH")


async def test_false_credentials_beside_the_manifest_open_nothing(site: Site) -> None:
    """None, cut, foreign: KMS is not used until good ones come."""
    good = site.stack.credentials
    message = Configure(site.stack.manifest, good)
    for variant in variants(messages.encode(message), "Configure", (MSGPACK,), "credentials"):
        decoded = message if variant.malformed else messages.decode_control(variant.payload)
        assert isinstance(decoded, Configure)
        if decoded.credentials == good:
            continue
        await site.stack.restart_enclave()
        await site.stack.client.configure(decoded.manifest, decoded.credentials)
        await site.stack.client.put_policy("acme", site.envelope())
        assert await signing(site) == "KMS_UNAVAILABLE"
        await site.stack.client.set_credentials(good)
        assert await signing(site) == "accepted"


def as_call(message: Execute) -> tuple[Any, ...]:
    return message.body, message.stamp, message.record, message.approvals


def parsed(payload: bytes) -> bytes | None:
    """The manifest in a message, None when the enclave cannot take it."""
    try:
        message = messages.decode_control(payload)
        assert isinstance(message, Configure)
        parse_manifest(message.manifest)
    except AdytumError:
        return None
    return message.manifest


async def signing(site: Site) -> str:
    """The code with which a signature is refused now."""
    reply = await site.stack.client.execute(*as_call(site.message("sign")))
    return reply.code if isinstance(reply, Refusal) else "accepted"
