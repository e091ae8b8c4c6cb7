"""The host changes one field of a stamped request or of the stored record beside it, on the way to the enclave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from adytum_sim.hostile.cases import BLOB, Variant, locate, variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.examples import examples
from adytum_sim.hostile.paths import JSON, MSGPACK, Path, edit, find
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import OPERATIONS, WITH_RECORD, Site, signature_of
from adytum_sim.hostile.surface import names, structs
from adytum_wire import messages, strict_json
from adytum_wire.frames import Kind
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.requests import Body, SessionStamp, Stamp
from adytum_wire.strict_json import encode as encode_json

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-requests")]

RECORD: dict[str, Path] = {
    "Record": (MSGPACK, "record"),
    "Header": (MSGPACK, "record", "header", JSON),
    "ciphertext_blob": (MSGPACK, "record", "ciphertext_blob", BLOB),
}

MESSAGE: dict[str, Path] = {"Execute": (MSGPACK,), "Stamp": (MSGPACK, "stamp")}
SESSION: Path = (MSGPACK, "stamp")

# Every manipulation for these, one of each kind for the other operations, which take the same way in.
CLOSELY = ("sign", "unseal", "import_key")
# Codes of steps that come before the record opens: they must be among those of a signature's changed header.
MUST_SHOW = {
    "state": {"KEY_STATE", "RECORD_INVALID"},
    "generation": {"RECORD_RETIRED", "RECORD_TAMPERED"},
    "version": {"RECORD_ROLLBACK", "RECORD_TAMPERED"},
    "labels": {"POLICY_DENIED", "RECORD_TAMPERED"},
    "delete_after": {"RECORD_TAMPERED"},
}
# approvals: test_hostile_approvals.py
STORED = [(op, struct) for op in WITH_RECORD for struct in RECORD]
SENT = [(op, struct) for op in OPERATIONS for struct in MESSAGE]
SIGNED = [(s, f) for s, fields in examples(Body).items() for f in fields]


async def refused(site: Site, message: Execute, payload: bytes) -> Refusal | ExecuteReply:
    """Let the client send `message` while the host passes on `payload` instead."""

    async def instead(_port: int, frame: Any) -> list[bytes | None]:
        return [whole(Kind.REQUEST, frame, payload)]

    site.relay.on_request = instead
    applied = site.relay.applied
    reply = await site.pass_on(message)
    assert site.relay.applied == applied + 1
    return reply


async def attack(site: Site, operation: str, struct: str, path: Path, field: str, message: Execute) -> Counter[str]:
    """Every variant of the field, each refused with its code. How many there were of each code."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    seen: Counter[str] = Counter()
    for variant in all_variants(site, operation, struct, path, field, message):
        reply = await refused(site, message, variant.payload)
        assert isinstance(reply, Refusal), variant.detail
        assert reply.code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, reply)
        seen[reply.code] += 1
    site.relay.honest()
    return seen


async def still_answered(site: Site, operation: str, message: Execute) -> None:
    """The very request that was attacked. A newer version that it makes is not stored, so that the older one stays."""
    honest = await site.pass_on(message)
    assert isinstance(honest, ExecuteReply), honest
    assert operation != "sign" or signature_of(honest) == site.signature


def all_variants(site: Site, operation: str, struct: str, path: Path, field: str, message: Execute) -> list[Variant]:
    held = site.held(operation)
    older = Execute(message.body, message.stamp, held.older, message.approvals) if held else None
    return list(
        variants(
            messages.encode(message),
            struct,
            path,
            field,
            donor=messages.encode(site.message(operation, which=1)),
            older=messages.encode(older) if older else None,
            thin=operation not in CLOSELY,
        )
    )


@pytest.mark.parametrize(("operation", "struct"), STORED)
async def test_a_changed_record_is_refused(site: Site, operation: str, struct: str) -> None:
    """Swap, relocate, roll back, truncate, flip, forge and drop each field of what the host stores."""
    await site.ready(operation)
    message = site.message(operation)
    for field in table()[struct]:
        seen = await attack(site, operation, struct, RECORD[struct], field, message)
        assert seen.total() >= 2, field
        if operation == "sign" and field in MUST_SHOW:
            assert seen.keys() >= MUST_SHOW[field]
    await still_answered(site, operation, message)


async def test_a_shorter_waiting_period_does_not_delete(site: Site) -> None:
    """Whatever stands in the header: before its time nothing is deleted, and another time does not open."""
    message = site.message("delete_key")
    path = RECORD["Header"]
    due = find(messages.encode(message), path)["delete_after"]
    assert due > site.stack.now_ms()
    codes = []
    for other in (0, 1, site.stack.now_ms() - 1, due - 1, due + 1, 2**53):
        payload = edit(messages.encode(message), (*path, "delete_after"), lambda _, other=other: other)
        reply = await refused(site, message, payload)
        assert isinstance(reply, Refusal), other
        codes.append(reply.code)
    assert codes == [*["RECORD_TAMPERED"] * 3, *["KEY_STATE"] * 3]
    for state in ("active", "disabled"):
        payload = edit(messages.encode(message), (*path, "state"), lambda _, state=state: state)
        reply = await refused(site, message, payload)
        assert isinstance(reply, Refusal)
        assert reply.code == "KEY_STATE"
    site.relay.honest()
    early = await site.pass_on(message)
    assert isinstance(early, Refusal)
    assert (early.code, early.field) == ("KEY_STATE", "$.delete_after")
    assert isinstance(await site.send("cancel_deletion"), ExecuteReply)


