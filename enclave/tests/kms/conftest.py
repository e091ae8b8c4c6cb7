"""What the KMS tests share: a builder of CMS envelopes in KMS's shape, and the public vectors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
SHA256_ID = bytes.fromhex("300d06096086480165030402010500")


def tlv(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    return bytes([tag, 0x82]) + len(value).to_bytes(2, "big") + value


def indefinite(tag: int, *parts: bytes) -> bytes:
    return bytes([tag, 0x80]) + b"".join(parts) + b"\0\0"


def build_cms(
    *,
    ski: bytes,
    encrypted_key: bytes,
    iv: bytes,
    ciphertext: bytes,
    content: str = "constructed",
    outer: Callable[..., bytes] = indefinite,
) -> bytes:
    """KMS's envelope, as documented by two genuine answers; `outer=tlv` is the same in definite lengths."""
    oaep = tlv(
        0x30,
        bytes.fromhex("06092a864886f70d010107"),
        tlv(
            0x30,
            tlv(0xA0, SHA256_ID),
            tlv(0xA1, tlv(0x30, bytes.fromhex("06092a864886f70d010108"), SHA256_ID)),
        ),
    )
    recipient = tlv(0x30, b"\x02\x01\x02", tlv(0x80, ski), oaep, tlv(0x04, encrypted_key))
    data = {
        "constructed": outer(0xA0, tlv(0x04, ciphertext)),
        "segments": outer(0xA0, tlv(0x04, ciphertext[:7]), outer(0x24, tlv(0x04, ciphertext[7:]), tlv(0x04, b""))),
        "primitive": tlv(0x80, ciphertext),
    }[content]
    cipher = tlv(0x30, bytes.fromhex("060960864801650304012a"), tlv(0x04, iv))
    encrypted = outer(0x30, bytes.fromhex("06092a864886f70d010701"), cipher, data)
    body = outer(0x30, b"\x02\x01\x02", tlv(0x31, recipient), encrypted)
    return outer(0x30, bytes.fromhex("06092a864886f70d010703"), outer(0xA0, body))


def seal_for(
    spki: bytes, plaintext: bytes, *, cek: bytes, pad: bytes | None = None, ski: bytes | None = None, **shape: object
) -> bytes:
    """What KMS would answer for the recipient `spki`. `pad` replaces the PKCS #7 padding."""
    iv = os.urandom(16)
    if pad is None:
        fill = 16 - len(plaintext) % 16
        pad = bytes([fill]) * fill
    encryptor = Cipher(algorithms.AES(cek if len(cek) in (16, 24, 32) else bytes(32)), modes.CBC(iv)).encryptor()
    public = load_der_public_key(spki)
    assert isinstance(public, rsa.RSAPublicKey)
    return build_cms(
        ski=hashlib.sha256(spki).digest() if ski is None else ski,
        encrypted_key=public.encrypt(cek, OAEP),
        iv=iv,
        ciphertext=encryptor.update(plaintext + pad) + encryptor.finalize(),
        **shape,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(build_cms=build_cms, seal_for=seal_for, tlv=tlv, indefinite=indefinite)


@pytest.fixture(scope="session")
def cms_vectors() -> Path:
    for parent in Path(__file__).resolve().parents:
        found = parent.parent / "shared" / "vectors" / "cms"
        if (parent / "enclave").is_dir() and found.is_dir():
            return found
    if os.environ.get("CI"):
        pytest.fail("the public CMS vectors are missing")
    pytest.skip("no public CMS vectors beside this checkout")
