"""Ethereum addresses: from a public key, and with the EIP-55 checksum (https://eips.ethereum.org/EIPS/eip-55)."""

from __future__ import annotations

import sha3
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adytum_wire.errors import AdytumError, Code


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not SHA3-256: the padding differs). 32 bytes."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def to_checksum(address: bytes) -> str:
    """20 bytes as "0x" and 40 hex digits, upper-cased where the hash of the lower-case text has a digit over 7."""
    text = address.hex()
    digest = keccak256(text.encode()).hex()
    return "0x" + "".join(char.upper() if hashed > "7" else char for char, hashed in zip(text, digest, strict=False))


def is_checksummed(text: str) -> bool:
    """True when `text`, "0x" and 40 hex digits, has exactly the cases that EIP-55 gives it."""
    return text == to_checksum(bytes.fromhex(text[2:]))


def address_of(public_key: bytes) -> str:
    """The EIP-55 address of a secp256k1 public key (33 bytes, SEC 1 compressed). Errors: RECORD_INVALID."""
    try:
        if len(public_key) != 33:
            raise ValueError("want a compressed point")
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public_key)
    except ValueError:
        raise AdytumError(Code.RECORD_INVALID, "$.public_key") from None
    encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return to_checksum(keccak256(encoded[1:])[12:])
