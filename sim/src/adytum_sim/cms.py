"""The CMS EnvelopedData (RFC 5652) that KMS answers with when a request carries a Recipient, byte for byte.

BER with indefinite lengths, one recipient named by the SHA-256 of its SubjectPublicKeyInfo, RSAES-OAEP with SHA-256,
AES-256-CBC with PKCS#7 padding. The encrypted content comes in two forms, of which KMS has used both: `constructed`
(an OCTET STRING inside an indefinite [0]) and `primitive` (the bytes directly in [0]).

The envelope keeps a secret; it proves nothing about who made it. Anybody who saw the public key can build one, which
is what the fault "forge" does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Literal

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ContentForm = Literal["constructed", "primitive"]

_INDEFINITE: Final = b"\x80"
_END: Final = b"\x00\x00"
_ENVELOPED_DATA: Final = bytes.fromhex("06092a864886f70d010703")
_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_AES256_CBC: Final = bytes.fromhex("060960864801650304012a")
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
_OAEP_ALGORITHM: Final = (
    bytes.fromhex("303c06092a864886f70d010107302f")
    + (bytes.fromhex("a00f") + _SHA256)
    + (bytes.fromhex("a11c301a06092a864886f70d010108") + _SHA256)
)
_VERSION_2: Final = bytes.fromhex("020102")


def tlv(tag: int, content: bytes) -> bytes:
    """One definite-length BER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def assemble(*, recipient_id: bytes, encrypted_key: bytes, iv: bytes, ciphertext: bytes, form: ContentForm) -> bytes:
    """Put the parts into the outer structure. `recipient_id` is 32 bytes, `iv` 16."""
    recipient = tlv(0x30, _VERSION_2 + tlv(0x80, recipient_id) + _OAEP_ALGORITHM + tlv(0x04, encrypted_key))
    constructed = b"\xa0" + _INDEFINITE + tlv(0x04, ciphertext) + _END
    content = constructed if form == "constructed" else tlv(0x80, ciphertext)
    algorithm = tlv(0x30, _AES256_CBC + tlv(0x04, iv))
    enveloped = _VERSION_2 + tlv(0x31, recipient) + b"\x30" + _INDEFINITE + _DATA + algorithm + content + _END
    inner = b"\xa0" + _INDEFINITE + b"\x30" + _INDEFINITE + enveloped + _END + _END
    return b"\x30" + _INDEFINITE + _ENVELOPED_DATA + inner + _END


def subject_key_identifier(public_key: RSAPublicKey) -> bytes:
    """SHA-256 (32 bytes) of the DER SubjectPublicKeyInfo: how KMS names the recipient."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def envelop(
    public_key: RSAPublicKey, plaintext: bytes, *, random_bytes: Callable[[int], bytes], form: ContentForm
) -> bytes:
    """Encrypt `plaintext` to `public_key` under a fresh content key."""
    key, iv = random_bytes(32), random_bytes(16)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    wrapped = public_key.encrypt(key, OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None))
    return assemble(
        recipient_id=subject_key_identifier(public_key),
        encrypted_key=wrapped,
        iv=iv,
        ciphertext=ciphertext,
        form=form,
    )
