"""What a host tries that holds everything but the credentials of the anchor's table, which only enclaves open: it puts
back what was used, and lies about the record that holds them. Named after the attack."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from dynamo import HOST, REGION, TABLE
from limited import USER, Limited, access, open_limited, table_user
from memory import found, require_readable
from outsider import open_record
from wallet import Made, allow_everything, made, refused

from adytum_enclave.shell.sigv4 import Signer
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.kms.sigv4 import SignedRequest
from adytum_sim.stack import TENANT
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials, ExecuteReply
from adytum_wire.record import Record, parse_header

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:moto", "ignore::ResourceWarning")

PLAIN = json.dumps(access(*USER), separators=(",", ":")).encode()


@pytest.fixture
async def anchored(short_directory: Path) -> AsyncIterator[Limited]:
    async with open_limited(short_directory, "dynamodb", sealed=True) as limited:
        yield limited


async def fails(call: Any, code: Code, field: str | None = None) -> None:
    with pytest.raises(AdytumError) as caught:
        await call
    assert caught.value.code is code, caught.value
    assert field is None or caught.value.field == field, caught.value


async def spend(limited: Limited, times: int) -> None:
    for _ in range(times):
        reply = await limited.sign()
        assert isinstance(reply, ExecuteReply), reply


async def at_the_table(limited: Limited, operation: str, fields: dict[str, Any], credentials: Credentials) -> str:
    """What the table answers the host: "" or the error's name."""
    assert limited.dynamo is not None
    body = json.dumps({"TableName": TABLE} | fields).encode()
    sent = [("X-Amz-Target", f"DynamoDB_20120810.{operation}"), ("Content-Type", "application/x-amz-json-1.0")]
    signer = Signer(service="dynamodb", region=REGION)
    headers = signer.sign("POST", HOST, sent, body, credentials, now_ms=system_clock_ms())
    answer = await limited.dynamo.door.handle(
        SignedRequest(method="POST", target="/", headers=[(name.lower(), value) for name, value in headers], body=body)
    )
    assert answer is not None
    return "" if answer.status == 200 else json.loads(answer.body)["__type"].split("#")[-1]


# --- the table


async def test_a_host_cannot_put_back_or_delete_what_was_used(anchored: Limited) -> None:
    """With all the credentials that it has: those that it pushes for KMS."""
    assert anchored.dynamo is not None
    await spend(anchored, 1)
    old = anchored.dynamo.item()
    assert old is not None
    await spend(anchored, 2)
    newest = anchored.dynamo.item()
    item = {name: {kind: value.decode() if isinstance(value, bytes) else value} for name, field in old.items()
            for kind, value in field.items() if name != "snapshot"}  # fmt: skip
    item["snapshot"] = {"B": "AAAA"}
    hosts = anchored.stack.credentials
    key = {"Key": {"id": {"S": f"stand-in/{TENANT}"}}}
    for operation, fields in (("PutItem", {"Item": item}), ("DeleteItem", key), ("GetItem", key)):
        assert await at_the_table(anchored, operation, fields, hosts) == "AccessDeniedException", operation
    assert anchored.dynamo.door.denied == 3
    assert anchored.dynamo.item() == newest
    await anchored.restart()
    refused(await anchored.sign(), Code.LIMIT_EXCEEDED)
    assert await anchored.used() == (3, 0)
    forged = msgspec.structs.replace(hosts, access_key_id=USER[0], session_token="")
    assert await at_the_table(anchored, "DeleteItem", key, forged) != ""
    assert anchored.dynamo.item() == newest


async def test_the_enclave_does_not_use_the_hosts_credentials(anchored: Limited) -> None:
    """A host that pushes somebody's credentials, who may write the table or has one of the same name."""
    assert anchored.dynamo is not None
    await spend(anchored, 1)  # what KMS opens is open now
    await anchored.stack.client.set_credentials(Credentials("AKIAMALLORYMALLORY00", "x" * 40, "", 0))
    before = anchored.dynamo.door.unsigned
    await spend(anchored, 1)
    assert anchored.dynamo.door.unsigned == before
    assert anchored.dynamo.door.denied == 0


