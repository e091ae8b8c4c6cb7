"""The host changes what the enclave answered: results, receipts, records, attestation, refusals, reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adytum.client.checks import check_answer, check_refusal
from adytum_sim.hostile.cases import Variant, variants
from adytum_sim.hostile.declared import Stop, Unproven, row, table
from adytum_sim.hostile.paths import COSE, JSON, JSON_TEXT, MSGPACK, PAYLOAD, Codec, Path, edit
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site, attested
from adytum_sim.inside import Inside
from adytum_sim.people import request_body
from adytum_sim.stack import DAY_MS
from adytum_verify import AttestationError, verify_chain, verify_checkpoint, verify_enclave
from adytum_wire import messages, requests
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import Kind
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import AttestReply, CheckpointReply, Execute, ExecuteReply, GetReceiptsReply, Refusal, Reply
from adytum_wire.requests import parse_body

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-answers")]

NONCE = b"n" * 32
NAMES = ("protected", "unprotected", "payload", "signature")
PARTS = Codec("parts", lambda items: dict(zip(NAMES, items, strict=True)), lambda parts: list(parts.values()))
RESULTS = {
    "generate_key": "GenerateKeyResult",
    "generate_seed": "GenerateSeedResult",
    "import_key": "ImportKeyResult",
    "derive_key": "DeriveKeyResult",
    "sign": "SignResult",
    "seal": "SealResult",
    "seal_anchor": "SealAnchorResult",
    "unseal": "UnsealResult",
    "reseal": "ResealResult",
    "enable_key": "EnableKeyResult",
    "disable_key": "DisableKeyResult",
    "schedule_deletion": "ScheduleDeletionResult",
    "cancel_deletion": "CancelDeletionResult",
    "rotation_statement": "RotationStatementResult",
    "open_session": "OpenSessionResult",
}
# `import_file` and `export`: test_hostile_imports.py. `delete_key`: below, days later.
ELSEWHERE = {"import_file", "export", "delete_key"}
RECEIPT: dict[str, Path] = {
    "ReceiptEnvelope": (MSGPACK, "receipt", JSON),
    "Receipt": (MSGPACK, "receipt", JSON, "body", JSON_TEXT),
    "RuleOutcome": (MSGPACK, "receipt", JSON, "body", JSON_TEXT, "rules", 0),
}
COSE_FIELDS = ("signature", "protected", "unprotected")


def fields_of(*names: str) -> list[tuple[str, str]]:
    return [(name, field) for name in names for field in table()[name]]


def unproven() -> list[tuple[str, str]]:
    return [(s, f) for s, fields in table().items() for f, found in fields.items() if isinstance(found, Unproven)]


async def code_for(site: Site, message: Execute, payload: bytes) -> str:
    """The host gives `payload` as the answer; the code with which the client refuses it."""

    async def hook(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REPLY, frame, payload)]

    site.relay.on_reply = hook
    applied = site.relay.applied
    body = parse_body(message.body)
    try:
        reply = await site.pass_on(message)
        if isinstance(reply, Refusal):
            check_refusal(message.body, body, reply.receipt, code=Code(reply.code), receipt_key=site.receipt_key)
        else:
            check_answer(message.body, body, reply.result, reply.receipt, receipt_key=site.receipt_key)
    except AdytumError as error:
        return error.code.value
    except ValueError:  # a code that is on no list
        return "RECEIPT_INVALID"
    finally:
        assert site.relay.applied == applied + 1
        site.relay.honest()
    return "accepted"


async def attack(site: Site, message: Execute, reply: Reply, struct: str, path: Path, field: str, donor: Reply) -> int:
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    payload = messages.encode(reply)
    assert edit(payload, path, lambda value: value) == payload  # the way in changes nothing by itself
    count = 0
    for variant in variants(payload, struct, path, field, donor=messages.encode(donor)):
        code = await code_for(site, message, variant.payload)
        expected = stop.malformed if variant.malformed else stop.codes
        assert code in expected, (variant.attack, variant.detail, code)
        count += 1
    return count


async def answered(site: Site, operation: str) -> tuple[Execute, ExecuteReply]:
    await site.ready(operation)
    message = site.message(operation)
    reply = await site.pass_on(message)
    assert isinstance(reply, ExecuteReply), reply
    return message, reply


async def test_no_result_is_left_out() -> None:
    """Each operation's answer is attacked here or in a test that is named above."""
    assert RESULTS.keys() | ELSEWHERE == set(requests.OPERATIONS.values())


