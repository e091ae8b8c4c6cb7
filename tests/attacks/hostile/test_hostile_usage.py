"""The host changes what it keeps for others: sealed usage, an administrators' reset, the second envelopes of records.

The deployment believes its host to present the newest snapshot (anchor `host`), and nothing else of it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path as Directory
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client.checks import check_answer
from adytum.client.usage import draft_reset, sign_reset
from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import UnixEndpoint
from adytum.recovery import RecoveryError, open_recovery
from adytum_sim.hostile.cases import variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.paths import BASE64, JSON, JSON_TEXT, MSGPACK, Path, array
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import Site, open_site
from adytum_wire import limits, messages
from adytum_wire.errors import AdytumError
from adytum_wire.frames import Kind
from adytum_wire.messages import Done, ExecuteReply, PutUsage, Refusal, ResetUsage
from adytum_wire.recovery import parse_recovery
from adytum_wire.requests import parse_body

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-usage")]

MOST = 10_000
SNAPSHOT = array("header", "ciphertext_blob", "data_key_ciphertext")
KEPT: dict[str, Path] = {
    "PutUsage": (MSGPACK,),
    "Snapshot": (MSGPACK, "snapshot", MSGPACK, SNAPSHOT),
    "SnapshotHeader": (MSGPACK, "snapshot", MSGPACK, SNAPSHOT, "header", JSON),
}


@dataclass(slots=True)
class Counted:
    """A site whose signatures count against a limit. `holders` open what it keeps for recovery."""

    site: Site
    holders: list[X25519PrivateKey]

    async def signed(self) -> ExecuteReply:
        reply = await self.site.send("sign")
        assert isinstance(reply, ExecuteReply), reply
        return reply

    async def used(self) -> int:
        entries = (await self.site.stack.client.get_usage("acme")).entries
        return sum(int(entry.used) for entry in entries)

    async def is_open(self) -> bool:
        reply = await self.site.send("sign")
        assert isinstance(reply, ExecuteReply) or reply.code == "USAGE_UNKNOWN", reply
        return isinstance(reply, ExecuteReply)

    async def say(self, payload: bytes) -> str:
        """Let the host say `payload` on the control port. The code of the refusal."""

        async def instead(_port: int, frame: Any) -> list[bytes | None]:
            return [whole(Kind.REQUEST, frame, payload)]

        line = await EnclaveConnection.open(UnixEndpoint(self.site.relay.front), limits.CONTROL_PORT)
        self.site.relay.on_request = instead
        try:
            reply = await line.call(messages.Health(), timeout_s=10)
        finally:
            self.site.relay.honest()
            line.close()
        assert isinstance(reply, Refusal | Done | messages.GetUsageReply), reply
        return reply.code if isinstance(reply, Refusal) else "accepted"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counted() -> AsyncIterator[Counted]:
    """Each boot ends with the audit, the last one here."""
    path = Directory(tempfile.mkdtemp(prefix="ad-"))
    holders = [X25519PrivateKey.generate() for _ in range(2)]
    keys = [holder.public_key().public_bytes_raw().hex() for holder in holders]
    daily = {"measure": "count", "asset": "*", "per": "tenant", "window_seconds": 86_400, "max": str(MOST)}
    policy = {"limits": [daily | {"id": "daily"}], "recovery": {"threshold": 2, "keys": keys}}
    try:
        async with open_site(path, anchor={"kind": "host"}, charged=["daily"], policy=policy) as site:
            counted = Counted(site, holders)
            yield counted
            await site.unharmed()
            assert await site.audit() >= 1
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("field", ["limit", "scope", "amount", "used", "max"])
async def test_a_changed_charge_in_the_receipt_is_noticed(counted: Counted, field: str) -> None:
    """What was charged, and how much was used then, is covered by the receipt's signed head."""
    site = counted.site
    message = site.message("sign")
    reply, donor = await site.pass_on(message), await counted.signed()
    assert isinstance(reply, ExecuteReply)
    path = (MSGPACK, "receipt", JSON, "body", JSON_TEXT, "limits", 0)
    stop, body, count = row("LimitOutcome", field), parse_body(message.body), 0
    assert isinstance(stop, Stop)
    check_answer(message.body, body, reply.result, reply.receipt, receipt_key=site.receipt_key)
    for variant in variants(messages.encode(reply), "LimitOutcome", path, field, donor=messages.encode(donor)):
        changed = messages.decode_reply(variant.payload)
        assert isinstance(changed, ExecuteReply)
        with pytest.raises(AdytumError) as caught:
            check_answer(message.body, body, changed.result, changed.receipt, receipt_key=site.receipt_key)
        assert caught.value.code.value in (stop.malformed if variant.malformed else stop.codes)
        count += 1
    assert count >= 3


@pytest.mark.parametrize("field", ["v", "header", "threshold", "keys", "sealed", "shares"])
async def test_a_changed_part_of_a_recovery_envelope_is_noticed(counted: Counted, field: str) -> None:
    """Swap, relocate, roll back, truncate, flip, reorder: the holders, beside the record, do not open it."""
    site = counted.site
    reply, donor = await site.send("generate_key"), await site.send("generate_key", which=1)
    assert isinstance(reply, ExecuteReply)
    assert isinstance(donor, ExecuteReply)
    assert reply.record is not None
    stop, count = row("RecoveryEnvelope", field), 0
    assert isinstance(stop, Stop)
    assert drilled(counted, reply.recovery, reply.record.header) == "accepted"
    for variant in variants(reply.recovery, "RecoveryEnvelope", (MSGPACK,), field, donor=donor.recovery):
        code = drilled(counted, variant.payload, reply.record.header)
        assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, code)
        count += 1
    assert count >= 3


