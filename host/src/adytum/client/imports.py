"""What a client sends of files that others wrote, and how it opens an export.

`adytum.imports` finds such files and says what they are. What a file holds is in this process's memory, as it was on
its disk: import on a machine that you would let hold the keys.
"""

from __future__ import annotations

import unicodedata
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum_wire import limits
from adytum_wire.requests import unseal_info
from adytum_wire.results import ExportResult

FileFormat = Literal["keystore-v3", "bip39", "mpcenc-v1", "mpc-legacy"]
FORMATS: Final = ("keystore-v3", "bip39", "mpcenc-v1", "mpc-legacy", "raw-hex")
# A body is at most limits.MAX_BODY, in which a sealed byte takes two digits; labels and the rest take up to 2 KiB.
MAX_PACKED: Final = (limits.MAX_BODY - 2 * limits.KIB) // 2 - 16  # bytes of password and file together


def pack_file(password: bytes, file: bytes) -> bytes:
    """What is sealed for `import_file`. Errors: ValueError when the request would be too large."""
    packed = len(password).to_bytes(4, "big") + password + file
    if len(packed) > MAX_PACKED:
        raise ValueError(f"password and file together have more than {MAX_PACKED - 4} bytes")
    return packed


def passphrase(text: str) -> bytes:
    """A BIP-39 passphrase as it enters the derivation: NFKD, UTF-8."""
    return unicodedata.normalize("NFKD", text).encode()


def open_export(result: ExportResult, private: X25519PrivateKey) -> bytes:
    """What an export carries, opened by its recipient. Errors: ValueError, also where the answer names another record
    or kind than the enclave sealed: it travelled through the host, and is opened without its receipt."""
    info = unseal_info("export", result.tenant, result.request_id, result.key_id, result.kind)
    return hpke.unseal(private, bytes.fromhex(result.enc), bytes.fromhex(result.ciphertext), info=info)
