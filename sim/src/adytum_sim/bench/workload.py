"""Requests to measure with: distinct, stamped beforehand, for one key under a policy that allows them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec

from adytum.client.signers import KeySigner
from adytum_sim.demo.transfer import Transfer
from adytum_sim.people import Person, request_body
from adytum_sim.sessions import OpenedSession, open_session
from adytum_sim.stack import TENANT, Stack
from adytum_wire import messages, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute, ExecuteReply, Refusal, error_of
from adytum_wire.pae import REQUEST, pae
from adytum_wire.record import Record
from adytum_wire.requests import AnyStamp, Stamp
from adytum_wire.types import Algorithm, Scheme, SigningScheme

ALGORITHMS = {
    SigningScheme.ECDSA_SECP256K1: Algorithm.SECP256K1,
    SigningScheme.BIP340: Algorithm.SECP256K1,
    SigningScheme.ED25519: Algorithm.ED25519,
    SigningScheme.ECDSA_P256: Algorithm.P256,
}
LABEL = "treasury"


class Kind(StrEnum):
    """What is signed: bytes that nobody understands, or a transfer that is decoded and judged by its content."""

    RAW = "raw"
    TRANSFER = "transfer"


class StampBy(StrEnum):
    """What a request is stamped with: a key of a scheme, or a session that such a key opened."""

    ED25519 = "ed25519"
    P256 = "p256"
    SECP256K1 = "secp256k1"
    SESSION = "session"


class Client:
    """Somebody who stamps. `stamp_of` uses libsecp256k1 for its curve, since preparing takes long enough."""

    def __init__(self, scheme: Scheme) -> None:
        name = f"bench-{scheme.value}"
        if scheme is Scheme.SECP256K1:
            key = PrivateKey()
            self.person = Person(name, KeySigner(ec.derive_private_key(int(key.to_hex(), 16), ec.SECP256K1())))
            self._sign: Callable[[bytes], bytes] = lambda message: key.sign_recoverable(message)[:64]
        else:
            self.person = Person.new(name, scheme)
            self._sign = self.person.sign

    def stamp_of(self, body: bytes) -> Stamp:
        return Stamp(self.person.scheme, self.person.public_key, self._sign(pae(REQUEST, body)))


def sign_bodies(key_id: str, count: int, *, scheme: SigningScheme, kind: Kind, now_ms: int) -> Iterator[bytes]:
    """`count` bodies of `sign` requests, all different, issued at `now_ms`."""
    for at in range(count):
        content = _content(kind, scheme, at)
        yield request_body(TENANT, "sign", now_ms, key_id=key_id, path="", scheme=scheme.value, content=content)


def policy(stack: Stack, clients: Iterable[Client]) -> dict[str, Any]:
    """The document under which the clients may do what is measured."""
    return stack.policy([client.person.as_principal("signer") for client in clients], _rules())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """One client for each scheme of stamps, one key for each algorithm, on a running stack."""

    stack: Stack
    clients: dict[Scheme, Client]
    session: OpenedSession
    keys: dict[Algorithm, tuple[str, Record]]

    def payloads(self, count: int, *, stamp: StampBy, scheme: SigningScheme, kind: Kind) -> list[bytes]:
        """`count` encoded `Execute` messages, all different."""
        stamp_of: Callable[[bytes], AnyStamp] = (
            self.session.stamp if stamp is StampBy.SESSION else self.clients[Scheme(stamp.value)].stamp_of
        )
        key_id, record = self.keys[ALGORITHMS[scheme]]
        bodies = sign_bodies(key_id, count, scheme=scheme, kind=kind, now_ms=self.stack.now_ms())
        return [messages.encode(Execute(body, stamp_of(body), record)) for body in bodies]


async def open_wallet(stack: Stack) -> Wallet:
    """A policy, clients and keys. Errors: `AdytumError` with what the enclave refused."""
    clients = {scheme: Client(scheme) for scheme in Scheme}
    await stack.put_policy(policy(stack, clients.values()))
    maker = clients[Scheme.ED25519].person
    keys = {}
    for algorithm in (Algorithm.SECP256K1, Algorithm.P256, Algorithm.ED25519):
        keys[algorithm] = _stored(await stack.ask(maker, "generate_key", algorithm=algorithm.value, labels=[LABEL]))
    session = await open_session(stack, maker, ttl_ms=3_600_000)
    return Wallet(stack=stack, clients=clients, session=session, keys=keys)


def _stored(reply: ExecuteReply | Refusal) -> tuple[str, Record]:
    if isinstance(reply, Refusal):
        raise error_of(reply)
    if reply.record is None:
        raise AdytumError(Code.MESSAGE_INVALID)
    return results.parse_result(reply.result).key_id, reply.record


def _content(kind: Kind, scheme: SigningScheme, at: int) -> dict[str, str]:
    if kind is Kind.TRANSFER:
        return {"type": "ethereum-transaction", "unsigned": Transfer(nonce=at).unsigned().hex()}
    if scheme is SigningScheme.ED25519:
        return {"type": "raw-message", "message": secrets.token_hex(32)}
    return {"type": "raw-digest", "digest": secrets.token_hex(32)}


def _rules() -> list[dict[str, Any]]:
    """Four rules, so that the decision is a decision: a bounded transfer, raw signing, and a ban."""
    common = {
        "principals": ["role:signer"],
        "labels": [LABEL],
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
    }
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
        {"id": "sessions", "effect": "allow", "operations": ["open_session"], **common, "labels": "*", "content": "*"},
        {"id": "make-keys", "effect": "allow", "operations": ["generate_key", "sign-raw"], **common, "content": "*"},
        {"id": "transfers", "effect": "allow", "operations": ["sign"], **common, "content": [transfer]},
        {"id": "never-burn", "effect": "deny", "operations": ["sign"], **common, "content": [banned]},
    ]