async def test_a_table_of_the_same_name_in_another_account_is_not_the_anchor(anchored: Limited) -> None:
    """Credentials that somebody sealed who has such a table: the request names the account."""
    assert anchored.dynamo is not None
    await spend(anchored, 3)
    anchored.dynamo.door.account = "999999999999"
    with pytest.raises(AdytumError) as caught:
        await anchored.restart()
    assert (caught.value.code, caught.value.field) == (Code.ANCHOR_UNAVAILABLE, "ResourceNotFoundException")


# --- without credentials


async def test_withheld_credentials_open_nothing_and_bring_no_older_policy_back(anchored: Limited) -> None:
    """The host keeps the record to itself, and presents the policy of before, which had no limits."""
    await spend(anchored, 3)
    old = json.loads(json.dumps(anchored.document))
    anchored.document["version"] = 6
    await anchored.put_policy()
    record, anchored.access = anchored.access, None
    anchored.document = old
    for rule in anchored.document["rules"]:
        rule["limits"] = "none"
    await anchored.restart()
    reply = refused(await anchored.sign(), Code.ANCHOR_UNAVAILABLE)
    assert reply.field == "credentials"
    assert record is not None
    for operation, fields in (("reseal", {}), ("unseal", {"recipient": "07" * 32})):
        asked = anchored.stack.ask(anchored.alice, operation, key_id=record.key_id, record=record.record, **fields)
        refused(await asked, Code.ANCHOR_UNAVAILABLE)
    refused(
        await anchored.stack.ask(anchored.alice, "generate_key", algorithm="secp256k1", labels=["treasury"]),
        Code.ANCHOR_UNAVAILABLE,
    )
    anchored.access = record
    await anchored.present_access()
    refused(await anchored.sign(), Code.POLICY_MISSING, with_receipt=False)
    await fails(anchored.put_policy(), Code.POLICY_ROLLBACK)
    refused(await anchored.sign(), Code.POLICY_MISSING, with_receipt=False)


# --- the record


async def reseal(limited: Limited, item: Made) -> Made:
    return made(await limited.stack.ask(limited.alice, "reseal", key_id=item.key_id, record=item.record))


async def test_an_older_record_is_refused_after_a_newer_one(anchored: Limited) -> None:
    assert anchored.access is not None
    first = anchored.access
    anchored.access = await reseal(anchored, first)
    await anchored.present_access()
    await fails(anchored.present_access(first.record), Code.RECORD_ROLLBACK)
    other = await anchored.seal_access("AKIAADYTUMANCHORUSR2", USER[1])
    await anchored.present_access(other.record)
    await fails(anchored.present_access(), Code.RECORD_ROLLBACK, "$.created_at")
    refused(await anchored.sign(), Code.ANCHOR_UNAVAILABLE)  # the newest is in force, and that user is unknown
    assert anchored.dynamo is not None
    anchored.dynamo.door.known[other_id] = table_user(anchored.stack, other_id := "AKIAADYTUMANCHORUSR2", USER[1])
    anchored.dynamo.door.only = other_id
    await spend(anchored, 3)
    refused(await anchored.sign(), Code.LIMIT_EXCEEDED)


async def test_a_record_below_the_floor_is_not_used(anchored: Limited) -> None:
    assert anchored.access is not None
    old = anchored.access
    anchored.document["version"] = 6
    anchored.document["records"] = {"generation": 2, "min_generation": 1}
    await anchored.put_policy()
    renewed = await reseal(anchored, old)
    assert anchored.key is not None
    anchored.key = await reseal(anchored, anchored.key)
    anchored.document["version"] = 7
    anchored.document["records"] = {"generation": 2, "min_generation": 2}
    await anchored.put_policy()
    reply = refused(await anchored.sign(), Code.ANCHOR_UNAVAILABLE)
    assert reply.field == "credentials"
    await fails(anchored.present_access(), Code.RECORD_RETIRED)
    await anchored.present_access(renewed.record)
    await spend(anchored, 3)
    refused(await anchored.sign(), Code.LIMIT_EXCEEDED)


