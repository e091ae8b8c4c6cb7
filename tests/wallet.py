"""A deployment as the tests use it: a policy, people, one key, and what a host would hold."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from adytum_sim.people import Person
from adytum_sim.stack import Stack, running_stack
from adytum_verify import verify_enclave
from adytum_wire import receipts, requests, results
from adytum_wire.binding import Binding
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply, HealthReply, Refusal
from adytum_wire.record import Record
from adytum_wire.types import Scheme

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
VALUE = 10**17
TRANSFER: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 7,
    "maxPriorityFeePerGas": 10**9,
    "maxFeePerGas": 30 * 10**9,
    "gas": 21_000,
    "to": TO,
    "value": VALUE,
    "data": "0x",
}


def unsigned(transaction: dict[str, Any]) -> str:
    """The bytes to sign of an EIP-1559 transaction, hex, by the Ethereum project's own RLP encoder."""
    fields = [
        *(transaction[name] for name in ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")),
        bytes.fromhex(transaction["to"][2:]),
        transaction["value"],
        bytes.fromhex(transaction["data"][2:]),
        [],
    ]
    return (b"\x02" + rlp.encode(fields)).hex()


def ethereum(transaction: dict[str, Any] | None = None) -> dict[str, str]:
    return {"type": "ethereum-transaction", "unsigned": unsigned(transaction or TRANSFER)}


@dataclass(slots=True)
class Made:
    """A record that the host holds, and what the client knows of it."""

    key_id: str
    record: Record
    public_key: str
    address: str


@dataclass(slots=True)
class Wallet:
    """`alice` may do everything with keys labelled `treasury`; `mallory` has a key and no right at all."""

    stack: Stack
    alice: Person
    mallory: Person
    key: Made
    document: dict[str, Any]

    async def make(self, algorithm: str = "secp256k1", labels: tuple[str, ...] = ("treasury",)) -> Made:
        reply = await self.stack.ask(self.alice, "generate_key", algorithm=algorithm, labels=list(labels))
        return made(reply)

    async def sign(
        self, made: Made | None = None, *, record: Record | None = None, **fields: Any
    ) -> ExecuteReply | Refusal:
        """Ask for the standard transfer, with the record that the host holds or another one."""
        made = made or self.key
        request = {"key_id": made.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": ethereum()} | fields
        return await self.stack.ask(self.alice, "sign", record=record or made.record, **request)

    async def binding(self) -> Binding:
        """What the enclave's attestation document binds, verified as a client would."""
        nonce = os.urandom(32)
        reply = await self.stack.client.attest(nonce)
        return verify_enclave(
            reply.document,
            reply.binding,
            expected=self.stack.allow_list,
            now_ms=self.stack.now_ms(),
            nonce=nonce,
            anchors=(self.stack.kms.anchor,),
        ).binding

    async def seal(self, operation: str, request_id: str, secret: bytes, *, by: Person | None = None) -> dict[str, str]:
        """`secret` sealed to the enclave's attested import key for this request of `by`'s (alice's), by a library that
        we did not write."""
        who = by or self.alice
        key = X25519PublicKey.from_public_bytes(bytes.fromhex((await self.binding()).hpke_key))
        info = requests.import_info(operation, "acme", request_id, who.scheme, who.public_key)
        blob = SUITE.encrypt(secret, key, info)
        return {"enc": blob[:32].hex(), "ciphertext": blob[32:].hex()}

    async def state(self) -> dict[str, Any]:
        """What may not change when something is refused (counters and the receipt chain may)."""
        health: HealthReply = await self.stack.client.health()
        return {"phase": health.phase, "boot": health.boot_id, "policies": health.policies}

    async def assert_still_signs(self) -> None:
        reply = await self.sign()
        assert isinstance(reply, ExecuteReply), reply


def made(reply: ExecuteReply | Refusal) -> Made:
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is not None
    result = results.parse_result(reply.result)
    return Made(result.key_id, reply.record, result.public_key, result.address)


def refused(reply: ExecuteReply | Refusal, code: Code, *, with_receipt: bool = True) -> Refusal:
    """Assert the refusal and its code, and that it left a receipt exactly when somebody was authenticated."""
    assert isinstance(reply, Refusal), reply
    assert reply.code == code.value, reply
    if with_receipt:
        receipt = receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode())
        assert receipt.code == code.value
        assert receipt.decision in ("deny", "error")
        assert receipt.result_digest == ""
    else:
        assert reply.receipt == b""
    return reply


def allow_everything(rule_id: str = "treasury", **changes: Any) -> dict[str, Any]:
    return {
        "id": rule_id,
        "effect": "allow",
        "operations": ["sign", "sign-raw", "generate_key", "import_key", "seal", "unseal", "reseal"],
        "principals": ["role:signer"],
        "labels": ["treasury"],
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
        "content": "*",
    } | changes


@contextlib.asynccontextmanager
async def open_wallet(directory: Path, *, client: Scheme = Scheme.ED25519, **options: Any) -> AsyncIterator[Wallet]:
    async with running_stack(directory, **options) as stack:
        alice, mallory = Person.new("alice", client), Person.new("mallory")
        document = stack.policy([alice.as_principal("signer"), mallory.as_principal()], [allow_everything()], version=5)
        await stack.put_policy(document)
        reply = await stack.ask(alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
        yield Wallet(stack, alice, mallory, made(reply), json.loads(json.dumps(document)))
