"""A passkey as a browser and an authenticator use it together: makes WebAuthn assertions, and wrong ones on request.

Written from W3C WebAuthn Level 2 (5.8.1.1 for the client data as browsers spell it, 6.1 and 6.3.3 for the
authenticator), not from our verifier. Each keyword breaks one thing; without any the assertion is genuine.

    passkey = Passkey.new("vault.example")
    principal["passkeys"] = [passkey.entry()]
    document["passkeys"] = {"rp_id": "vault.example", "origins": ["https://vault.example"]}
    approval = passkey.approval(statement)      # Approval, ready to be sent
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adytum_wire.approvals import Approval, PasskeyProof
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.types import Scheme, sha256

UP, UV, BE, BS, AT, ED = 0x01, 0x04, 0x08, 0x10, 0x40, 0x80


@dataclass(slots=True, kw_only=True)
class Passkey:
    """`counter`: what the next genuine assertion carries; None for a synced passkey, which always says 0."""

    rp_id: str
    credential_id: bytes
    counter: int | None
    _key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls, rp_id: str, *, scheme: Scheme = Scheme.P256, counter: int | None = 1) -> Passkey:
        """A fresh credential. `scheme`: P256 (COSE ES256) or ED25519 (EdDSA)."""
        key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey
        key = Ed25519PrivateKey.generate() if scheme is Scheme.ED25519 else ec.generate_private_key(ec.SECP256R1())
        return cls(rp_id=rp_id, credential_id=secrets.token_bytes(32), counter=counter, _key=key)

    @property
    def scheme(self) -> Scheme:
        return Scheme.ED25519 if isinstance(self._key, Ed25519PrivateKey) else Scheme.P256

    @property
    def public_key(self) -> bytes:
        """As the policy has it: 32 bytes (Ed25519) or 33 (SEC 1 compressed)."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.public_key().public_bytes_raw()
        return self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def entry(self) -> dict[str, Any]:
        """For a principal's `passkeys` in the policy."""
        return {
            "credential_id": self.credential_id.hex(),
            "scheme": self.scheme.value,
            "public_key": self.public_key.hex(),
        }

    def assertion(
        self,
        statement: bytes,
        *,
        origin: str | None = None,
        counter: int | None = None,
        ceremony: str = "webauthn.get",
        challenge: bytes | None = None,
        cross_origin: bool = False,
        members: dict[str, Any] | None = None,
        client_data: bytes | None = None,
        rp_id: str | None = None,
        flags: int = UP | UV,
        extensions: bytes = b"",
        credential_id: bytes | None = None,
    ) -> PasskeyProof:
        """The assertion over `statement`, as `navigator.credentials.get()` gives it.

        `members`: more members of the client data, replacing those there; `client_data`: the whole of it, as bytes.
        `extensions`: bytes after the counter; set `flags | ED` with them. A counter that is given does not move the
        authenticator's own.
        """
        if client_data is None:
            client_data = client_data_json(
                pae(APPROVAL, statement) if challenge is None else challenge,
                origin=f"https://{self.rp_id}" if origin is None else origin,
                ceremony=ceremony,
                cross_origin=cross_origin,
                members=members,
                is_hashed=challenge is not None,
            )
        if counter is None:
            counter = self.counter or 0
            if self.counter is not None:
                self.counter += 1
        relying_party = sha256((self.rp_id if rp_id is None else rp_id).encode())
        data = relying_party + bytes([flags]) + counter.to_bytes(4, "big") + extensions
        return PasskeyProof(
            credential_id=self.credential_id if credential_id is None else credential_id,
            authenticator_data=data,
            client_data=client_data,
            signature=self._sign(data + sha256(client_data)),
        )

    def approval(self, statement: bytes, *, index: int = 0, path: tuple[bytes, ...] = (), **changes: Any) -> Approval:
        """`assertion` with its statement. `index`, `path`: the request's place in a batch."""
        return Approval(statement=statement, proof=self.assertion(statement, **changes), index=index, path=path)

    def _sign(self, message: bytes) -> bytes:
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


def client_data_json(
    challenge: bytes,
    *,
    origin: str,
    ceremony: str = "webauthn.get",
    cross_origin: bool = False,
    members: dict[str, Any] | None = None,
    is_hashed: bool = False,
) -> bytes:
    """The client data in a browser's spelling. `challenge`: hashed here unless `is_hashed`."""
    hashed = challenge if is_hashed else sha256(challenge)
    data: dict[str, Any] = {
        "type": ceremony,
        "challenge": base64.urlsafe_b64encode(hashed).rstrip(b"=").decode(),
        "origin": origin,
        "crossOrigin": cross_origin,
    }
    return json.dumps(data | (members or {}), separators=(",", ":"), ensure_ascii=False).encode()