async def test_another_record_in_its_place_is_refused(anchored: Limited) -> None:
    """Of another kind, tenant or node; a `secret` with the same bytes; and each byte of it that is changed."""
    assert anchored.access is not None and anchored.key is not None
    record = anchored.access.record
    await fails(anchored.present_access(anchored.key.record), Code.RECORD_MISMATCH, "$.kind")
    await fails(anchored.present_access(tenant="other"), Code.TENANT_UNKNOWN)
    secret = await sealed_secret(anchored, PLAIN)
    await fails(anchored.present_access(secret.record), Code.RECORD_MISMATCH, "$.kind")
    relabelled = secret.record.header.replace(b'"secret"', b'"anchor-credentials"')
    assert relabelled != secret.record.header
    await fails(
        anchored.present_access(msgspec.structs.replace(secret.record, header=relabelled)), Code.RECORD_TAMPERED
    )
    header, blob = record.header, record.ciphertext_blob
    for old, new, code in (
        (b'"tenant":"acme"', b'"tenant":"evil"', Code.RECORD_MISMATCH),
        (b'"node_id":"node-1"', b'"node_id":"node-2"', Code.RECORD_MISMATCH),
        (b'"state":"active"', b'"state":"disabled"', Code.RECORD_MISMATCH),
        (b'"labels":["treasury"]', b'"labels":[]', Code.RECORD_TAMPERED),
        (b'"generation":1', b'"generation":9', Code.RECORD_TAMPERED),
        (b'"version":1', b'"version":2', Code.RECORD_TAMPERED),
    ):
        assert old in header
        await fails(anchored.present_access(Record(header.replace(old, new), blob, record.data_key_ciphertext)), code)
    for at in (0, 32, 44, len(blob) - 1):
        bad = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        await fails(anchored.present_access(Record(header, bad, record.data_key_ciphertext)), Code.RECORD_TAMPERED)
    await fails(anchored.present_access(Record(header, b"", record.data_key_ciphertext)), Code.RECORD_INVALID)
    swapped = msgspec.structs.replace(record, data_key_ciphertext=anchored.key.record.data_key_ciphertext)
    await fails(anchored.present_access(swapped), Code.RECORD_TAMPERED)
    await spend(anchored, 3)
    refused(await anchored.sign(), Code.LIMIT_EXCEEDED)


async def sealed_secret(limited: Limited, plaintext: bytes) -> Made:
    return made(await limited.ask_to_seal(plaintext, operation="seal"))


async def test_no_operation_hands_the_credentials_out(anchored: Limited) -> None:
    """Not to the tenant's own people either, whatever the policy allows."""
    assert anchored.access is not None
    item, own = anchored.access, X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    anchored.document["version"] = 6
    anchored.document["recipients"] = [{"id": "mallory", "public_key": own}]
    every = ["unseal", "derive_key", "sign", "sign-raw", "reseal", "disable_key", "schedule_deletion"]
    ask_others = {"approvals": {"role": "signer", "count": 1}}
    anchored.document["rules"] = [
        allow_everything("all", operations=every),
        allow_everything("out", operations=["export"], **ask_others),
    ]
    await anchored.put_policy()
    for operation, fields in (
        ("unseal", {"recipient": own}),
        ("export", {"recipient": "mallory"}),
        ("derive_key", {"path": "m/0'", "algorithm": "secp256k1"}),
        ("sign", {"path": "", "scheme": "ed25519", "content": {"type": "raw-message", "message": "00"}}),
        ("disable_key", {}),
        ("schedule_deletion", {"waiting_days": 7}),
    ):
        asked = anchored.stack.ask(anchored.alice, operation, key_id=item.key_id, record=item.record, **fields)
        reply = refused(await asked, Code.RECORD_MISMATCH)
        assert reply.field == "$.kind", operation
    renewed = await reseal(anchored, item)
    assert parse_header(renewed.record.header).version == 2
    await anchored.present_access(renewed.record)


