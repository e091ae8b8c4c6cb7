"""People with keys: policy admins and clients of the stand-in's deployments."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adytum.client.signers import KeySigner
from adytum_wire import dsse
from adytum_wire.pae import POLICY, REQUEST, pae
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

    def as_admin(self) -> dict[str, Any]:
        return {"id": self.name, "scheme": self.scheme.value, "public_key": self.public_key.hex()}

    def as_principal(self, *roles: str) -> dict[str, Any]:
        key = {"scheme": self.scheme.value, "public_key": self.public_key.hex()}
        return {"id": self.name, "keys": [key], "passkeys": [], "roles": list(roles)}


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


def signed_policy(document: Mapping[str, Any], *admins: Person) -> bytes:
    """The DSSE envelope of a policy document, signed by `admins`. Unlike `adytum.client.policy.sign_policy` it signs
    anything: hostile admins do."""
    payload = json.dumps(document).encode()
    return dsse.build(POLICY, payload, [(a.public_key, a.sign(pae(POLICY, payload))) for a in admins])
