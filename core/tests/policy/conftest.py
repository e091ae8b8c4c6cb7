"""What the policy tests share: a valid document to spoil, administrators who can sign, facts to decide about."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adytum_policy.facts import EthereumFacts, TokenFacts
from adytum_policy.rules import Subject
from adytum_wire import dsse
from adytum_wire.manifest import Admin, Tenant
from adytum_wire.pae import POLICY, pae
from adytum_wire.types import Scheme

sys.path.insert(0, str(Path(__file__).parent))  # policy_model, one_matcher

# Public keys of fixed private keys; nobody signs with them here.
ALICE = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key().public_bytes_raw().hex()
BOB = (
    ec.derive_private_key(2, ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    .hex()
)
RECIPIENT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # an EIP-55 vector

_MATCHER = {
    "type": "ethereum-transaction",
    "chain_ids": [1],
    "contract_creation": False,
    "to": [RECIPIENT],
    "min_value": "0",
    "max_value": "1000000000000000000",
    "max_fee": "10000000000000000",
    "selectors": ["none", "0xa9059cbb"],
    "erc20": {
        "methods": ["transfer"],
        "recipients": [RECIPIENT.lower()],
        "min_amount": "0",
        "max_amount": "1000000",
    },
}

_DOCUMENT = {
    "v": 1,
    "tenant": "acme",
    "version": 7,
    "valid_until": 2_000_000_000_000,
    "records": {"generation": 1, "min_generation": 1},
    "recovery": "none",
    "passkeys": "none",
    "recipients": [],
    "limits": [],
    "principals": [
        {"id": "alice", "keys": [{"scheme": "ed25519", "public_key": ALICE}], "passkeys": [], "roles": ["signer"]},
        {"id": "bob", "keys": [{"scheme": "p256", "public_key": BOB}], "passkeys": [], "roles": ["operator"]},
    ],
    "rules": [
        {
            "id": "pay",
            "effect": "allow",
            "operations": ["sign"],
            "principals": ["principal:alice", "role:signer"],
            "labels": ["treasury"],
            "algorithms": ["secp256k1"],
            "paths": "*",
            "times": "*",
            "approvals": "none",
            "limits": "none",
            "content": [_MATCHER],
        },
        {
            "id": "make",
            "effect": "allow",
            "operations": ["generate_key", "import_key", "seal"],
            "principals": ["role:operator"],
            "labels": ["treasury", "cold"],
            "algorithms": "*",
            "paths": "*",
            "times": "*",
            "approvals": "none",
            "limits": "none",
            "content": "*",
        },
        {
            "id": "frozen",
            "effect": "deny",
            "operations": ["sign", "sign-raw", "unseal"],
            "principals": "*",
            "labels": ["frozen"],
            "algorithms": "*",
            "paths": "*",
            "times": "*",
            "approvals": "none",
            "limits": "none",
            "content": "*",
        },
    ],
}


PERSON = [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}]
MAIL: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": PERSON,
        "Mail": [
            {"name": "from", "type": "Person"},
            {"name": "to", "type": "Person"},
            {"name": "contents", "type": "string"},
        ],
    },
    "primaryType": "Mail",
    "domain": {
        "name": "Ether Mail",
        "version": "1",
        "chainId": 1,
        "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
    },
    "message": {
        "from": {"name": "Cow", "wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
        "to": {"name": "Bob", "wallet": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},
        "contents": "Hello, Bob!",
    },
}
PERMIT_TYPE = [
    {"name": name, "type": kind}
    for name, kind in (
        ("owner", "address"),
        ("spender", "address"),
        ("value", "uint256"),
        ("nonce", "uint256"),
        ("deadline", "uint256"),
    )
]
SPENDER = "0x" + "11" * 20
PERMIT: dict[str, Any] = {
    "types": {"EIP712Domain": MAIL["types"]["EIP712Domain"], "Permit": PERMIT_TYPE},
    "primaryType": "Permit",
    "domain": MAIL["domain"] | {"name": "USD Coin", "version": "2"},
    "message": {"owner": "0x" + "22" * 20, "spender": SPENDER, "value": "5000000", "nonce": 0, "deadline": 2**40},
}


@dataclass(frozen=True)
class Signer:
    """An administrator with the private key. `sign` gives the 64 bytes that a DSSE signature carries."""

    admin: Admin
    sign: Callable[[bytes], bytes]

    def signature(self, payload: bytes) -> tuple[bytes, bytes]:
        return bytes.fromhex(self.admin.public_key), self.sign(pae(POLICY, payload))


def _signer(name: str, scheme: Scheme, number: int) -> Signer:
    if scheme is Scheme.ED25519:
        key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
        public = key.public_key().public_bytes_raw()
        return Signer(Admin(id=name, scheme=scheme, public_key=public.hex()), key.sign)
    curve = ec.SECP256R1() if scheme is Scheme.P256 else ec.SECP256K1()
    private = ec.derive_private_key(number, curve)
    public = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return Signer(Admin(id=name, scheme=scheme, public_key=public.hex()), sign)


@pytest.fixture
def document() -> dict[str, Any]:
    """A fresh, valid policy document that uses every field."""
    return copy.deepcopy(_DOCUMENT)


@pytest.fixture(scope="session")
def matcher() -> dict[str, Any]:
    return copy.deepcopy(_MATCHER)


@pytest.fixture(scope="session")
def signers() -> list[Signer]:
    """One administrator of each scheme: ada (Ed25519), ben (P-256), cyd (secp256k1)."""
    return [
        _signer("ada", Scheme.ED25519, 11),
        _signer("ben", Scheme.P256, 12),
        _signer("cyd", Scheme.SECP256K1, 13),
    ]


@pytest.fixture(scope="session")
def stranger() -> Signer:
    return _signer("eve", Scheme.ED25519, 66)


@pytest.fixture(scope="session")
def tenant(signers: list[Signer]) -> Tenant:
    return Tenant(
        id="acme",
        kms_key="arn:aws:kms:eu-central-1:111122223333:key/k",
        admins=[signer.admin for signer in signers],
        threshold=2,
    )


@pytest.fixture(scope="session")
def seal() -> Callable[..., bytes]:
    """seal(payload, signers) -> DSSE envelope."""

    def build(payload: bytes | dict[str, Any], by: list[Signer]) -> bytes:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return dsse.build(POLICY, data, [signer.signature(data) for signer in by])

    return build


@pytest.fixture(scope="session")
def facts() -> Callable[..., EthereumFacts]:
    """Facts that `_MATCHER` matches, with changes."""

    def build(**changes: Any) -> EthereumFacts:
        fields: dict[str, Any] = {
            "type": "ethereum-transaction",
            "chain_id": 1,
            "to": bytes.fromhex(RECIPIENT[2:]),
            "value": 10**18,
            "max_fee": 10**16,
            "selector": bytes.fromhex("a9059cbb"),
            "token": TokenFacts(
                method="transfer", recipient=bytes.fromhex(RECIPIENT[2:]), source=None, amount=1_000_000
            ),
        }
        return EthereumFacts(**(fields | changes))

    return build


@pytest.fixture(scope="session")
def subject(facts: Callable[..., EthereumFacts]) -> Callable[..., Subject]:
    """A subject that the rule "pay" allows, with changes."""

    def build(**changes: Any) -> Subject:
        fields: dict[str, Any] = {
            "operation": "sign",
            "principal_id": "alice",
            "roles": frozenset({"signer"}),
            "algorithm": "secp256k1",
            "labels": ["treasury"],
            "facts": facts(),
        }
        return Subject(**(fields | changes))

    return build


@pytest.fixture
def mail() -> dict[str, Any]:
    """The typed data of EIP-712's own example (https://eips.ethereum.org/assets/eip-712/Example.js)."""
    return copy.deepcopy(MAIL)


@pytest.fixture
def permit() -> dict[str, Any]:
    """A Permit of EIP-2612 as a token's site asks for it."""
    return copy.deepcopy(PERMIT)
