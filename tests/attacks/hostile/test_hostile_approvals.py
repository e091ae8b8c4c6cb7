"""The host changes one field of the approvals beside a request: one by a key, one by a passkey, both needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from adytum.client.checks import check_answer, check_refusal
from adytum_sim.hostile.cases import variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.paths import JSON, JSON_TEXT, MSGPACK
from adytum_sim.hostile.relay import whole
from adytum_sim.hostile.site import TRANSFER, Held, Site, open_site
from adytum_sim.passkeys import Passkey
from adytum_sim.people import Person, approval_statement, batch_subject, request_body
from adytum_wire import messages, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import Kind
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.requests import parse_body
from adytum_wire.types import sha256

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile-approvals")]

RP_ID = "vault.example"
PLACES: dict[str, tuple[Any, ...]] = {
    "Execute": (MSGPACK,),
    "Approval": (MSGPACK, "approvals", 1),
    "KeyProof": (MSGPACK, "approvals", 0, "proof"),
    "PasskeyProof": (MSGPACK, "approvals", 1, "proof"),
    "Statement": (MSGPACK, "approvals", 0, "statement", JSON),
    "RequestSubject": (MSGPACK, "approvals", 0, "statement", JSON, "subject"),
    "BatchSubject": (MSGPACK, "approvals", 0, "statement", JSON, "subject"),
}
FIELDS = [
    (struct, field) for struct in PLACES for field in table()[struct] if struct != "Execute" or field == "approvals"
]


@dataclass(slots=True)
class Approved:
    """A site whose key `vault` signs only with bob's key and carol's passkey."""

    site: Site
    bob: Person
    carol: Passkey
    vault: Held
    version: int

    def message(self, *, in_batch: bool = False) -> Execute:
        content = {"type": "ethereum-transaction", "unsigned": TRANSFER}
        now = self.site.stack.now_ms()
        body = request_body(
            "acme", "sign", now, key_id=self.vault.key_id, path="", scheme="ecdsa-secp256k1", content=content
        )
        leaf = sha256(b"\0" + sha256(body))
        subject = batch_subject(leaf, 1) if in_batch else sha256(body)
        text = approval_statement("acme", subject, policy_version=self.version, issued_at=now)
        given = (self.bob.approval(text), self.carol.approval(text))
        return Execute(body, self.site.alice.stamp(body), self.vault.record, given)

    async def send(self, message: Execute, payload: bytes | None = None) -> ExecuteReply | Refusal:
        """Pass on `payload` in the place of the message, or the message as it is."""
        self.site.relay.honest()
        if payload is not None:
            changed = payload

            async def instead(_port: int, frame: Any) -> list[bytes | None]:
                return [whole(Kind.REQUEST, frame, changed)]

            self.site.relay.on_request = instead
        return await self.site.client.execute(message.body, message.stamp, message.record, message.approvals)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def approved() -> AsyncIterator[Approved]:
    path = Path(tempfile.mkdtemp(prefix="ad-"))
    try:
        async with open_site(path) as site:
            bob, carol, dave = Person.new("bob"), Passkey.new(RP_ID, counter=None), Person.new("carol")
            document = site.document
            document["version"] += 1
            document["passkeys"] = {"rp_id": RP_ID, "origins": [f"https://{RP_ID}"]}
            document["principals"] += [bob.as_principal("approver"), dave.as_principal("approver", passkeys=[carol])]
            vault = {"labels": ["vault"]}
            document["rules"] += [
                document["rules"][0] | vault | {"id": "keep-vault"},
                document["rules"][1] | vault | {"id": "pay-vault", "approvals": {"role": "approver", "count": 2}},
            ]
            await site.client.put_policy("acme", site.envelope())
            site.first_state = await site.state()
            body = request_body("acme", "generate_key", site.stack.now_ms(), algorithm="secp256k1", labels=["vault"])
            reply = await site.client.execute(body, site.alice.stamp(body))
            assert isinstance(reply, ExecuteReply), reply
            assert reply.record is not None
            key = Held(results.parse_result(reply.result).key_id, reply.record)
            yield Approved(site, bob, carol, key, document["version"])
            await site.unharmed()
            assert await site.audit() >= 1
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(("struct", "field"), FIELDS)
async def test_a_changed_approval_is_refused(approved: Approved, struct: str, field: str) -> None:
    """Each variant by its code; afterwards the very request, with its genuine approvals, is still answered."""
    stop = row(struct, field)
    assert isinstance(stop, Stop)
    in_batch = struct == "BatchSubject"
    message, donor = approved.message(in_batch=in_batch), approved.message(in_batch=in_batch)
    count = 0
    for variant in variants(messages.encode(message), struct, PLACES[struct], field, donor=messages.encode(donor)):
        reply = await approved.send(message, variant.payload)
        assert isinstance(reply, Refusal), (variant.attack, variant.detail)
        assert reply.code in (stop.malformed if variant.malformed else stop.codes), (variant.detail, reply)
        count += 1
    assert count >= 2
    assert isinstance(await approved.send(message), ExecuteReply)
    await approved.site.unharmed()


@pytest.mark.parametrize("field", ["principal", "digest", "outcome"])
async def test_a_changed_outcome_in_the_receipt_is_noticed(approved: Approved, field: str) -> None:
    """Who approved is covered by the receipt's signed head."""
    message = approved.message()
    reply, donor = await approved.send(message), await approved.send(approved.message())
    path = (MSGPACK, "receipt", JSON, "body", JSON_TEXT, "approvals", 0)
    stop, body, count = row("ApprovalOutcome", field), parse_body(message.body), 0
    assert isinstance(stop, Stop)
    for variant in variants(messages.encode(reply), "ApprovalOutcome", path, field, donor=messages.encode(donor)):
        changed = messages.decode_reply(variant.payload)
        assert isinstance(changed, ExecuteReply)
        with pytest.raises(AdytumError) as caught:
            check_answer(message.body, body, changed.result, changed.receipt, receipt_key=approved.site.receipt_key)
        assert caught.value.code.value in (stop.malformed if variant.malformed else stop.codes)
        count += 1
    assert count >= 2


@pytest.mark.parametrize("field", ["rule", "role", "count", "counted", "missing", "others"])
async def test_what_is_missing_cannot_be_changed_in_the_receipt(approved: Approved, field: str) -> None:
    """A host that says of a request that waits: other people, another rule, another number."""
    message, other = approved.message(), approved.message()
    alone = Execute(message.body, message.stamp, message.record, message.approvals[:1])
    reply = await approved.send(alone)
    donor = await approved.send(Execute(other.body, other.stamp, other.record))
    assert isinstance(reply, Refusal)
    assert isinstance(donor, Refusal)
    assert reply.code == donor.code == "APPROVALS_MISSING"
    path = (MSGPACK, "receipt", JSON, "body", JSON_TEXT, "wanted", 0)
    stop, body, count = row("Wanted", field), parse_body(message.body), 0
    assert isinstance(stop, Stop)
    key, code = approved.site.receipt_key, Code.APPROVALS_MISSING
    check_refusal(message.body, body, reply.receipt, code=code, receipt_key=key)
    for variant in variants(messages.encode(reply), "Wanted", path, field, donor=messages.encode(donor)):
        changed = messages.decode_reply(variant.payload)
        assert isinstance(changed, Refusal)
        with pytest.raises(AdytumError) as caught:
            check_refusal(message.body, body, changed.receipt, code=code, receipt_key=key)
        assert caught.value.code.value in (stop.malformed if variant.malformed else stop.codes)
        count += 1
    assert count >= 2
    assert isinstance(await approved.send(message), ExecuteReply)