async def test_recovery_holders_get_no_envelope_of_it(anchored: Limited) -> None:
    assert anchored.access is not None
    keys = [X25519PrivateKey.generate().public_key().public_bytes_raw().hex() for _ in range(3)]
    anchored.document["version"] = 6
    anchored.document["recovery"] = {"threshold": 2, "keys": keys}
    await anchored.put_policy()
    item = anchored.access
    reply = await anchored.stack.ask(anchored.alice, "reseal", key_id=item.key_id, record=item.record)
    assert isinstance(reply, ExecuteReply) and reply.recovery == b""
    assert anchored.key is not None
    reply = await anchored.stack.ask(anchored.alice, "reseal", key_id=anchored.key.key_id, record=anchored.key.record)
    assert isinstance(reply, ExecuteReply) and reply.recovery != b""


async def test_what_is_no_key_pair_is_not_sealed(anchored: Limited) -> None:
    ident, secret = USER
    for plaintext in (
        b"{}",
        PLAIN[:-1],
        PLAIN + b" ",
        b" " + PLAIN,
        PLAIN.replace(b":", b": "),
        json.dumps({"secret_access_key": secret, "access_key_id": ident}, separators=(",", ":")).encode(),
        PLAIN.replace(ident.encode(), ident.lower().encode()),
        PLAIN.replace(ident.encode(), b"A" * 15),
        PLAIN.replace(ident.encode(), b"A" * 65),
        PLAIN.replace(ident.encode(), b"A" * 5000),
        PLAIN.replace(secret.encode(), b"s" * 15),
        PLAIN.replace(secret.encode(), b"s" * 61),
        b"\x00" * len(PLAIN),
        b"{",
    ):
        reply = refused(await anchored.ask_to_seal(plaintext), Code.REQUEST_INVALID)
        assert reply.field == "$.sealed", plaintext


async def test_a_record_is_not_taken_where_the_manifest_wants_none(short_directory: Path) -> None:
    async with open_limited(short_directory, "dynamodb") as limited:
        limited.access = await limited.seal_access(*USER)
        await fails(limited.present_access(), Code.USAGE_INVALID)
        await spend(limited, 3)


# --- memory


async def test_the_secret_access_key_is_in_the_arena_only(short_directory: Path) -> None:
    async with open_limited(short_directory, "dynamodb", most=100, sealed=True) as limited:
        require_readable(limited)  # type: ignore[arg-type]  # it looks at the stack only
        assert limited.access is not None
        for _ in range(10):
            assert isinstance(await limited.sign(), ExecuteReply)
        data_key, plaintext = open_record(limited.stack, limited.access.record)
        assert plaintext == PLAIN, "the outsider opened it"
        secret = USER[1].encode()
        steps, key = {}, b"AWS4" + secret
        day = parse_day()
        for name, text in (("date", day), ("region", REGION), ("service", "dynamodb"), ("signing", "aws4_request")):
            key = hmac.new(key, text.encode(), hashlib.sha256).digest()
            steps[name] = key
        kept = {"secret access key", "signing"}
        looked_for = {"secret access key": secret, "data key": data_key} | steps
        hits = found(limited, looked_for)  # type: ignore[arg-type]
        # memfd_secret hides the arena even from root; a locked mapping shows the two that are kept, once each.
        assert {hit.name.split("/")[0] for hit in hits} <= kept
        assert len({hit.address // 4096 for hit in hits}) <= 2
        record = limited.access
        limited.access = None
        await limited.restart()
        limited.access = record
        assert found(limited, looked_for) == []  # type: ignore[arg-type]


def parse_day() -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(system_clock_ms() / 1000, UTC).strftime("%Y%m%d")
