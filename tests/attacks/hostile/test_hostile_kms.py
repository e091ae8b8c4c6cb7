"""The host between the enclave and KMS: it sees TLS records, may spoil them, and can never speak for KMS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.kms_answers import lying
from adytum_sim.hostile.manipulations import Manipulation, manipulations
from adytum_sim.hostile.site import Site
from adytum_sim.hostile.tls_tap import Direction, Records, spoil
from adytum_wire.messages import Execute, ExecuteReply, Refusal

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-kms")]

REFUSED = ("KMS_UNAVAILABLE", "KMS_ANSWER_INVALID", "DEADLINE_EXCEEDED")
SPOILT: dict[str, Callable[[bytes], Records]] = {
    "flip": lambda record: [record[:-1] + bytes([record[-1] ^ 1])],
    "truncate": lambda record: [record[: len(record) // 2], None],
    "drop": lambda _record: [None],
    "replay": lambda record: [record, record],
    "downgrade": lambda record: [record[:1] + b"\x03\x00" + record[3:]],
    "forge": lambda record: [b"\x17\x03\x03\x00\x20" + bytes(32), record],
}
HANDSHAKE, APPLICATION = 0x16, 0x17


@pytest.mark.parametrize("attack", sorted(SPOILT))
@pytest.mark.parametrize("direction", list(Direction))
async def test_a_spoilt_tls_record_opens_nothing(site: Site, direction: Direction, attack: str) -> None:
    """Flip, truncate, drop, replay, downgrade and forge each record of a connection, handshake and data."""
    site.tap.cut()
    site.tap.seen.clear()
    message = site.message("sign")
    honest = await site.pass_on(message)
    assert isinstance(honest, ExecuteReply)
    records = [record for way, record in site.tap.seen if way is direction]
    assert len(records) >= 2
    refusals = 0
    for number, record in enumerate(records[:5]):
        site.tap.cut()
        site.tap.applied = 0
        site.tap.hook = spoil(direction, number, SPOILT[attack])
        reply = await site.send("sign")
        site.tap.hook = None
        site.tap.cut()
        if isinstance(reply, ExecuteReply):
            # What TLS 1.3 sends for the sake of old middle boxes, or says in a header that nobody reads, means nothing.
            await site.unharmed()
            assert record[0] not in (APPLICATION,) or attack in ("downgrade", "replay", "drop", "truncate"), number
            continue
        assert reply.code in REFUSED, reply
        assert site.tap.applied >= 1
        refusals += 1
        await site.unharmed()  # a good call between bad ones, so that no circuit opens
    assert refusals >= 1 or attack == "downgrade"


async def test_a_tls_connection_of_another_server_is_refused(site: Site) -> None:
    """Swap: the records of one connection in another."""
    site.tap.cut()
    site.tap.seen.clear()
    await site.send("sign")
    earlier = [record for way, record in site.tap.seen if way is Direction.DOWN]

    def replay(way: Direction, number: int, record: bytes) -> Records:
        return [earlier[number]] if way is Direction.DOWN and number < len(earlier) else [record]

    site.tap.cut()
    site.tap.hook = replay
    reply = await site.send("sign")
    site.tap.hook = None
    site.tap.cut()
    assert isinstance(reply, Refusal)
    assert reply.code in REFUSED


async def test_a_silent_pipe_ends_with_the_deadline(site: Site) -> None:
    """Delay: the pipe swallows what KMS says, and the request ends in time."""
    site.tap.cut()
    site.tap.hook = lambda way, number, record: [] if way is Direction.DOWN else [record]
    message = site.message("sign")
    with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
        await site.pass_on(message, timeout_s=0.3)
    site.tap.hook = None
    site.tap.cut()
    for _ in range(20):
        reply = await site.pass_on(message)
        if isinstance(reply, ExecuteReply):
            break
        assert reply.code == "RESOURCE_EXHAUSTED"  # the first try is just ending
        await asyncio.sleep(reply.retry_after_ms / 1000)
    assert isinstance(reply, ExecuteReply)


@pytest.mark.parametrize("operation", ["Decrypt", "GenerateDataKey"])
@pytest.mark.parametrize("field", list(table()["KMS answer"]))
async def test_a_changed_answer_of_kms_is_refused(site: Site, operation: str, field: str) -> None:
    """Each field that the enclave reads, also by one who holds KMS's own certificate."""
    stop = row("KMS answer", field)
    assert isinstance(stop, Stop)
    asked = "sign" if operation == "Decrypt" else "generate_key"
    with lying(site.stack.kms, operation, lambda answer: answer) as donor:
        assert isinstance(await site.send(asked, which=1), ExecuteReply)
    assert donor.last is not None
    count = 0
    for number in range(100):
        chosen: list[Manipulation] = []

        def change(answer: dict[str, Any], number: int = number, chosen: list[Manipulation] = chosen) -> dict[str, Any]:
            options = list(manipulations({"Plaintext": "", **answer} | _absent(answer, field), field, donor=donor.last))
            if number >= len(options):
                return answer
            chosen.append(options[number])
            return options[number].fields

        with lying(site.stack.kms, operation, change) as told:
            reply = await site.send(asked)
        if not chosen:
            assert told.count, reply  # KMS was asked, and there was nothing left to change
            break
        count += 1
        if isinstance(reply, ExecuteReply):
            await judge_taken(site, operation, field, chosen[0], reply)
        else:
            assert reply.code in stop.codes, (chosen[0].detail, reply)
    assert count >= 3


def _absent(answer: dict[str, Any], field: str) -> dict[str, Any]:
    """A field that KMS leaves out or empty here (it may do either), so that it can be forged."""
    return {} if answer.get(field) else {field: "SYMMETRIC_DEFAULT" if field == "EncryptionAlgorithm" else "00"}


async def judge_taken(site: Site, operation: str, field: str, chosen: Manipulation, reply: ExecuteReply) -> None:
    """What may be taken: a field that is absent or empty, one that this operation does not read, and, from
    GenerateDataKey, two halves that do not belong together: that record never opens."""
    if operation == "GenerateDataKey" and field.startswith("Ciphertext"):
        key_id = json.loads(reply.result)["key_id"]
        body = site.body("sign", key_id=key_id)
        used = await site.pass_on(Execute(body, site.alice.stamp(body), reply.record))
        assert isinstance(used, Refusal), chosen.detail
        assert used.code == "RECORD_TAMPERED"
        return
    unread = {("GenerateDataKey", "EncryptionAlgorithm"), ("Decrypt", "CiphertextBlob")}
    empty = not chosen.fields.get(field) and field in ("Plaintext", "EncryptionAlgorithm")
    assert (operation, field) in unread or empty, chosen.detail
