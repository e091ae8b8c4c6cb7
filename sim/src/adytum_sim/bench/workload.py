"""Requests to measure with: distinct, stamped beforehand, for one key under a policy that allows them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec

from adytum.client.signers import KeySigner
from adytum_sim.demo.transfer import Transfer
from adytum_sim.people import Person, request_body
from adytum_sim.stack import TENANT, Stack
from adytum_wire import messages, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute, ExecuteReply, Refusal, error_of
from adytum_wire.pae import REQUEST, pae
from adytum_wire.record import Record
from adytum_wire.requests import Stamp
from adytum_wire.types import Algorithm, Scheme, SigningScheme

ALGORITHMS = {
    SigningScheme.ECDSA_SECP256K1: Algorithm.SECP256K1,
    SigningScheme.BIP340: Algorithm.SECP256K1,
    SigningScheme.ED25519: Algorithm.ED25519,
    SigningScheme.ECDSA_P256: Algorithm.P256,
}
_LABEL = "treasury"


class Kind(StrEnum):
    """What is signed: bytes that nobody understands, or a transfer that is decoded and judged by its content."""

    RAW = "raw"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """One client for each scheme of stamps, one key for each algorithm, on a running stack."""

    stack: Stack
    clients: dict[Scheme, tuple[Person, Callable[[bytes], bytes]]]
    keys: dict[Algorithm, tuple[str, Record]]

    def payloads(self, count: int, *, stamp: Scheme, scheme: SigningScheme, kind: Kind) -> list[bytes]:
        """`count` encoded `Execute` messages, all different."""
        client, sign = self.clients[stamp]
        key_id, record = self.keys[ALGORITHMS[scheme]]
        made = []
        now_ms = self.stack.now_ms()
        for at in range(count):
            body = request_body(
                TENANT, "sign", now_ms, key_id=key_id, scheme=scheme.value, content=_content(kind, scheme, at)
            )
            made.append(
                messages.encode(Execute(body, Stamp(stamp, client.public_key, sign(pae(REQUEST, body))), record))
            )
        return made


async def open_wallet(stack: Stack) -> Wallet:
    """A policy, clients and keys. Errors: `AdytumError` with what the enclave refused."""
    clients = {scheme: _client(scheme) for scheme in Scheme}
    document = stack.policy([person.as_principal("signer") for person, _ in clients.values()], _rules())
    await stack.put_policy(document)
    keys = {}
    maker, _ = clients[Scheme.ED25519]
    for algorithm in (Algorithm.SECP256K1, Algorithm.P256, Algorithm.ED25519):
        reply = await stack.ask(maker, "generate_key", algorithm=algorithm.value, labels=[_LABEL])
        keys[algorithm] = _stored(reply)
    return Wallet(stack=stack, clients=clients, keys=keys)


def _stored(reply: ExecuteReply | Refusal) -> tuple[str, Record]:
    if isinstance(reply, Refusal):
        raise error_of(reply)
    if reply.record is None:
        raise AdytumError(Code.MESSAGE_INVALID)
    return results.parse_result(reply.result).key_id, reply.record


def _client(scheme: Scheme) -> tuple[Person, Callable[[bytes], bytes]]:
    """A client, and how to stamp as that client: libsecp256k1 for its curve, since preparing takes long enough."""
    name = f"bench-{scheme.value}"
    if scheme is not Scheme.SECP256K1:
        person = Person.new(name, scheme)
        return person, person.sign
    key = PrivateKey()
    person = Person(name, KeySigner(ec.derive_private_key(int(key.to_hex(), 16), ec.SECP256K1())))
    return person, lambda message: key.sign_recoverable(message)[:64]


def _content(kind: Kind, scheme: SigningScheme, at: int) -> dict[str, str]:
    if kind is Kind.TRANSFER:
        return {"type": "ethereum-transaction", "unsigned": Transfer(nonce=at).unsigned().hex()}
    if scheme is SigningScheme.ED25519:
        return {"type": "raw-message", "message": secrets.token_hex(32)}
    return {"type": "raw-digest", "digest": secrets.token_hex(32)}


def _rules() -> list[dict[str, Any]]:
    """Three rules, so that the decision is a decision: a bounded transfer, raw signing, and a ban."""
    common = {"principals": ["role:signer"], "labels": [_LABEL], "algorithms": "*"}
    transfer = {
        "type": "ethereum-transaction",
        "chain_ids": [1],
        "contract_creation": False,
        "to": [Transfer().to],
        "min_value": "0",
        "max_value": str(10**18),
        "max_fee": str(10**16),
        "selectors": ["none"],
        "erc20": "*",
    }
    banned = {**transfer, "to": ["0x" + "00" * 20], "max_value": "*", "max_fee": "*", "selectors": "*"}
    return [
        {"id": "make-keys", "effect": "allow", "operations": ["generate_key", "sign-raw"], **common, "content": "*"},
        {"id": "transfers", "effect": "allow", "operations": ["sign"], **common, "content": [transfer]},
        {"id": "never-burn", "effect": "deny", "operations": ["sign"], **common, "content": [banned]},
    ]
