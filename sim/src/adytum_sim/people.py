"""People with keys: policy admins and clients of the stand-in's deployments."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adytum.client.signers import KeySigner
from adytum_sim.passkeys import Passkey
from adytum_wire import dsse
from adytum_wire.approvals import Approval, KeyProof
from adytum_wire.pae import APPROVAL, POLICY, REQUEST, pae
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme

_CURVES: dict[Scheme, ec.EllipticCurve] = {Scheme.P256: ec.SECP256R1(), Scheme.SECP256K1: ec.SECP256K1()}


@dataclass(frozen=True, slots=True)
class Person:
    """`name` is the principal or admin id."""

    name: str
    signer: KeySigner

    @classmethod
    def new(cls, name: str, scheme: Scheme = Scheme.ED25519) -> Person:
        if scheme is Scheme.ED25519:
            return cls(name, KeySigner(Ed25519PrivateKey.generate()))
        return cls(name, KeySigner(ec.generate_private_key(_CURVES[scheme])))

    @property
    def scheme(self) -> Scheme:
        return self.signer.scheme

    @property
    def public_key(self) -> bytes:
        return self.signer.public_key

    def sign(self, message: bytes) -> bytes:
        """64 bytes, as `Scheme` says."""
        return self.signer.sign(message)

    def stamp(self, body: bytes) -> Stamp:
        return Stamp(self.scheme, self.public_key, self.sign(pae(REQUEST, body)))

    def approval(self, statement: bytes, *, index: int = 0, path: tuple[bytes, ...] = ()) -> Approval:
        """`statement` (see `approval_statement`) signed with the person's key."""
        proof = KeyProof(scheme=self.scheme, public_key=self.public_key, signature=self.sign(pae(APPROVAL, statement)))
        return Approval(statement=statement, proof=proof, index=index, path=path)

    def as_admin(self) -> dict[str, Any]:
        return {"id": self.name, "scheme": self.scheme.value, "public_key": self.public_key.hex()}

    def as_principal(self, *roles: str, passkeys: Sequence[Passkey] = ()) -> dict[str, Any]:
        key = {"scheme": self.scheme.value, "public_key": self.public_key.hex()}
        entries = [passkey.entry() for passkey in passkeys]
        return {"id": self.name, "keys": [key], "passkeys": entries, "roles": list(roles)}


def request_body(tenant: str, operation: str, issued_at: int, /, *, request_id: str = "", **fields: Any) -> bytes:
    """A request body as a client would write it. `issued_at` in ms."""
    body = {
        "v": 1,
        "operation": operation,
        "tenant": tenant,
        "request_id": request_id or secrets.token_urlsafe(12),
        "issued_at": issued_at,
        **fields,
    }
    return json.dumps(body).encode()


def approval_statement(
    tenant: str,
    subject: bytes | Mapping[str, Any],
    *,
    policy_version: int,
    issued_at: int,
    expires_at: int | None = None,
    decision: str = "approve",
    **changes: Any,
) -> bytes:
    """What an approver signs. `subject`: a request's digest (32 bytes), or the whole member (a batch, or a wrong one).
    Times in ms; it holds for an hour unless `expires_at` says otherwise. `changes`: wrong or additional members."""
    statement = {
        "v": 1,
        "tenant": tenant,
        "subject": {"type": "request", "digest": subject.hex()} if isinstance(subject, bytes) else dict(subject),
        "policy_version": policy_version,
        "decision": decision,
        "issued_at": issued_at,
        "expires_at": issued_at + 3_600_000 if expires_at is None else expires_at,
        **changes,
    }
    return json.dumps(statement).encode()


def batch_subject(root: bytes, size: int) -> dict[str, Any]:
    """The subject of a statement about `size` requests (adytum_policy.approvals.merkle)."""
    return {"type": "batch", "root": root.hex(), "size": size}


def signed_policy(document: Mapping[str, Any], *admins: Person) -> bytes:
    """The DSSE envelope of a policy document, signed by `admins`. Unlike `adytum.client.policy.sign_policy` it signs
    anything: hostile admins do."""
    payload = json.dumps(document).encode()
    return dsse.build(POLICY, payload, [(a.public_key, a.sign(pae(POLICY, payload))) for a in admins])
