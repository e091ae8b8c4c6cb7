"""Keys from passwords: scrypt (RFC 7914, libsodium) and PBKDF2-HMAC-SHA-256 (RFC 8018, OpenSSL), in slots.

These take up to seconds and 256 MiB, on purpose, so they run on a thread of the shell's (`effects.Stretch`): `derive`
calls native code only, which lets the interpreter go on, and touches nothing but the two slots that it is given.

libsodium wipes what it puts on the stack and gives its working memory back to the kernel, which zeroes it. OpenSSL
wipes its copy of the password, but leaves the last block of PBKDF2 on the stack, where the key is; the same call with
public values overwrites that. (OpenSSL's scrypt refuses n over 2^(16 r), which the published keystore vector has.)

Left out: salts that are secret (`pbkdf2`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from nacl._sodium import ffi, lib

from adytum_enclave.core.secrets import Slot
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

KEY_SIZE: Final = 32  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScryptCost:
    """`n` rounds of `r` blocks on `p` lanes; salt up to 255 bytes."""

    n: int
    r: int
    p: int
    salt: bytes

    @property
    def is_affordable(self) -> bool:
        """Within `limits`, and what RFC 7914 allows: n a power of two over 1."""
        return (
            1 < self.n <= limits.MAX_SCRYPT_WORK
            and self.n & (self.n - 1) == 0
            and 0 < self.r <= limits.MAX_SCRYPT_WORK
            and 0 < self.p <= limits.MAX_SCRYPT_LANES
            and 128 * self.n * self.r <= limits.MAX_SCRYPT_MEMORY
            and self.n * self.r * self.p <= limits.MAX_SCRYPT_WORK
            and len(self.salt) <= limits.MAX_SALT
        )

    def derive(self, password: Slot, start: int, end: int, target: Slot) -> None:
        """Fill `target` (32 bytes) from password.view[start:end]. Errors: RESOURCE_EXHAUSTED when memory is short."""
        failed = lib.crypto_pwhash_scryptsalsa208sha256_ll(
            ffi.cast("uint8_t *", password.pointer + start),
            end - start,
            self.salt,
            len(self.salt),
            self.n,
            self.r,
            self.p,
            ffi.cast("uint8_t *", target.pointer),
            KEY_SIZE,
        )
        if failed:
            raise AdytumError(Code.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbkdf2Cost:
    rounds: int
    salt: bytes

    @property
    def is_affordable(self) -> bool:
        return 0 < self.rounds <= limits.MAX_PBKDF2_ROUNDS and len(self.salt) <= limits.MAX_SALT

    def derive(self, password: Slot, start: int, end: int, target: Slot) -> None:
        """As `ScryptCost.derive`."""
        PBKDF2HMAC(SHA256(), KEY_SIZE, self.salt, self.rounds).derive_into(password.view[start:end], target.view)
        PBKDF2HMAC(SHA256(), KEY_SIZE, b"", 1).derive_into(b"", bytearray(KEY_SIZE))


Cost = ScryptCost | Pbkdf2Cost