@pytest.mark.parametrize("operation", RESULTS)
async def test_a_changed_result_is_noticed(site: Site, operation: str) -> None:
    """Every field of every result: the receipt's digest covers the bytes."""
    message, reply = await answered(site, operation)
    _, donor = await answered(site, operation)
    struct = RESULTS[operation]
    for field in table()[struct]:
        assert await attack(site, message, reply, struct, (MSGPACK, "result", JSON), field, donor) >= 3


async def test_a_changed_result_of_a_deletion_is_noticed(site: Site) -> None:
    """In an enclave whose days can pass: that a key is deleted, and which version of it, is what its receipt says."""
    inside = Inside(manifest=site.stack.manifest, start_ms=site.stack.now_ms())
    inside.put_policy(site.document, *site.stack.admins[:2])
    deleted = []
    for _ in range(2):
        made = inside.ask(site.alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
        assert isinstance(made, ExecuteReply), made
        key_id = json.loads(made.result)["key_id"]
        pending = inside.ask(site.alice, "schedule_deletion", record=made.record, key_id=key_id, waiting_days=7)
        assert isinstance(pending, ExecuteReply), pending
        inside.clock_ms += 7 * DAY_MS
        body = request_body("acme", "delete_key", inside.clock_ms, key_id=key_id)
        reply = inside.execute(Execute(body, site.alice.stamp(body), pending.record))
        assert isinstance(reply, ExecuteReply), reply
        deleted.append((body, reply))
    (body, reply), (_, donor) = deleted
    key = inside.enclave.receipt_key
    check_answer(body, parse_body(body), reply.result, reply.receipt, receipt_key=key)
    payload, path = messages.encode(reply), (MSGPACK, "result", JSON)
    for field in table()["DeleteKeyResult"]:
        stop, count = row("DeleteKeyResult", field), 0
        assert isinstance(stop, Stop)
        for variant in variants(payload, "DeleteKeyResult", path, field, donor=messages.encode(donor)):
            changed = messages.decode_reply(variant.payload)
            assert isinstance(changed, ExecuteReply)
            with pytest.raises(AdytumError) as caught:
                check_answer(body, parse_body(body), changed.result, changed.receipt, receipt_key=key)
            assert caught.value.code.value in (stop.malformed if variant.malformed else stop.codes), variant.detail
            count += 1
        assert count >= 3, field


@pytest.mark.parametrize(("struct", "field"), fields_of(*RECEIPT))
async def test_a_changed_receipt_is_noticed(site: Site, struct: str, field: str) -> None:
    """Every field of a receipt and of its envelope: the signed head covers them."""
    message, reply = await answered(site, "sign")
    _, donor = await answered(site, "sign")
    assert await attack(site, message, reply, struct, RECEIPT[struct], field, donor) >= 3


@pytest.mark.parametrize("field", ["type", "result", "receipt"])
async def test_a_changed_answer_is_noticed(site: Site, field: str) -> None:
    """Swap the answers of two requests, whole or in part; cut them; answer with another message."""
    message, reply = await answered(site, "sign")
    _, donor = await answered(site, "sign")
    assert await attack(site, message, reply, "ExecuteReply", (MSGPACK,), field, donor) >= 3
    assert await code_for(site, message, messages.encode(donor)) == "RECEIPT_INVALID"


async def test_a_changed_record_in_an_answer_harms_nobody_but_the_host(site: Site) -> None:
    """What it stores instead does not open."""
    _, reply = await answered(site, "generate_key")
    _, donor = await answered(site, "generate_key")
    key_id = json.loads(reply.result)["key_id"]
    stop = row("ExecuteReply", "record")
    assert isinstance(stop, Stop)
    body = site.body("sign", key_id=key_id)
    stamp = site.alice.stamp(body)
    seen = 0
    for place, field in (((MSGPACK,), "record"), *(((MSGPACK, "record"), f) for f in table()["Record"])):
        struct = "ExecuteReply" if field == "record" else "Record"
        for variant in variants(messages.encode(reply), struct, place, field, donor=messages.encode(donor)):
            if variant.malformed:
                continue
            stored = messages.decode_reply(variant.payload)
            assert isinstance(stored, ExecuteReply)
            used = await site.pass_on(Execute(body, stamp, stored.record))
            assert isinstance(used, Refusal), variant.detail
            assert used.code in stop.codes, (variant.detail, used)
            seen += 1
    assert seen >= 10
    assert isinstance(await site.pass_on(Execute(body, stamp, reply.record)), ExecuteReply)


@pytest.mark.parametrize("field", ["type", "code", "receipt"])
async def test_a_changed_refusal_is_noticed(site: Site, field: str) -> None:
    """A refusal of another kind, or with the receipt of another one."""
    message, other = (site.message("sign", by=site.mallory) for _ in range(2))
    reply, donor = await site.pass_on(message), await site.pass_on(other)
    assert isinstance(reply, Refusal)
    assert isinstance(donor, Refusal)
    assert await attack(site, message, reply, "Refusal", (MSGPACK,), field, donor) >= 3


async def test_an_allowed_request_that_the_host_calls_refused_has_no_proof(site: Site) -> None:
    """A refusal that the host invents carries no receipt that fits, and the answer can be had again."""
    message, reply = await answered(site, "sign")
    for code in Code:
        for receipt in (b"", reply.receipt):
            forged = messages.encode(Refusal(code.value, "", 0, receipt))
            assert await code_for(site, message, forged) == "RECEIPT_INVALID"
    assert await site.pass_on(message) == reply


def of_document() -> list[tuple[str, str, Path]]:
    outer: Path = (MSGPACK, "document", COSE, PARTS)
    return [
        *(("AttestReply", field, (MSGPACK,)) for field in table()["AttestReply"]),
        *(("Binding", field, (MSGPACK, "binding", JSON)) for field in table()["Binding"]),
        *(
            ("AttestationDocument", field, outer if field in COSE_FIELDS else (*outer, "payload", PAYLOAD))
            for field in table()["AttestationDocument"]
        ),
    ]


@pytest.mark.parametrize(
    ("struct", "field", "path"), of_document(), ids=lambda part: part if isinstance(part, str) else ""
)
async def test_a_changed_proof_is_noticed(site: Site, struct: str, field: str, path: Path) -> None:
    """Every field of the attestation document and of what it binds; an older document; another request's."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    reply, donor = await site.client.attest(NONCE), await site.client.attest(b"o" * 32)
    count = 0
    for variant in variants(messages.encode(reply), struct, path, field, donor=messages.encode(donor)):
        code = await proof_code(site, variant)
        assert code in ((stop.malformed or stop.codes) if variant.malformed else stop.codes), (variant.detail, code)
        count += 1
    assert count >= 3


async def proof_code(site: Site, variant: Variant) -> str:
    async def hook(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REPLY, frame, variant.payload)]

    site.relay.on_reply = hook
    try:
        reply = await site.client.attest(NONCE)
        assert isinstance(reply, AttestReply)
        verify_enclave(
            reply.document,
            reply.binding,
            expected=site.stack.allow_list,
            now_ms=site.stack.now_ms(),
            nonce=NONCE,
            anchors=(site.stack.kms.anchor,),
            manifest_hash=manifest_hash(site.stack.manifest),
        )
    except (AdytumError, AttestationError) as error:
        return error.code.value
    finally:
        site.relay.honest()
    return "accepted"


CHECKPOINT: dict[str, Path] = {
    "CheckpointReply": (MSGPACK,),
    "CheckpointEnvelope": (MSGPACK, "envelope", JSON),
    "CheckpointBody": (MSGPACK, "envelope", JSON, "body", JSON_TEXT),
}


@pytest.mark.parametrize(("struct", "field"), fields_of(*CHECKPOINT))
async def test_a_changed_checkpoint_is_noticed(site: Site, struct: str, field: str) -> None:
    """Forge, cut, and swap what says where the chain stood; the receipt key's other signatures do not serve."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    envelope = await site.client.checkpoint()
    genuine = verify_checkpoint(envelope, receipt_key=site.receipt_key)
    reply = messages.encode(CheckpointReply(envelope))
    changed = [(v.payload, v.malformed) for v in variants(reply, struct, CHECKPOINT[struct], field)]
    if (struct, field) == ("CheckpointEnvelope", "signature"):
        [receipt] = (await site.client.get_receipts(1))[:1]
        stolen = json.loads(envelope) | {"signature": json.loads(receipt)["signature"]}
        changed.append((messages.encode(CheckpointReply(json.dumps(stolen).encode())), False))
    for payload, malformed in changed:

        async def hook(_port: int, frame: Any, payload: bytes = payload) -> list[bytes | None]:
            return [whole(Kind.REPLY, frame, payload)]

        site.relay.on_reply = hook
        with pytest.raises(AdytumError) as caught:
            verify_checkpoint(await site.client.checkpoint(), receipt_key=site.receipt_key)
        assert caught.value.code.value in (stop.malformed if malformed else stop.codes)
        site.relay.honest()
    assert len(changed) >= 3
    assert verify_checkpoint(await site.client.checkpoint(), receipt_key=site.receipt_key).link == genuine.link


@pytest.mark.parametrize("field", ["type", "receipts"])
async def test_a_changed_list_of_receipts_is_noticed(site: Site, field: str) -> None:
    """Drop, reorder, cut, swap and repeat what the audit fetches."""
    stop = row("GetReceiptsReply", field)
    assert isinstance(stop, Stop)
    envelopes = await site.client.get_receipts(1)
    assert len(envelopes) >= 4
    reply = GetReceiptsReply(envelopes[:4])
    changed = [
        (v.payload, v.malformed) for v in variants(messages.encode(reply), "GetReceiptsReply", (MSGPACK,), field)
    ]
    if field == "receipts":
        a, b, c, d = envelopes[:4]
        for order in ([a, c, b, d], [a, b, b, c, d], [b, c, d], [a, b, d], [a, b, c, c]):
            changed.append((messages.encode(GetReceiptsReply(order)), False))
    head = verify_chain(reply.receipts, receipt_key=site.receipt_key).head
    for payload, malformed in changed:

        async def hook(_port: int, frame: Any, payload: bytes = payload) -> list[bytes | None]:
            return [whole(Kind.REPLY, frame, payload)]

        site.relay.on_reply = hook
        with pytest.raises(AdytumError) as caught:
            got = await site.client.get_receipts(1)
            verify_chain(got, receipt_key=site.receipt_key, head=head).require_intact()
        assert caught.value.code.value in (stop.malformed if malformed else stop.codes)
        site.relay.honest()


@pytest.mark.parametrize(("struct", "field"), unproven())
async def test_a_field_that_proves_nothing_changes_nothing(site: Site, struct: str, field: str) -> None:
    """A host lies about its own enclave: what a verifier relies on is elsewhere, and says the truth."""
    found = row(struct, field)
    assert isinstance(found, Unproven)
    message = site.message("sign", by=site.mallory)
    honest: Reply = {
        "HelloReply": site.client.hello,
        "HealthReply": site.client.health,
        "PutPolicyReply": lambda: site.client.put_policy("acme", site.envelope()),
        "GetUsageReply": lambda: usage_reply(site),
        "UsageEntry": lambda: usage_reply(site),
        "Refusal": lambda: site.pass_on(message),
        "ConfigureReply": lambda: configure_reply(site),
    }[struct]()
    reply = await honest
    count = 0
    path: Path = (MSGPACK, "entries", 0) if struct == "UsageEntry" else (MSGPACK,)
    for variant in variants(messages.encode(reply), struct, path, field):
        if variant.malformed:
            with pytest.raises(AdytumError):
                messages.decode_reply(variant.payload)
            continue
        assert messages.decode_reply(variant.payload) != reply
        count += 1
    assert count >= 1
    proven = await attested(site)  # raises unless binding, PCR16 and manifest are those of the first boot
    assert proven == site.binding
    signed = await site.send("sign")
    assert isinstance(signed, ExecuteReply)
    receipt = json.loads(json.loads(signed.receipt)["body"])
    assert (receipt["policy_version"], receipt["chain"]) == (5, proven.boot_id)


async def usage_reply(site: Site) -> messages.GetUsageReply:
    reply = await site.client.get_usage("acme")
    return messages.GetUsageReply(reply.boot_id, 1, True, [messages.UsageEntry("daily", "tenant", 60_000, "2", "1")])


async def configure_reply(site: Site) -> messages.ConfigureReply:
    return messages.ConfigureReply(manifest_hash(site.stack.manifest), site.stack.pcrs[16])


@pytest.mark.parametrize(
    "struct", ["HelloReply", "HealthReply", "PutPolicyReply", "ConfigureReply", "Done", "GetUsageReply"]
)
async def test_an_answer_of_another_kind_is_refused_by_the_client(site: Site, struct: str) -> None:
    """Downgrade: the host answers with another message, or with none."""
    calls: dict[str, Any] = {
        "HelloReply": site.client.hello,
        "HealthReply": site.client.health,
        "PutPolicyReply": lambda: site.client.put_policy("acme", site.envelope()),
        "ConfigureReply": lambda: site.client.configure(b"{}"),
        "GetUsageReply": lambda: site.client.get_usage("acme"),
        "Done": lambda: site.client.set_credentials(site.stack.credentials),
    }
    seen: list[bytes] = []
    samples = {"ConfigureReply": messages.encode(await configure_reply(site)), "Done": messages.encode(messages.Done())}
    if struct in samples:
        seen.append(samples[struct])
    else:
        seen.append(messages.encode(await calls[struct]()))
    for variant in variants(seen[0], struct, (MSGPACK,), "type"):

        async def hook(_port: int, frame: Any, payload: bytes = variant.payload) -> list[bytes | None]:
            return [whole(Kind.REPLY, frame, payload)]

        site.relay.on_reply = hook
        with pytest.raises(AdytumError) as caught:
            await calls[struct]()
        assert caught.value.code.value == "MESSAGE_INVALID", variant.detail
        site.relay.honest()
