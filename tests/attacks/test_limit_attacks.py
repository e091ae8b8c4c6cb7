"""What a host tries to get more out of a limit than its policy says. Named after the attack; each says the code, and
that nothing more was signed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from limited import Limited, charged, open_limited
from wallet import refused

from adytum_sim.stack import TENANT, key_policy, put_key_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.usage import Snapshot, encode_snapshot, parse_snapshot

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:moto", "ignore::ResourceWarning")


@pytest.fixture
async def host(short_directory: Path) -> AsyncIterator[Limited]:
    async with open_limited(short_directory, "host") as limited:
        yield limited


@pytest.fixture
async def dynamo(short_directory: Path) -> AsyncIterator[Limited]:
    async with open_limited(short_directory, "dynamodb") as limited:
        yield limited


async def spend(limited: Limited, times: int) -> list[ExecuteReply]:
    replies = [await limited.sign() for _ in range(times)]
    assert all(isinstance(reply, ExecuteReply) for reply in replies), replies
    return [reply for reply in replies if isinstance(reply, ExecuteReply)]


async def fails(call: Any, code: Code, field: str | None = None) -> None:
    with pytest.raises(AdytumError) as caught:
        await call
    assert caught.value.code is code, caught.value
    assert field is None or caught.value.field == field


# --- the limit itself


@pytest.mark.parametrize("kind", ["none", "host", "dynamodb"])
async def test_a_payment_split_in_many_requests_does_not_exceed_the_limit(short_directory: Path, kind: str) -> None:
    async with open_limited(short_directory, kind) as limited:
        replies = [await limited.sign() for _ in range(5)]
        for reply in replies[:3]:
            assert isinstance(reply, ExecuteReply)
        for reply in replies[3:]:
            refused(reply, Code.LIMIT_EXCEEDED)
        assert [charged(reply)[0].used for reply in replies[:3]] == ["1", "2", "3"]
        assert await limited.used() == (3, 0)
        assert (limited.stored != b"") == (kind == "host")


@pytest.mark.parametrize("kind", ["host", "dynamodb"])
async def test_requests_sent_at_once_do_not_exceed_the_limit(short_directory: Path, kind: str) -> None:
    async with open_limited(short_directory, kind, most=20) as limited:
        replies = await asyncio.gather(*(limited.sign() for _ in range(50)))
        done = [reply for reply in replies if isinstance(reply, ExecuteReply)]
        assert len(done) == 20
        for reply in replies:
            if isinstance(reply, Refusal):
                refused(reply, Code.LIMIT_EXCEEDED)
        assert await limited.used() == (20, 0)
        if limited.dynamo is not None:
            writes = limited.dynamo.door.calls.count("PutItem")
            assert writes < 12, "requests that wait at the same time share a write"


def allow_at_kms(limited: Limited, allowed: bool) -> None:
    """A key policy for this image, or for another one."""
    stack = limited.stack
    pcrs = stack.pcrs if allowed else stack.pcrs | {0: bytes(range(48))}
    put_key_policy(stack.kms, stack.key_arn, key_policy(stack.kms, pcrs))


@pytest.mark.parametrize("kind", ["host", "dynamodb"])
async def test_requests_that_fail_at_kms_leave_nothing_held(short_directory: Path, kind: str) -> None:
    async with open_limited(short_directory, kind, most=20, bounds={"key_ttl_seconds": 0}) as limited:
        await spend(limited, 1)  # the snapshot's data key is there
        allow_at_kms(limited, False)
        for reply in await asyncio.gather(*(limited.sign() for _ in range(15))):
            refused(reply, Code.KMS_DENIED)
        assert await limited.used() == (1, 0), "given back"
        allow_at_kms(limited, True)
        limited.stack.kms.faults.set(delay_ms=5)
        asked = asyncio.gather(*(limited.sign() for _ in range(50)))
        while not asked.done():
            allow_at_kms(limited, False)
            await asyncio.sleep(0.01)
            allow_at_kms(limited, True)
            await asyncio.sleep(0.01)
        replies = await asked
        limited.stack.kms.faults.reset()
        done = sum(isinstance(reply, ExecuteReply) for reply in replies)
        codes = {reply.code for reply in replies if isinstance(reply, Refusal)}
        assert codes <= {Code.LIMIT_EXCEEDED.value, Code.KMS_DENIED.value}
        assert done <= 19
        assert await limited.used() == (done + 1, 0), "what was given back is free again"
        rest = [await limited.sign() for _ in range(20 - done)]
        assert sum(isinstance(reply, ExecuteReply) for reply in rest) == 19 - done
        assert await limited.used() == (20, 0)


async def test_the_same_request_sent_ten_times_is_charged_once(host: Limited) -> None:
    body: Any = {"request_id": "r-00000001", "issued_at": host.stack.now_ms()}
    replies = [await host.sign(**body) for _ in range(10)]
    assert len({reply.result for reply in replies if isinstance(reply, ExecuteReply)}) == 1
    assert await host.used() == (1, 0)


async def test_a_request_refused_by_kms_is_given_back_and_charged_when_it_works(short_directory: Path) -> None:
    async with open_limited(short_directory, "host", bounds={"key_ttl_seconds": 0}) as limited:
        await spend(limited, 1)
        body: Any = {"request_id": "r-00000001", "issued_at": limited.stack.now_ms()}
        allow_at_kms(limited, False)
        refused(await limited.sign(**body), Code.KMS_DENIED)
        assert await limited.used() == (1, 0)
        allow_at_kms(limited, True)
        assert isinstance(await limited.sign(**body), ExecuteReply)
        assert await limited.used() == (2, 0)


# --- a restart


@pytest.mark.parametrize("kind", ["none", "host"])
async def test_a_restart_does_not_reset_the_window(short_directory: Path, kind: str) -> None:
    async with open_limited(short_directory, kind) as limited:
        await spend(limited, 3)
        await limited.restart()
        refused(await limited.sign(), Code.USAGE_UNKNOWN)
        await limited.make()  # what no limit counts goes on
        assert await limited.used() == (0, 0)


async def test_the_newest_snapshot_opens_the_limit_where_it_stood(host: Limited) -> None:
    await spend(host, 2)
    await host.restart()
    await host.present()
    assert await host.used() == (2, 0)
    await spend(host, 1)
    refused(await host.sign(), Code.LIMIT_EXCEEDED)


async def test_a_repeat_after_a_restart_is_charged_once(host: Limited) -> None:
    body: Any = {"request_id": "r-00000001", "issued_at": host.stack.now_ms()}
    first = await host.sign(**body)
    await host.restart()
    await host.present()
    again = await host.sign(**body)
    assert isinstance(first, ExecuteReply) and isinstance(again, ExecuteReply)
    assert first.result == again.result
    assert await host.used() == (1, 0)


# --- snapshots


async def test_an_older_snapshot_than_seen_is_refused(host: Limited) -> None:
    await spend(host, 3)
    await host.restart()
    await host.present()
    for old in host.kept:
        await fails(host.present(old), Code.USAGE_ROLLBACK)
    refused(await host.sign(), Code.LIMIT_EXCEEDED)
    assert await host.used() == (3, 0)


async def test_a_snapshot_of_the_running_boot_is_refused(host: Limited) -> None:
    await spend(host, 2)
    for snapshot in host.kept:
        await fails(host.present(snapshot), Code.USAGE_ROLLBACK)
    assert await host.used() == (2, 0)


async def test_a_snapshot_for_another_tenant_or_deployment_is_refused(host: Limited) -> None:
    await spend(host, 2)
    await host.restart()
    snapshot, _ = parse_snapshot(host.stored)
    for old, new, field in (
        (b'"tenant":"acme"', b'"tenant":"evil"', "$.tenant"),
        (b'"deployment":"stand-in"', b'"deployment":"other"', "$.deployment"),
    ):
        header = snapshot.header.replace(old, new)
        assert header != snapshot.header
        forged = encode_snapshot(Snapshot(header, snapshot.ciphertext_blob, snapshot.data_key_ciphertext))
        await fails(host.present(forged), Code.USAGE_INVALID, field)
    await fails(host.stack.client.put_usage("evil", host.stored), Code.TENANT_UNKNOWN)
    refused(await host.sign(), Code.USAGE_UNKNOWN)


async def test_an_edited_snapshot_does_not_open(host: Limited) -> None:
    await spend(host, 2)
    await host.restart()
    snapshot, header = parse_snapshot(host.stored)
    newer = snapshot.header.replace(str(header.version).encode(), str(header.version + 1).encode())
    blob = snapshot.ciphertext_blob
    for forged in (
        Snapshot(newer, blob, snapshot.data_key_ciphertext),
        *(
            Snapshot(snapshot.header, blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], snapshot.data_key_ciphertext)
            for at in (0, 32, 44, len(blob) - 1)
        ),
        Snapshot(snapshot.header, blob[:40], snapshot.data_key_ciphertext),
        Snapshot(snapshot.header, blob, snapshot.data_key_ciphertext[:-1] + b"\0"),
    ):
        await fails(host.present(encode_snapshot(forged)), Code.USAGE_INVALID)
    for size in range(0, len(host.stored), 97):
        await fails(host.present(host.stored[:size]), Code.USAGE_INVALID)
    refused(await host.sign(), Code.USAGE_UNKNOWN)
    await host.present()
    assert await host.used() == (2, 0)


async def test_a_record_is_no_snapshot_and_a_snapshot_no_record(host: Limited) -> None:
    assert host.key is not None
    await spend(host, 1)
    snapshot, _ = parse_snapshot(host.stored)
    await host.restart()
    forged = encode_snapshot(
        Snapshot(snapshot.header, host.key.record.ciphertext_blob, host.key.record.data_key_ciphertext)
    )
    await fails(host.present(forged), Code.USAGE_INVALID)


@pytest.mark.parametrize("kind", ["none", "dynamodb"])
async def test_a_snapshot_is_not_taken_where_the_manifest_does_not_trust_the_host(
    short_directory: Path, kind: str
) -> None:
    async with open_limited(short_directory, kind) as limited:
        await fails(limited.present(b"anything"), Code.USAGE_INVALID)


async def test_a_policy_older_than_the_snapshot_has_seen_is_refused(host: Limited) -> None:
    old = dict(host.document)
    host.document["version"] = 6
    await host.put_policy()
    await spend(host, 1)
    host.document = old | {"version": 5}
    await host.restart()  # with the policy of version 5, which the host had kept
    await host.present()
    refused(await host.sign(), Code.POLICY_MISSING, with_receipt=False)
    await fails(host.put_policy(), Code.POLICY_ROLLBACK)
    host.document["version"] = 6
    host.document["valid_until"] += 1  # another document of the same version
    await fails(host.put_policy(), Code.POLICY_ROLLBACK)
    host.document["version"] = 7
    await host.put_policy()
    assert isinstance(await host.sign(), ExecuteReply)


# --- resets


async def test_a_reset_needs_the_quorum_this_boot_and_this_tenant(host: Limited) -> None:
    await spend(host, 3)
    boot_before = await host.boot_id()
    await host.restart()
    await fails(host.reset(admins=1), Code.POLICY_QUORUM)
    await fails(host.reset(admins=0), Code.POLICY_QUORUM)
    await fails(host.reset(boot_id=boot_before), Code.USAGE_INVALID, "$.boot_id")
    await fails(host.reset(tenant="other"), Code.USAGE_INVALID, "$.tenant")
    await fails(host.reset(extra=1), Code.USAGE_INVALID)
    await host.reset(["another"])
    refused(await host.sign(), Code.USAGE_UNKNOWN)
    await host.reset(["daily"])
    await spend(host, 3)
    refused(await host.sign(), Code.LIMIT_EXCEEDED)


async def test_a_reset_sent_again_frees_nothing_that_this_boot_charged(host: Limited) -> None:
    await spend(host, 3)
    await host.reset()
    refused(await host.sign(), Code.LIMIT_EXCEEDED)
    assert await host.used() == (3, 0)


async def test_a_policy_is_no_reset(host: Limited) -> None:
    from adytum_sim.people import signed_policy

    envelope = signed_policy(host.document, *host.stack.admins)
    await fails(host.stack.client.reset_usage(TENANT, envelope), Code.USAGE_INVALID, "$.payloadType")


# --- the anchor in DynamoDB


async def test_a_restart_reads_the_anchor(dynamo: Limited) -> None:
    await spend(dynamo, 2)
    await dynamo.restart()
    await spend(dynamo, 1)
    refused(await dynamo.sign(), Code.LIMIT_EXCEEDED)
    assert await dynamo.used() == (3, 0)


async def test_two_enclaves_share_one_limit(dynamo: Limited, tmp_path: Path) -> None:
    """Another boot wrote in between: the item is read again, and nobody gets more than is left."""
    assert dynamo.dynamo is not None
    before = dynamo.dynamo.item()
    await spend(dynamo, 2)
    newest = dynamo.dynamo.item()
    await dynamo.restart()
    await spend(dynamo, 1)
    assert before is not None and newest is not None
    refused(await dynamo.sign(), Code.LIMIT_EXCEEDED)


async def test_an_item_put_back_is_refused_by_a_boot_that_saw_a_newer_one(dynamo: Limited) -> None:
    assert dynamo.dynamo is not None
    await spend(dynamo, 1)
    old = dynamo.dynamo.item()
    await spend(dynamo, 1)
    assert old is not None
    dynamo.dynamo.put(old)
    refused(await dynamo.sign(), Code.USAGE_ROLLBACK)
    dynamo.dynamo.delete()
    refused(await dynamo.sign(), Code.USAGE_ROLLBACK)
    assert await dynamo.used() == (2, 0)


async def test_a_reset_forgives_one_item_put_back_and_not_the_next(short_directory: Path) -> None:
    """The admins signed it for one mishap. The host makes another, and sends what they signed once more."""
    async with open_limited(short_directory, "dynamodb", most=10) as limited:
        table = limited.dynamo
        assert table is not None
        await spend(limited, 1)
        old = table.item()
        await spend(limited, 1)
        assert old is not None
        table.put(old)
        refused(await limited.sign(), Code.USAGE_ROLLBACK)
        await limited.reset()
        await spend(limited, 1)
        assert await limited.used() == (3, 0), "what this boot knew counts, although the item knew less"
        for put_back in (lambda: table.put(old), table.delete):
            put_back()
            item = table.item()
            refused(await limited.sign(), Code.USAGE_ROLLBACK)
            await fails(limited.reset(), Code.USAGE_INVALID, "$.boot_id (used up)")
            refused(await limited.sign(), Code.USAGE_ROLLBACK)
            assert await limited.used() == (3, 0)
            assert table.item() == item


ANSWERS = (
    b"",
    b"{",
    b"[]",
    b'{"Item":{}}',
    b'{"Item":{"id":{"S":"stand-in/evil"},"version":{"N":"1"},"snapshot":{"B":"AA=="}}}',
    b'{"Item":{"id":{"S":"stand-in/acme"},"version":{"N":"-1"},"snapshot":{"B":"AA=="}}}',
    b'{"Item":{"id":{"S":"stand-in/acme"},"version":{"N":"1"},"snapshot":{"B":"!"}}}',
    b'{"Item":{"id":{"S":"stand-in/acme"},"version":{"N":"9000000000000000"},"snapshot":{"B":"AA=="}}}',
)


async def test_an_answer_that_is_none_opens_nothing(dynamo: Limited) -> None:
    assert dynamo.dynamo is not None
    await spend(dynamo, 1)
    await dynamo.stack.restart_enclave()
    dynamo.stack.reconnect()
    await dynamo.stack.configure()
    for answer in ANSWERS:
        dynamo.dynamo.door.faults["GetItem"] = [answer]
        with pytest.raises(AdytumError) as caught:
            await dynamo.put_policy()
        assert caught.value.code in (Code.ANCHOR_UNAVAILABLE, Code.USAGE_INVALID)
        assert (await dynamo.stack.client.health()).policies == {}
    await dynamo.put_policy()
    await spend(dynamo, 2)
    refused(await dynamo.sign(), Code.LIMIT_EXCEEDED)


@pytest.mark.parametrize("fault", ["cut-before", "cut-after"])
async def test_a_pipe_cut_during_the_write_charges_once_and_gives_the_same_bytes(dynamo: Limited, fault: str) -> None:
    assert dynamo.dynamo is not None
    await spend(dynamo, 1)
    body: Any = {"request_id": "r-00000001", "issued_at": dynamo.stack.now_ms()}
    dynamo.dynamo.door.faults["PutItem"] = [fault] * 8  # more often than a call is tried
    dynamo.dynamo.door.faults["GetItem"] = ["cut-before"] * 8
    reply = refused(await dynamo.sign(**body), Code.ANCHOR_UNAVAILABLE)
    assert isinstance(reply, Refusal)
    dynamo.dynamo.door.faults.clear()
    first = await dynamo.sign(**body)
    again = await dynamo.sign(**body)
    assert isinstance(first, ExecuteReply) and isinstance(again, ExecuteReply)
    assert first.result == again.result
    assert await dynamo.used() == (2, 0)
    await spend(dynamo, 1)
    refused(await dynamo.sign(), Code.LIMIT_EXCEEDED)


async def test_without_the_anchor_nothing_with_a_limit_is_signed(dynamo: Limited) -> None:
    assert dynamo.dynamo is not None
    dynamo.dynamo.door.faults["PutItem"] = ["deny"]
    refused(await dynamo.sign(), Code.ANCHOR_UNAVAILABLE)
    dynamo.dynamo.door.faults["PutItem"] = ["throttle"]
    await spend(dynamo, 1)
    assert await dynamo.used() == (1, 0)


async def test_an_older_policy_after_a_restart_is_refused_by_the_anchor(dynamo: Limited) -> None:
    old = dict(dynamo.document)
    dynamo.document["version"] = 6
    await dynamo.put_policy()
    dynamo.document = old | {"version": 5}
    with pytest.raises(AdytumError) as caught:
        await dynamo.restart()
    assert caught.value.code is Code.POLICY_ROLLBACK
    assert (await dynamo.stack.client.health()).policies == {}
    dynamo.document["version"] = 7
    await dynamo.put_policy()
    await spend(dynamo, 1)


async def test_a_caller_that_goes_away_while_the_anchor_is_written_leaves_nothing_held(dynamo: Limited) -> None:
    assert dynamo.dynamo is not None
    await spend(dynamo, 1)
    gate = dynamo.dynamo.door.gate = asyncio.Event()
    body: Any = {"request_id": "r-00000001", "issued_at": dynamo.stack.now_ms(), "timeout_s": 0.5}
    with contextlib.suppress(AdytumError):
        refused(await dynamo.sign(**body), Code.DEADLINE_EXCEEDED)
    gate.set()
    dynamo.dynamo.door.gate = None
    await spend(dynamo, 1)
    charged_now, held = await dynamo.used()
    assert held == 0 and charged_now in (2, 3), "the write may have happened; then the repeat is free"
    if charged_now == 3:
        del body["timeout_s"]
        assert isinstance(await dynamo.sign(**body), ExecuteReply)
        assert await dynamo.used() == (3, 0)
