"""KMS keys: their state, their backing keys, and the ciphertext blob.

A blob is ours to define, clients treat it as opaque: version, key id, backing key number, nonce, AES-256-GCM. The key's
ARN and the EncryptionContext (sorted, each part with its length, so that {"a": "bc"} is not {"ab": "c"}) are the AAD.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adytum_sim.kms.errors import KmsFault

_VERSION: Final = b"\x01\x02\x02\x00\x78"
_ID_SIZE: Final = 16
_NUMBER_SIZE: Final = 4
_NONCE_SIZE: Final = 12
_HEADER_SIZE: Final = len(_VERSION) + _ID_SIZE + _NUMBER_SIZE + _NONCE_SIZE


@dataclass(slots=True, kw_only=True)
class Key:
    """One symmetric KMS key. `backing` are 32-byte keys, the last one encrypts."""

    key_id: str
    arn: str
    created_ms: int
    description: str
    policy: dict[str, Any]
    policy_text: str
    backing: list[bytes] = field(repr=False)
    enabled: bool = True
    deletion_ms: int | None = None
    rotation_days: int | None = None
    rotations: list[tuple[int, str]] = field(default_factory=list)  # (milliseconds, AUTOMATIC or ON_DEMAND)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        if self.deletion_ms is not None:
            return "PendingDeletion"
        return "Enabled" if self.enabled else "Disabled"

    def require_usable(self) -> None:
        """Errors: DisabledException, KMSInvalidStateException."""
        if self.state == "Disabled":
            raise KmsFault("DisabledException", f"{self.arn} is disabled.")
        self.require_not_deleted()

    def require_not_deleted(self) -> None:
        if self.state == "PendingDeletion":
            raise KmsFault("KMSInvalidStateException", f"{self.arn} is pending deletion.")

    def material_id(self, number: int = -1) -> str:
        """KeyMaterialId: 64 hex digits that name a backing key without telling it."""
        return hashlib.sha256(b"adytum-sim/key-material/" + self.backing[number]).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    plaintext: bytes = field(repr=False)
    material_id: str


def _aad(arn: str, context: Mapping[str, str]) -> bytes:
    parts = [arn]
    for name in sorted(context):
        parts += [name, context[name]]
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def seal(key: Key, plaintext: bytes, context: Mapping[str, str], random_bytes: Callable[[int], bytes]) -> bytes:
    """Encrypt under the newest backing key."""
    number, nonce = len(key.backing) - 1, random_bytes(_NONCE_SIZE)
    header = _VERSION + uuid.UUID(key.key_id).bytes + number.to_bytes(_NUMBER_SIZE, "big") + nonce
    return header + AESGCM(key.backing[number]).encrypt(nonce, plaintext, header + _aad(key.arn, context))


def key_id_of(blob: bytes) -> str:
    """Which key a blob says it is under. Errors: InvalidCiphertextException."""
    if len(blob) < _HEADER_SIZE + 16 or not blob.startswith(_VERSION):
        raise KmsFault("InvalidCiphertextException")
    return str(uuid.UUID(bytes=blob[len(_VERSION) : len(_VERSION) + _ID_SIZE]))


def unseal(key: Key, blob: bytes, context: Mapping[str, str]) -> Opened:
    """Decrypt a blob. Errors: InvalidCiphertextException for a changed blob or another context."""
    header, body = blob[:_HEADER_SIZE], blob[_HEADER_SIZE:]
    number = int.from_bytes(header[len(_VERSION) + _ID_SIZE : -_NONCE_SIZE], "big")
    if number >= len(key.backing):
        raise KmsFault("InvalidCiphertextException")
    try:
        plaintext = AESGCM(key.backing[number]).decrypt(header[-_NONCE_SIZE:], body, header + _aad(key.arn, context))
    except InvalidTag:
        raise KmsFault("InvalidCiphertextException") from None
    return Opened(plaintext=plaintext, material_id=key.material_id(number))
