"""The host changes what it says on the control port: policies, manifests, credentials, nonces, versions, phases."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client.usage import draft_reset, sign_reset
from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import UnixEndpoint
from adytum_policy.document import open_policy
from adytum_policy.shape import PolicyDocument
from adytum_sim.hostile.cases import locate, variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.examples import examples
from adytum_sim.hostile.paths import BASE64, JSON, MSGPACK, Path
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site
from adytum_sim.hostile.surface import structs
from adytum_sim.people import signed_policy
from adytum_verify import AttestationError, verify_chain, verify_enclave
from adytum_wire import limits, messages
from adytum_wire.errors import AdytumError
from adytum_wire.frames import Kind
from adytum_wire.manifest import parse_manifest
from adytum_wire.messages import (
    Attest,
    AttestReply,
    Checkpoint,
    CheckpointReply,
    Configure,
    Done,
    ExecuteReply,
    GetReceipts,
    GetReceiptsReply,
    GetUsage,
    Health,
    HealthReply,
    Hello,
    PutPolicy,
    PutPolicyReply,
    Refusal,
    Reply,
    ResetUsage,
    SetCredentials,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-control")]

NONCE = b"n" * 32
PLACES: dict[str, Path] = {
    "Hello": (MSGPACK,),
    "Health": (MSGPACK,),
    "Checkpoint": (MSGPACK,),
    "Attest": (MSGPACK,),
    "GetReceipts": (MSGPACK,),
    "PutPolicy": (MSGPACK,),
    "ResetUsage": (MSGPACK,),
    "GetUsage": (MSGPACK,),
    "Envelope": (MSGPACK, "envelope", JSON),
    "Signature": (MSGPACK, "envelope", JSON, "signatures", 0),
}
PAYLOAD: Path = (MSGPACK, "envelope", JSON, "payload", BASE64, JSON)
CREDENTIALS: dict[str, Path] = {"SetCredentials": (MSGPACK,), "Credentials": (MSGPACK, "credentials")}


def fields_of(*names: str) -> list[tuple[str, str]]:
    return [(name, field) for name in names for field in table()[name]]


@pytest_asyncio.fixture(loop_scope="module")
async def line(site: Site) -> Any:
    """The honest host's connection to the control port, through the relay."""
    connection = await EnclaveConnection.open(UnixEndpoint(site.relay.front), limits.CONTROL_PORT)
    yield connection
    connection.close()


async def instead(site: Site, line: EnclaveConnection, message: msgspec.Struct, payload: bytes) -> Reply:
    """The host passes on `payload` when the client says `message`."""

    async def hook(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REQUEST, frame, payload)]

    site.relay.on_request = hook
    try:
        return await line.call(message, timeout_s=10)
    finally:
        site.relay.on_request = None


def honest(site: Site, struct: str) -> msgspec.Struct:
    if struct in ("Envelope", "Signature", "PutPolicy"):
        return PutPolicy("acme", site.envelope(version=6))
    if struct == "Checkpoint":
        return Checkpoint()
    if struct == "ResetUsage":
        data = draft_reset("acme", site.binding.boot_id, "*")
        return ResetUsage("acme", sign_reset(data, [admin.signer for admin in site.stack.admins[:2]]))
    if struct == "GetUsage":
        return GetUsage("acme")
    return {"Hello": Hello(1), "Health": Health(), "Attest": Attest(NONCE), "GetReceipts": GetReceipts(2)}[struct]


@pytest.mark.parametrize(("struct", "field"), fields_of(*PLACES))
async def test_a_changed_control_message_is_refused(
    site: Site, line: EnclaveConnection, struct: str, field: str
) -> None:
    """Each field of each control message that an enclave at work takes; the policy in force stays."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    message = honest(site, struct)
    older = messages.encode(PutPolicy("acme", site.envelope(version=4))) if struct == "PutPolicy" else None
    donor = messages.encode(PutPolicy("acme", site.envelope(version=7, rules=[]))) if struct == "Signature" else None
    count = 0
    expected = {"Health": HealthReply, "Checkpoint": CheckpointReply}.get(struct)
    for variant in variants(messages.encode(message), struct, PLACES[struct], field, older=older, donor=donor):
        reply = await instead(site, line, message, variant.payload)
        code = reply.code if isinstance(reply, Refusal) else what_a_verifier_says(site, reply)
        if struct in ("Health", "Checkpoint") and not isinstance(reply, Refusal) and type(reply) is not expected:
            code = "MESSAGE_INVALID"  # an answer of another kind: so says the client
        assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, reply)
        assert await site.state() == site.first_state, variant.detail
        count += 1
    assert count >= 3


def what_a_verifier_says(site: Site, reply: Reply) -> str:
    """The code with which an answer that the enclave did give is refused by who asked."""
    try:
        if isinstance(reply, AttestReply):
            verify_enclave(
                reply.document,
                reply.binding,
                expected=site.stack.allow_list,
                now_ms=site.stack.now_ms(),
                nonce=NONCE,
                anchors=(site.stack.kms.anchor,),
            )
        elif isinstance(reply, GetReceiptsReply):
            verify_chain(reply.receipts, receipt_key=site.receipt_key, from_sequence=2).require_intact()
    except (AttestationError, AdytumError) as error:
        return error.code.value
    return "accepted"


@pytest.mark.parametrize(
    ("struct", "field"), [(s, f) for s, fields in examples(PolicyDocument).items() for f in fields]
)
async def test_a_changed_policy_is_refused(site: Site, line: EnclaveConnection, struct: str, field: str) -> None:
    """Whatever stands in a policy, now or in a later version: the administrators' signatures cover the bytes."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    document = everything(site)
    at = locate(document, structs()[struct])
    assert at is not None, f"no sample policy holds a {struct}"
    message = PutPolicy("acme", signed_policy(document, *site.stack.admins[:2]))
    count = 0
    for variant in variants(messages.encode(message), struct, (*PAYLOAD, *at), field):
        reply = await instead(site, line, message, variant.payload)
        assert isinstance(reply, Refusal), variant.detail
        assert reply.code in stop.codes, (variant.detail, reply)
        count += 1
    assert count >= 3
    assert await site.state() == site.first_state