@pytest.mark.parametrize(("operation", "struct"), SENT)
async def test_a_changed_message_is_refused(site: Site, operation: str, struct: str) -> None:
    """Each field beside the body: the stamp, the record as a whole, the message's own tag."""
    await site.ready(operation)
    message = site.message(operation)
    for field in table()[struct]:
        if field == "approvals":
            continue
        if field == "record" and operation not in WITH_RECORD:
            extra = Execute(message.body, message.stamp, site.keys[0].record)
            reply = await refused(site, message, messages.encode(extra))
            assert isinstance(reply, Refusal)
            assert reply.code == "RECORD_MISMATCH"
            continue
        seen = await attack(site, operation, struct, MESSAGE[struct], field, message)
        assert seen.total() >= 2, field
    site.relay.honest()
    await still_answered(site, operation, message)


@pytest.mark.parametrize("field", ["type", "session_id", "mac"])
async def test_a_changed_session_stamp_is_refused(site: Site, field: str) -> None:
    """Flip, cut, relocate, and swap with the stamp of another session and of another request."""
    first, second = await site.open_session(0), await site.open_session(1)
    stop = row("SessionStamp", field)
    assert isinstance(stop, Stop)
    plain, other = site.message("sign"), site.message("sign", which=1)
    message = Execute(plain.body, first.stamp(plain.body), plain.record)
    count = 0
    for stamp in (second.stamp(plain.body), second.stamp(other.body), first.stamp(other.body)):
        donor = messages.encode(Execute(plain.body, stamp, plain.record))
        for variant in variants(messages.encode(message), "SessionStamp", SESSION, field, donor=donor):
            reply = await refused(site, message, variant.payload)
            assert isinstance(reply, Refusal), variant.detail
            assert reply.code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, reply)
            count += 1
    assert count >= 9
    site.relay.honest()
    await still_answered(site, "sign", message)
    assert await site.pass_on(message) == await site.pass_on(plain)  # one request, whichever of her hands


async def test_one_kind_of_stamp_is_not_made_of_the_other(site: Site) -> None:
    """Forge: the bytes of a key's stamp as a session's, and the other way; an old session's id with a fresh stamp."""
    session = await site.open_session()
    message = site.message("sign")
    key, mac = message.stamp, session.stamp(message.body)
    assert isinstance(key, Stamp)
    forged = {
        "SESSION_UNKNOWN": [SessionStamp(key.public_key[:16], key.signature[:32]), SessionStamp(bytes(16), mac.mac)],
        "STAMP_INVALID": [
            SessionStamp(mac.session_id, key.signature[:32]),
            SessionStamp(mac.session_id, key.public_key),
            Stamp(key.scheme, key.public_key, mac.mac * 2),
            Stamp(key.scheme, mac.mac, key.signature),
        ],
    }
    for code, stamps in forged.items():
        for stamp in stamps:
            reply = await site.pass_on(Execute(message.body, stamp, message.record))
            assert isinstance(reply, Refusal), stamp
            assert reply.code == code, stamp
    again = site.body("open_session")
    endless = await site.pass_on(Execute(again, session.stamp(again)))
    assert isinstance(endless, Refusal)
    assert endless.code == "STAMP_INVALID"
    await still_answered(site, "sign", message)


@pytest.mark.parametrize(("struct", "field"), SIGNED)
async def test_a_changed_body_is_refused(site: Site, struct: str, field: str) -> None:
    """Whatever stands in a body, now or in a later version: its stamp covers the bytes."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    message = body_with(site, struct)
    path = locate(strict_json.json.loads(message.body), structs()[struct])
    assert path is not None, f"no sample body holds a {struct}"
    count = 0
    for variant in variants(messages.encode(message), struct, (MSGPACK, "body", JSON, *path), field):
        reply = await refused(site, message, variant.payload)
        assert isinstance(reply, Refusal), variant.detail
        assert reply.code in stop.codes, (variant.detail, reply)
        count += 1
    assert count >= 3


def body_with(site: Site, struct: str) -> Execute:
    """A stamped body that holds the struct: an honest one where there is one, else made from the struct's type."""
    for operation in OPERATIONS:
        message = site.message(operation)
        if locate(strict_json.json.loads(message.body), structs()[struct]) is not None:
            return message
    sample = examples(Body)
    fields = sample.get("Sign", {}) | {"content": sample[struct]} if struct not in _bodies() else sample[struct]
    body = encode_json(fields)
    return Execute(body, site.alice.stamp(body), site.keys[0].record)


def _bodies() -> set[str]:
    return {name for name, kind in structs().items() if "request_id" in names(kind) and "issued_at" in names(kind)}


async def test_a_body_cut_at_every_length_is_refused(site: Site) -> None:
    """And a record header, a blob and a data key: at each length that is shorter."""
    message = site.message("sign")
    for length in range(len(message.body)):
        reply = await refused(
            site, message, messages.encode(Execute(message.body[:length], message.stamp, message.record))
        )
        assert isinstance(reply, Refusal)
        assert reply.code == "STAMP_INVALID"
    payload = messages.encode(message)
    for name in ("header", "ciphertext_blob", "data_key_ciphertext"):
        for variant in variants(payload, "Record", (MSGPACK, "record"), name, every_length=True):
            if variant.attack != "truncate":
                continue
            reply = await refused(site, message, variant.payload)
            assert isinstance(reply, Refusal)
            assert reply.code in ("RECORD_INVALID", "RECORD_TAMPERED"), (variant.detail, reply)
