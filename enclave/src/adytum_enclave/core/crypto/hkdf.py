"""HKDF-SHA-256 (RFC 5869) by OpenSSL, input and output in slots."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adytum_enclave.core.secrets import Slot


def derive(input_key: Slot, *, salt: bytes, info: bytes, target: Slot) -> None:
    """Fill `target` (1 to 8,160 bytes) with HKDF(salt, input_key, info)."""
    HKDF(SHA256(), target.size, salt, info).derive_into(input_key.view, target.view)
