"""What an attestation document of Adytum binds: `user_data` = SHA-256 of this JSON; `public_key` = the HPKE key.

(Towards KMS the document's public_key is an RSA-2048 SPKI instead; KMS reads nothing else.)
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from adytum_wire import strict_json
from adytum_wire.errors import Code
from adytum_wire.types import Hex32


class Binding(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    v: Literal[1] = 1
    protocol: int
    build: str
    boot_id: str
    manifest_hash: Hex32
    receipt_key: Hex32  # Ed25519
    hpke_key: Hex32  # X25519


def encode_binding(binding: Binding) -> bytes:
    return strict_json.encode(binding)


def parse_binding(data: bytes) -> Binding:
    """Errors: ATTESTATION_FAILED. The caller has checked SHA-256(data) against the document's user_data."""
    return strict_json.decode(data, Binding, limit=4096, code=Code.ATTESTATION_FAILED)
