"""Coverage-guided fuzzing of one approval, as a host could hand it over, and of the parsers inside it.

    python core/fuzz/fuzz_approvals.py -max_total_time=300 -max_len=4096 [corpus directory]

The contract: a verified approval, or `AdytumError` with one of the approval's codes. The first byte chooses the edge:
a mutated genuine approval, whole (nothing but the genuine one may verify), or a wrong assertion or statement that is
properly signed, so that the fuzzer reaches what stands behind the signature.
"""

from __future__ import annotations

import base64
import json
import sys

import atheris
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with atheris.instrument_imports(include=["adytum_policy.approvals", "adytum_wire.strict_json"]):
    from adytum_policy.approvals import root_through, verify_approval
    from adytum_policy.approvals.authenticator_data import parse_authenticator_data
    from adytum_policy.approvals.client_data import parse_client_data

from msgspec.structs import replace

from adytum_policy.document import parse_policy
from adytum_wire.approvals import Approval, KeyProof, PasskeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.types import Scheme, sha256

NOW = 1_795_435_200_000
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PASSKEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
CREDENTIAL = b"credential-0001"
DIGEST = sha256(b"a request's body")
CODES = {code for code in Code if code.value.startswith("APPROVAL_")} - {Code.APPROVAL_COUNTER}
POLICY = parse_policy(
    json.dumps(
        {
            "v": 1,
            "tenant": "acme",
            "version": 7,
            "valid_until": 2_000_000_000_000,
            "records": {"generation": 1, "min_generation": 1},
            "recovery": "none",
            "passkeys": {"rp_id": "vault.example", "origins": ["https://vault.example"]},
            "recipients": [],
            "limits": [],
            "principals": [
                {
                    "id": "alice",
                    "keys": [{"scheme": "ed25519", "public_key": KEY.public_key().public_bytes_raw().hex()}],
                    "passkeys": [
                        {
                            "credential_id": CREDENTIAL.hex(),
                            "scheme": "ed25519",
                            "public_key": PASSKEY.public_key().public_bytes_raw().hex(),
                        }
                    ],
                    "roles": ["approver"],
                }
            ],
            "rules": [],
        }
    ).encode()
)
STATEMENT = json.dumps(
    {
        "v": 1,
        "tenant": "acme",
        "subject": {"type": "request", "digest": DIGEST.hex()},
        "policy_version": 7,
        "decision": "approve",
        "issued_at": NOW,
        "expires_at": NOW + 3_600_000,
    }
).encode()


def client_data(statement: bytes) -> bytes:
    challenge = base64.urlsafe_b64encode(sha256(pae(APPROVAL, statement))).rstrip(b"=").decode()
    return json.dumps(
        {"type": "webauthn.get", "challenge": challenge, "origin": "https://vault.example", "crossOrigin": False}
    ).encode()


DATA = sha256(b"vault.example") + b"\x05" + bytes(4)


def by_key(statement: bytes) -> Approval:
    proof = KeyProof(
        scheme=Scheme.ED25519,
        public_key=KEY.public_key().public_bytes_raw(),
        signature=KEY.sign(pae(APPROVAL, statement)),
    )
    return Approval(statement=statement, proof=proof)


def by_passkey(statement: bytes, data: bytes, client: bytes) -> Approval:
    signature = PASSKEY.sign(data + sha256(client))
    proof = PasskeyProof(credential_id=CREDENTIAL, authenticator_data=data, client_data=client, signature=signature)
    return Approval(statement=statement, proof=proof)


GENUINE = by_passkey(STATEMENT, DATA, client_data(STATEMENT))
PARTS = ("statement", "authenticator_data", "client_data", "signature", "credential_id")


class Finding(Exception):
    """A broken promise."""


def verify(approval: Approval) -> None:
    verified = verify_approval(approval, tenant="acme", request_digest=DIGEST, policy=POLICY, latest_ms=NOW)
    if verified.vote.principal_id != "alice" or verified.vote.expires_at <= verified.vote.issued_at:
        raise Finding("verified for somebody else, or for no time")


def mutated(data: bytes) -> None:
    """One part of a genuine approval is replaced: it verifies only if nothing was changed."""
    part, value = PARTS[data[0] % len(PARTS)], data[1:]
    changed = replace(GENUINE, statement=value) if part == "statement" else None
    changed = changed or replace(GENUINE, proof=replace(GENUINE.proof, **{part: value}))
    verify(changed)
    if changed != GENUINE:
        raise Finding(f"verified with another {part}")


def spliced(data: bytes) -> None:
    """Bytes of a genuine part are overwritten in place, so that mutations stay close to what is right."""
    part, at, patch = PARTS[data[0] % len(PARTS)], data[1], data[2:]
    old: bytes = GENUINE.statement if part == "statement" else getattr(GENUINE.proof, part)
    mutated(bytes([PARTS.index(part)]) + old[:at] + patch + old[at + len(patch) :])


def signed_statement(data: bytes) -> None:
    verify(by_key(data))
    verify(by_passkey(data, DATA, client_data(data)))


def signed_client_data(data: bytes) -> None:
    verify(by_passkey(STATEMENT, DATA, data))
    if json.loads(data)["origin"] != "https://vault.example":
        raise Finding("another reader sees another origin")


def signed_authenticator_data(data: bytes) -> None:
    verify(by_passkey(STATEMENT, data, client_data(STATEMENT)))
    if data[:32] != DATA[:32] or data[32] & 0x05 != 0x05 or (len(data) > 37) != bool(data[32] & 0x80):
        raise Finding("verified without what it must say")


def extensions(data: bytes) -> None:
    found = parse_authenticator_data(DATA[:32] + b"\x85" + bytes(4) + data)
    if found.counter or not data:
        raise Finding("read past its bytes")


def client(data: bytes) -> None:
    parse_client_data(data)


def place(data: bytes) -> None:
    index, size = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big") + 1
    nodes = [data[at : at + 32] for at in range(8, len(data) - 31, 32)]
    found = root_through(DIGEST, index, size, nodes)
    if found is not None and (index >= size or len(nodes) > 32):
        raise Finding("a leaf outside of the tree")


EDGES = (
    mutated,
    spliced,
    signed_statement,
    signed_client_data,
    signed_authenticator_data,
    extensions,
    client,
    place,
)


def one(data: bytes) -> None:
    if len(data) < 4:
        return
    try:
        EDGES[data[0] % len(EDGES)](data[1:])
    except AdytumError as error:
        if error.code not in CODES:
            raise


def seeds() -> list[bytes]:
    """Inputs to begin with: genuine parts, each at its edge."""
    client_bytes = client_data(STATEMENT)
    return [
        b"\0\0" + STATEMENT,
        b"\2" + STATEMENT,
        b"\3" + client_bytes,
        b"\4" + DATA,
        b"\4" + DATA[:32] + b"\x85" + bytes(4) + b"\xa1\x61a\x83\x01\x20\xf5",
        b"\5\xa2\x63uvm\x81\x83\x01\x19\x00\x02\x03\x63abc\xf5",
        b"\6" + client_bytes,
        b"\7" + bytes(7) + b"\3" + bytes(64),
    ]


def main() -> None:
    verify(GENUINE)
    verify(by_key(STATEMENT))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
