"""A wallet whose transfers need two approvers: people with keys and passkeys, and what they sign."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wallet import Made, Wallet, allow_everything, ethereum, refused

from adytum_sim.passkeys import Passkey
from adytum_sim.people import Person, approval_statement, request_body
from adytum_wire import receipts
from adytum_wire.approvals import Approval
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.receipts import Receipt
from adytum_wire.types import Scheme, sha256

RP_ID = "vault.example"
ORIGIN = "https://vault.example"


@dataclass(slots=True)
class Office:
    """`alice` asks, and could approve what others ask. `bob` and `carol` approve with keys and passkeys, `dave` with a
    secp256k1 key; `erin` is known, but nobody asks her. Transfers need two; keys labelled `free` sign without."""

    wallet: Wallet
    bob: Person
    carol: Person
    dave: Person
    erin: Person
    bobs: Passkey
    carols: Passkey
    erins: Passkey
    document: dict[str, Any]

    @property
    def alice(self) -> Person:
        return self.wallet.alice

    def now_ms(self) -> int:
        return self.wallet.stack.now_ms()

    def body(self, made: Made | None = None, *, issued_at: int | None = None, **fields: Any) -> bytes:
        request = {
            "key_id": (made or self.wallet.key).key_id,
            "path": "",
            "scheme": "ecdsa-secp256k1",
            "content": ethereum(),
        }
        return request_body("acme", "sign", self.now_ms() if issued_at is None else issued_at, **(request | fields))

    def statement(self, body: bytes, **changes: Any) -> bytes:
        fields = {"policy_version": self.document["version"], "issued_at": self.now_ms()} | changes
        subject = fields.pop("subject", sha256(body))
        return approval_statement(fields.pop("tenant", "acme"), subject, **fields)

    async def send(
        self, body: bytes, *approvals: Approval, by: Person | None = None, made: Made | None = None
    ) -> ExecuteReply | Refusal:
        stamp = (by or self.alice).stamp(body)
        return await self.wallet.stack.client.execute(body, stamp, (made or self.wallet.key).record, approvals)

    async def put(self, **changes: Any) -> None:
        """A newer policy."""
        self.document |= {"version": self.document["version"] + 1} | changes
        await self.wallet.stack.put_policy(self.document)

    async def assert_refused(self, code: Code, body: bytes, *approvals: Approval, **options: Any) -> Receipt:
        """Refused with `code` and nothing has changed: not the state, and the request is not spent."""
        before = await self.wallet.state()
        executed = await self.executed()
        reply = refused(await self.send(body, *approvals, **options), code)
        assert await self.wallet.state() == before
        assert await self.executed() == executed
        return receipt_of(reply)

    async def executed(self) -> int:
        return (await self.wallet.stack.client.health()).counters.get("executed", 0)

    async def assert_approvable(self, body: bytes, **options: Any) -> Receipt:
        """With two genuine approvals the request is carried out."""
        text = self.statement(body)
        reply = await self.send(body, self.bob.approval(text), self.carol.approval(text), **options)
        assert isinstance(reply, ExecuteReply), reply
        return receipt_of(reply)


def receipt_of(reply: ExecuteReply | Refusal) -> Receipt:
    return receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode())


def outcomes(receipt: Receipt) -> list[tuple[str, str]]:
    return [(one.principal, one.outcome) for one in receipt.approvals]


async def furnish(wallet: Wallet) -> Office:
    """Put the office's policy in force."""
    bob, carol, erin = Person.new("bob"), Person.new("carol", Scheme.P256), Person.new("erin")
    dave = Person.new("dave", Scheme.SECP256K1)
    bobs, carols = Passkey.new(RP_ID), Passkey.new(RP_ID, scheme=Scheme.ED25519)
    erins = Passkey.new(RP_ID)
    document = wallet.stack.policy(
        [
            wallet.alice.as_principal("signer", "approver"),
            bob.as_principal("approver", passkeys=[bobs]),
            carol.as_principal("approver", passkeys=[carols]),
            dave.as_principal("approver"),
            erin.as_principal("auditor", passkeys=[erins]),
            wallet.mallory.as_principal(),
        ],
        [
            allow_everything("make", operations=["generate_key", "seal"], labels=["treasury", "free"]),
            allow_everything("pay", operations=["sign"], approvals={"role": "approver", "count": 2}),
            allow_everything("free", operations=["sign"], labels=["free"]),
        ],
        version=wallet.document["version"] + 1,
    ) | {"passkeys": {"rp_id": RP_ID, "origins": [ORIGIN]}}
    await wallet.stack.put_policy(document)
    document = json.loads(json.dumps(document))
    return Office(wallet, bob, carol, dave, erin, bobs, carols, erins, document)