def drilled(counted: Counted, recovery: bytes, header: bytes) -> str:
    """What the holders say who open it beside its record."""
    try:
        envelope = parse_recovery(recovery)
        if envelope.header != header:
            return "RECORD_MISMATCH"
        open_recovery(envelope, counted.holders)
    except (AdytumError, RecoveryError) as error:
        return error.code.value if isinstance(error, AdytumError) else "RECORD_INVALID"
    return "accepted"


@pytest.mark.parametrize("struct", KEPT)
async def test_a_changed_snapshot_is_refused(counted: Counted, struct: str) -> None:
    """Swap, relocate, roll back, truncate, flip, forge and drop each field of it; limits stay closed, and the genuine
    one opens them where they stood."""
    older, newest = await kept(counted)
    before = await counted.used()
    await counted.site.restart()
    assert not await counted.is_open()
    honest, old = (messages.encode(PutUsage("acme", snapshot)) for snapshot in (newest, older))
    for field in table()[struct]:
        stop, count = row(struct, field), 0
        assert isinstance(stop, Stop)
        for variant in variants(honest, struct, KEPT[struct], field, older=None if struct == "PutUsage" else old):
            code = await counted.say(variant.payload)
            assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, code)
            count += 1
        assert count >= 3, field
    assert await counted.site.state() == counted.site.first_state
    assert not await counted.is_open()
    assert await counted.say(honest) == "accepted"
    assert await counted.used() == before
    assert await counted.say(old) == await counted.say(honest) == "USAGE_ROLLBACK"
    assert await counted.used() == before
    assert await counted.is_open()


async def kept(counted: Counted) -> tuple[bytes, bytes]:
    """Two snapshots, the newest last, of a boot whose limits are open."""
    if not await counted.is_open():
        await counted.site.stack.client.reset_usage("acme", reset(counted))
    older, newest = (await counted.signed()).usage, (await counted.signed()).usage
    assert older
    assert newest
    return older, newest


def reset(counted: Counted, *, admins: int = 2, **changes: Any) -> bytes:
    """Signed by so many administrators, for the running boot."""
    boot = counted.site.first_state["boot"]
    return sign_reset(
        draft_reset("acme", changes.get("boot_id", boot), "*"),
        [admin.signer for admin in counted.site.stack.admins[:admins]],
    )


async def test_a_changed_snapshot_in_an_answer_is_refused_later(counted: Counted) -> None:
    """What a host keeps instead of what the enclave gave it does not open its limits."""
    await kept(counted)
    reply, donor = await counted.site.send("sign"), await counted.signed()
    assert isinstance(reply, ExecuteReply)
    await counted.site.restart()
    stop, count = row("ExecuteReply", "usage"), 0
    assert isinstance(stop, Stop)
    whole_reply = messages.encode(reply)
    codes = []
    for variant in variants(whole_reply, "ExecuteReply", (MSGPACK,), "usage"):
        try:
            stored = messages.decode_reply(variant.payload)
        except AdytumError as error:
            code = error.code.value
        else:
            assert isinstance(stored, ExecuteReply)
            code = await counted.say(messages.encode(PutUsage("acme", stored.usage)))
        assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, code)
        codes.append(code)
        count += 1
    assert count >= 5
    assert "USAGE_INVALID" in codes
    assert not await counted.is_open()
    assert await counted.say(messages.encode(PutUsage("acme", donor.usage))) == "accepted"
    assert await counted.say(messages.encode(PutUsage("acme", reply.usage))) == "USAGE_ROLLBACK"


async def test_a_changed_reset_opens_no_limit(counted: Counted) -> None:
    """Whatever stands in it, the administrators' signatures cover it; those of an earlier boot, and too few, do not
    count; a policy is no reset."""
    await kept(counted)
    earlier = reset(counted)
    await counted.site.restart()
    assert not await counted.is_open()
    honest = messages.encode(ResetUsage("acme", reset(counted)))
    path: Path = (MSGPACK, "envelope", JSON, "payload", BASE64, JSON)
    for field in table()["UsageReset"]:
        stop, count = row("UsageReset", field), 0
        assert isinstance(stop, Stop)
        donor = messages.encode(ResetUsage("acme", earlier))
        for variant in variants(honest, "UsageReset", path, field, donor=donor):
            code = await counted.say(variant.payload)
            assert code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, code)
            count += 1
        assert count >= 2, field
    for envelope, code in (
        (earlier, "USAGE_INVALID"),
        (reset(counted, admins=1), "POLICY_QUORUM"),
        (counted.site.envelope(version=6), "USAGE_INVALID"),
    ):
        assert await counted.say(messages.encode(ResetUsage("acme", envelope))) == code
    assert await counted.site.state() == counted.site.first_state
    assert not await counted.is_open()
    assert await counted.say(honest) == "accepted"
    assert await counted.is_open()
