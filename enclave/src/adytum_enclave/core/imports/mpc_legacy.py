"""Share files of `go-mpc-wallet` before it had a header: nonce (12) || AES-256-GCM ciphertext and tag, no AAD.

The key is scrypt(password, "mpc-key-share-salt", N = 32768, r = 8, p = 1). The salt is the same for every file, and
nothing binds a file to its key or node: whoever could write to the old host's disk could have swapped files, and no
importer can notice.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from adytum_enclave.core.crypto import aead
from adytum_enclave.core.crypto.stretch import KEY_SIZE, ScryptCost
from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports.parts import Parts, invalid
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits

COST: Final = ScryptCost(n=32768, r=8, p=1, salt=b"mpc-key-share-salt")
_OVERHEAD: Final = aead.NONCE_SIZE + aead.TAG_SIZE


def unlock(parts: Parts, arena: Arena) -> Generator[Stretch, Any, Slot]:
    """What the file holds, opaque, 1 to `limits.MAX_SECRET` bytes; the caller owns it. Errors: as `keystore.unlock`."""
    file = parts.file()
    if not _OVERHEAD < len(file) <= _OVERHEAD + limits.MAX_SECRET:
        raise invalid("size")
    with arena.take(KEY_SIZE) as key:
        slot, start, end = parts.slot, parts.password_start, parts.middle
        yield Stretch(work=lambda: COST.derive(slot, start, end, key))
        return open_gcm(key, file[: aead.NONCE_SIZE], file[aead.NONCE_SIZE :], b"", arena)


def open_gcm(key: Slot, nonce: bytes, ciphertext: bytes, aad: bytes, arena: Arena) -> Slot:
    """AES-256-GCM plaintext in a slot; the caller owns it. Errors: IMPORT_INVALID; no slot stays taken then."""
    secret = arena.take(len(ciphertext) - aead.TAG_SIZE)
    opened = False
    try:
        opened = aead.decrypt_into(key, nonce, ciphertext, aad, secret)
    finally:
        if not opened:
            secret.wipe()
    if not opened:
        raise invalid("password")
    return secret
