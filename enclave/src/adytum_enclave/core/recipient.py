"""The RSA key to which KMS encrypts data keys, and the opening of what KMS sends.

The key pair lives for one boot, in the memory of OpenSSL; its public half goes into the attestation document that
accompanies every KMS call, and KMS answers to that half only. Opening leaves the data key in an arena and nowhere else.

What CPython cannot do better, and what is done about it: OpenSSL keeps the private key and, while it works, its
intermediate values in ordinary heap (it clears them when it frees them). RSA decryption hands out `bytes` (the
content-encryption key): the object is overwritten in place before it is freed, and so is the buffer of the native
library from which it was copied. A test scans the memory of the whole process and finds neither key. The first call
of a native function may leave registers on the stack (lazy binding): the enclave starts with LD_BIND_NOW=1.

Left out: who sent the envelope. It is not authentic; see `core/cms.py`.

>>> from adytum_enclave.core.secrets import Arena
>>> key = RecipientKey.generate()                   # doctest: +SKIP
>>> with key.open(answer, Arena(4096)) as data_key: # doctest: +SKIP
...     ...
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
from functools import cache
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adytum_enclave.core.cms import CmsEnvelope, parse_cms
from adytum_enclave.core.secrets import Arena, Slot, copy
from adytum_wire.errors import AdytumError, Code

DATA_KEY_SIZE: Final = 32  # bytes; KeySpec AES_256
_CEK_SIZE: Final = 32  # bytes
_BLOCK: Final = 16  # bytes
_PADDED: Final = DATA_KEY_SIZE + _BLOCK  # PKCS #7 adds a whole block to a whole number of blocks
_MODULUS_SIZE: Final = 256  # bytes
_SCRUBBED_CHUNKS: Final = 16

_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class RecipientKey:
    """An RSA-2048 key pair. It cannot be copied, pickled, exported or compared; only `spki` is public."""

    __slots__ = ("_private", "_ski", "spki")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        """Errors: ValueError unless the key has 2048 bits (KMS takes no other size in an attestation document)."""
        if private.key_size != 8 * _MODULUS_SIZE:
            raise ValueError("want RSA-2048")
        self._private = private
        #: DER SubjectPublicKeyInfo, what the attestation document's `public_key` holds (294 bytes)
        self.spki: bytes = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._ski = hashlib.sha256(self.spki).digest()

    @classmethod
    def generate(cls) -> RecipientKey:
        """A fresh key pair from OpenSSL's generator, which the kernel (in an enclave: the NSM) seeds. About 35 ms."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=8 * _MODULUS_SIZE))

    def open(self, ciphertext_for_recipient: bytes, arena: Arena) -> Slot:
        """Return the data key (32 bytes) in a slot that the caller owns.

        `ciphertext_for_recipient`: CMS as KMS sends it, at most 6144 bytes.
        Errors: KMS_ANSWER_INVALID when it is malformed, for another key, does not decrypt, or does not hold 32 bytes,
        without saying which of the last three; RESOURCE_EXHAUSTED when the arena is full. Nothing is left in the arena
        then. Source: RFC 5652 sections 6.2.1 and 6.3, RFC 8017 section 7.1.2.
        """
        envelope = parse_cms(ciphertext_for_recipient)
        if not hmac.compare_digest(envelope.ski, self._ski):
            raise AdytumError(Code.KMS_ANSWER_INVALID, "CiphertextForRecipient.ski")
        if len(envelope.ciphertext) != _PADDED:
            raise _does_not_open()
        with arena.take(_PADDED + _BLOCK) as padded:  # update_into wants a block to spare
            self._decrypt(envelope, padded)
            return _unpad(padded, arena)

    def _decrypt(self, envelope: CmsEnvelope, target: Slot) -> None:
        cek = b""
        try:
            cek = self._private.decrypt(envelope.encrypted_key, _OAEP)
            if len(cek) != _CEK_SIZE:
                raise _does_not_open()
            decryptor = Cipher(algorithms.AES(cek), modes.CBC(envelope.iv)).decryptor()
            decryptor.update_into(envelope.ciphertext, target.view)
            decryptor.finalize()  # frees OpenSSL's context, which clears the key schedule
        except ValueError:
            raise _does_not_open() from None
        finally:
            _overwrite(cek)
            _scrub_heap()

    def __repr__(self) -> str:
        return "<RecipientKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a recipient key cannot be copied or pickled")

    def __deepcopy__(self, _memo: dict[int, Any]) -> NoReturn:
        raise TypeError("a recipient key cannot be copied or pickled")


def _does_not_open() -> AdytumError:
    """One error for every way in which decryption fails: to tell them apart is an oracle (RFC 8017, 7.1.2, note)."""
    return AdytumError(Code.KMS_ANSWER_INVALID, "CiphertextForRecipient.content")


def _unpad(padded: Slot, arena: Arena) -> Slot:
    """Move the data key to a slot of its own, once all 16 bytes of padding proved to be 16 (no early way out)."""
    view = padded.view
    wrong = 0
    for index in range(DATA_KEY_SIZE, _PADDED):
        wrong |= view[index] ^ _BLOCK
    if wrong:
        raise _does_not_open()
    data_key = arena.take(DATA_KEY_SIZE)
    copy(view[:DATA_KEY_SIZE], data_key)
    return data_key


def _overwrite(secret: bytes) -> None:
    """Zero the contents of a `bytes` object in place. It must have been made at run time and be known to nobody else.

    CPython keeps the characters behind a header of `bytes.__basicsize__ - 1` bytes. The empty object is shared: spared.
    """
    if secret:
        ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    return libc


def _scrub_heap() -> None:
    """Overwrite freed heap chunks of the RSA modulus's size.

    RSA decryption writes its result to a native buffer of 256 bytes, copies it to the `bytes` that it returns, and
    frees the buffer uncleared. The allocator hands out first the chunk that was freed last, so taking a few of that
    size gets it.
    """
    libc = _libc()
    chunks = [libc.malloc(ctypes.c_size_t(_MODULUS_SIZE)) for _ in range(_SCRUBBED_CHUNKS)]
    for chunk in chunks:
        if chunk:
            ctypes.memset(chunk, 0, _MODULUS_SIZE)
    for chunk in chunks:
        if chunk:
            libc.free(ctypes.c_void_p(chunk))
