"""The host changes one field of a stamped request or of the stored record beside it, on the way to the enclave."""

from __future__ import annotations

from typing import Any

import pytest

from adytum_sim.hostile.cases import BLOB, Variant, locate, variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.examples import examples
from adytum_sim.hostile.paths import JSON, MSGPACK, Path
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import OPERATIONS, WITH_RECORD, Site, signature_of
from adytum_sim.hostile.surface import names, structs
from adytum_wire import messages, strict_json
from adytum_wire.frames import Kind
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.requests import Body
from adytum_wire.strict_json import encode as encode_json

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-requests")]

RECORD: dict[str, Path] = {
    "Record": (MSGPACK, "record"),
    "Header": (MSGPACK, "record", "header", JSON),
    "ciphertext_blob": (MSGPACK, "record", "ciphertext_blob", BLOB),
}

MESSAGE: dict[str, Path] = {"Execute": (MSGPACK,), "Stamp": (MSGPACK, "stamp")}

STORED = [(op, s, f) for op in WITH_RECORD for s in RECORD for f in table()[s]]
# approvals: test_hostile_approvals.py, with requests that have some
SENT = [(op, s, f) for op in OPERATIONS for s in MESSAGE for f in table()[s] if f != "approvals"]
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


async def attack(site: Site, operation: str, struct: str, path: Path, field: str) -> int:
    """Every variant of the field, each refused with its code; then the very request is still answered."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    message = site.message(operation)
    count = 0
    for variant in all_variants(site, operation, struct, path, field, message):
        reply = await refused(site, message, variant.payload)
        assert isinstance(reply, Refusal), variant.detail
        assert reply.code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, reply)
        count += 1
    site.relay.honest()
    if operation != "reseal":  # which would make a newer version
        honest = await site.pass_on(message)
        assert isinstance(honest, ExecuteReply), honest
        assert operation != "sign" or signature_of(honest) == site.signature
    return count


def all_variants(site: Site, operation: str, struct: str, path: Path, field: str, message: Execute) -> list[Variant]:
    held = site.held(operation)
    older = Execute(message.body, message.stamp, held.older) if held else None
    return list(
        variants(
            messages.encode(message),
            struct,
            path,
            field,
            donor=messages.encode(site.message(operation, which=1)),
            older=messages.encode(older) if older else None,
            thin=operation != "sign",
        )
    )


@pytest.mark.parametrize(("operation", "struct", "field"), STORED)
async def test_a_changed_record_is_refused(site: Site, operation: str, struct: str, field: str) -> None:
    """Swap, relocate, roll back, truncate, flip, forge and drop each field of what the host stores."""
    assert await attack(site, operation, struct, RECORD[struct], field) >= 3


@pytest.mark.parametrize(("operation", "struct", "field"), SENT)
async def test_a_changed_message_is_refused(site: Site, operation: str, struct: str, field: str) -> None:
    """Each field beside the body: the stamp, the record as a whole, the message's own tag."""
    if field == "record" and operation not in WITH_RECORD:
        message = site.message(operation)
        extra = Execute(message.body, message.stamp, site.keys[0].record)
        reply = await refused(site, message, messages.encode(extra))
        assert isinstance(reply, Refusal)
        assert reply.code == "RECORD_MISMATCH"
        return
    assert await attack(site, operation, struct, MESSAGE[struct], field) >= 3


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