def holder() -> str:
    return X25519PrivateKey.generate().public_key().public_bytes_raw().hex()


def everything(site: Site) -> dict[str, Any]:
    """A policy of version 6 with each kind of entry there is, as administrators could have signed it."""
    parts = examples(PolicyDocument)
    rules: list[dict[str, Any]] = json.loads(json.dumps(site.document["rules"]))
    rules[0] |= {"times": [parts["TimeEntry"] | {"start": "08:00", "end": "18:00"}], "limits": ["daily"]}
    parts["BitcoinEntry"]["recipients"] = ["bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"]  # BIP-173's
    rules[1]["content"] += [parts[name] for name in parts if name.endswith("Entry") and "type" in parts[name]]
    passkey = parts["PasskeyEntry"] | {"scheme": "ed25519", "public_key": site.stranger.public_key.hex()}
    principals = json.loads(json.dumps(site.document["principals"]))
    principals[1]["passkeys"] = [passkey]
    return site.document | {
        "version": 6,
        "recovery": {"threshold": 2, "keys": [holder() for _ in range(2)]},
        "passkeys": {"rp_id": "vault.example", "origins": ["https://vault.example"]},
        "limits": [parts["LimitEntry"] | {"id": "daily", "measure": "count", "asset": "*", "window_seconds": 3600}],
        "principals": principals,
        "rules": rules,
    }


async def test_the_sample_policy_is_a_good_one(site: Site) -> None:
    """Only its signatures stop the changed ones."""
    tenant = parse_manifest(site.stack.manifest).tenants[0]
    opened = open_policy(signed_policy(everything(site), *site.stack.admins[:2]), tenant)
    assert opened.policy.version == 6
    assert examples(PolicyDocument).keys() <= structs().keys()


@pytest.mark.parametrize(("struct", "field"), fields_of(*CREDENTIALS))
async def test_changed_credentials_open_nothing(site: Site, line: EnclaveConnection, struct: str, field: str) -> None:
    """False, foreign, cut or expired credentials: KMS is not used, and good ones mend it."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    message = SetCredentials(site.stack.credentials)
    refusals = 0
    for variant in variants(messages.encode(message), struct, CREDENTIALS[struct], field, thin=True):
        reply = await instead(site, line, message, variant.payload)
        if isinstance(reply, Refusal):
            assert reply.code in stop.malformed, (variant.detail, reply)
            refusals += 1
            continue
        assert isinstance(reply, Done)
        used = await site.send("sign")
        if isinstance(used, Refusal):
            assert used.code in stop.codes, (variant.detail, used)
            refusals += 1
        else:  # the same credentials, said to last shorter or longer
            assert field == "expires_at", variant.detail
    assert refusals >= 2
    await site.client.set_credentials(site.stack.credentials)


async def test_every_message_of_another_phase_is_refused(site: Site, line: EnclaveConnection) -> None:
    """Downgrade: a second manifest, with which the host would be its own administrator."""
    await refused_by(line, Configure(site.stack.manifest, site.stack.credentials), "PHASE_INVALID")
    await refused_by(line, Configure(site.stack.manifest.replace(b'"epoch": 1', b'"epoch": 2')), "PHASE_INVALID")


async def refused_by(line: EnclaveConnection, message: msgspec.Struct, code: str) -> None:
    reply = await line.call(message, timeout_s=5)
    assert isinstance(reply, Refusal), reply
    assert reply.code == code


async def test_a_policy_that_comes_late_or_again_does_not_go_back(site: Site, line: EnclaveConnection) -> None:
    """Reorder and replay: the older of two policies is refused whenever it comes; the same again changes nothing."""
    older = PutPolicy("acme", site.envelope(version=4))
    same = PutPolicy("acme", site.envelope())
    for _ in range(2):
        await refused_by(line, older, "POLICY_ROLLBACK")
        again = await line.call(same, timeout_s=5)
        assert isinstance(again, PutPolicyReply)
        assert again.version == 5
    await refused_by(line, PutPolicy("acme", site.envelope(rules=[])), "POLICY_ROLLBACK")


async def test_messages_of_one_port_are_refused_on_the_other(site: Site, line: EnclaveConnection) -> None:
    """Relocate: a data message on the control port, control messages on the data port."""
    message = site.message("sign")
    assert await code_on(site, limits.CONTROL_PORT, message) == "MESSAGE_INVALID"
    for control in (Hello(1), Health(), Attest(NONCE), PutPolicy("acme", site.envelope()), GetReceipts(1)):
        assert await code_on(site, limits.DATA_PORT, control) == "MESSAGE_INVALID"
    assert isinstance(await site.pass_on(message), ExecuteReply)


async def code_on(site: Site, port: int, message: msgspec.Struct) -> str:
    connection = await EnclaveConnection.open(UnixEndpoint(site.relay.front), port)
    try:
        reply = await connection.call(message, timeout_s=5)
    finally:
        connection.close()
    return reply.code if isinstance(reply, Refusal) else "accepted"
