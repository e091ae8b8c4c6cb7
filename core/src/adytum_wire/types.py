"""The small types that both sides of the wall use: identifiers, algorithms, bytes that are not just bytes."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, NewType

from msgspec import Meta

TenantId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z")]
PrincipalId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._@-]{0,62}\Z")]
RequestId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{8,64}\Z")]
KeyId = Annotated[str, Meta(pattern=r"\Akey-[0-9a-f]{32}\Z")]
NodeId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z")]
Label = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")]
Labels = Annotated[list[Label], Meta(max_length=16)]
# HD derivation (BIP-32, SLIP-10): "" is the record's own key; else m/ and 1 to 10 indices, ' marks hardened ones
Path = Annotated[str, Meta(pattern=r"\A(m(/(0|[1-9][0-9]{0,9})'?){1,10})?\Z", max_length=128)]
Generation = Annotated[int, Meta(ge=1, le=2**31)]  # of a tenant's records; a rotation makes the next one
Hex = Annotated[str, Meta(pattern=r"\A([0-9a-f]{2})*\Z")]
Hex32 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
KeyArn = Annotated[str, Meta(pattern=r"\Aarn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}\Z")]
Milliseconds = Annotated[int, Meta(ge=0, le=2**53)]  # since the Unix epoch, trusted time
Version = Annotated[int, Meta(ge=1, le=2**53)]

Digest = NewType("Digest", bytes)  # 32 bytes, SHA-256


class Scheme(StrEnum):
    """Signature schemes of stamps, policy admins and approvers."""

    ED25519 = "ed25519"  # public key 32 bytes, signature 64 bytes
    P256 = "p256"  # ECDSA with SHA-256; public key 33 bytes (SEC 1 compressed), signature 64 bytes r||s
    SECP256K1 = "secp256k1"  # ECDSA with SHA-256; public key 33 bytes, signature 64 bytes r||s


class Algorithm(StrEnum):
    """What kind of key a record holds. Public keys: SEC 1 compressed 33 bytes, or 32 bytes for Ed25519."""

    SECP256K1 = "secp256k1"
    P256 = "p256"
    ED25519 = "ed25519"
    NONE = "none"  # kind `secret`: no key pair


class SigningScheme(StrEnum):
    """How a wallet key signs."""

    ECDSA_SECP256K1 = "ecdsa-secp256k1"  # RFC 6979, low s; r||s||v, v in 0..3
    BIP340 = "bip340"  # auxiliary randomness fixed by the request
    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"  # RFC 6979


class RecordKind(StrEnum):
    SIGNING_KEY = "signing-key"
    HD_SEED = "hd-seed"  # BIP-32 and SLIP-10: 16 to 64 bytes; it signs only with a key derived from it
    SHARE = "share"
    SECRET = "secret"  # noqa: S105 (a kind, not a password)
    ANCHOR_CREDENTIALS = "anchor-credentials"  # of the anchor's table, for enclaves only: no operation hands it out


class KeyState(StrEnum):
    """Whether a record may be used. It stands in the sealed header, so only the enclave changes it."""

    ACTIVE = "active"
    DISABLED = "disabled"
    PENDING_DELETION = "pending-deletion"


def sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def derive_key_id(tenant: str, request_id: str) -> str:
    """The id of the key that the request (tenant, request_id) makes: a repeated request can never make a second id."""
    return "key-" + sha256(b"adytum/key-id/v1\0" + tenant.encode() + b"\0" + request_id.encode()).hex()[:32]
