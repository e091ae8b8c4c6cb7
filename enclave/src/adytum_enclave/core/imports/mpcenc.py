"""Share files of `go-mpc-wallet` with a header: magic `MPCENC`, version 1 (spec/imports.md has the layout).

    magic (8) || version u16 || flags u16 || content type u8
    || kdf u8 || N u32 || r u32 || p u32 || salt (u16 length)
    || mode u8 || kek id (u16 length) || wrapped key (u16 length)
    || nonce (u8 length) || aad (u16 length)
    || key id (u16 length) || node id (u16 length) || protocol (u8 length) || curve (u8 length) || created i64
    || ciphertext and tag

Only the password form opens here: the other one's data key is KMS's to open, under a key that is not this enclave's.
Key id, node id and the rest of the last line are authenticated by nothing, so nothing is made of them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final

from adytum_enclave.core.crypto import aead, keywrap
from adytum_enclave.core.crypto.stretch import KEY_SIZE, ScryptCost
from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports.mpc_legacy import open_gcm
from adytum_enclave.core.imports.parts import Parts, invalid
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits

MAGIC: Final = b"MPCENC\0\0"
VERSION: Final = 1
CONTENT_TYPES: Final = (1, 2)  # MPC_SHARE, LOCAL_PARTY_SAVE_DATA
SCRYPT: Final = 1
KMS_KEK: Final = 1
PASSWORD_KEK: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MpcFile:
    content_type: int
    cost: ScryptCost
    wrapped_key: bytes  # 40
    nonce: bytes  # 12
    aad: bytes
    ciphertext: bytes = field(repr=False)  # with its tag


class _Reader:
    """Reads a file from its beginning; what is too short is refused."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise invalid("length")
        self._at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def counted(self, size: int) -> bytes:
        """Bytes behind their own length, a number of `size` bytes."""
        return self.take(self.number(size))

    def rest(self) -> bytes:
        return self._data[self._at :]


def parse(file: bytes) -> MpcFile:
    """Read a file. Errors: IMPORT_INVALID and nothing else, for whatever bytes."""
    reader = _Reader(file)
    if reader.take(len(MAGIC)) != MAGIC:
        raise invalid("magic")
    if reader.number(2) != VERSION:
        raise invalid("version")
    if reader.number(2) != 0:
        raise invalid("flags")
    content_type = reader.number(1)
    if content_type not in CONTENT_TYPES:
        raise invalid("content type")
    if reader.number(1) != SCRYPT:
        raise invalid("kdf")
    cost = ScryptCost(n=reader.number(4), r=reader.number(4), p=reader.number(4), salt=reader.counted(2))
    mode = reader.number(1)
    kek_id, wrapped = reader.counted(2), reader.counted(2)
    if mode == KMS_KEK:
        raise invalid("KMS_KEK")
    if mode != PASSWORD_KEK:
        raise invalid("mode")
    if not cost.is_affordable:
        raise invalid("kdf too costly")
    if len(wrapped) != keywrap.WRAPPED_SIZE:
        raise invalid("wrapped key")
    nonce, aad = reader.counted(1), reader.counted(2)
    if len(nonce) != aead.NONCE_SIZE:
        raise invalid("nonce")
    # Whatever else it says is another header's, and this one would be unbound.
    if aad not in (b"", MAGIC + file[8:13] + kek_id):
        raise invalid("aad")
    for size in (2, 2, 1, 1):
        reader.counted(size)
    reader.take(8)
    ciphertext = reader.rest()
    if not aead.TAG_SIZE < len(ciphertext) <= limits.MAX_SECRET + aead.TAG_SIZE:
        raise invalid("size")
    return MpcFile(
        content_type=content_type, cost=cost, wrapped_key=wrapped, nonce=nonce, aad=aad, ciphertext=ciphertext
    )


def unlock(parts: Parts, arena: Arena) -> Generator[Stretch, Any, Slot]:
    """What the file holds, opaque, 1 to `limits.MAX_SECRET` bytes; the caller owns it. Errors: as `keystore.unlock`."""
    file = parse(parts.file())
    with arena.take(KEY_SIZE) as wrapping, arena.take(KEY_SIZE) as key:
        slot, start, end = parts.slot, parts.password_start, parts.middle
        yield Stretch(work=lambda: file.cost.derive(slot, start, end, wrapping))
        if not keywrap.unwrap(wrapping, file.wrapped_key, key):
            raise invalid("password")
        return open_gcm(key, file.nonce, file.ciphertext, file.aad, arena)
