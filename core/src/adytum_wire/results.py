"""What the enclave answers a client, as JSON bytes; the receipt's `result_digest` is their SHA-256.

The host carries these bytes unchanged, and a client parses them only after the receipt has verified.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from adytum_wire import strict_json
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm, Hex, Hex32, KeyId, Labels, RecordKind, SigningScheme


class _Base(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="operation"):
    v: Literal[1] = 1
    tenant: str
    request_id: str
    key_id: KeyId


class _Stored(_Base, frozen=True, kw_only=True):
    """A record was made. `address`: EIP-55, for secp256k1 keys, else empty. `record_digest`: SHA-256 of its header."""

    kind: RecordKind
    algorithm: Algorithm
    public_key: Hex
    address: str
    labels: Labels
    record_version: int
    record_digest: Hex32


class GenerateKeyResult(_Stored, frozen=True, kw_only=True, tag="generate_key"):
    pass


class ImportKeyResult(_Stored, frozen=True, kw_only=True, tag="import_key"):
    pass


class SealResult(_Stored, frozen=True, kw_only=True, tag="seal"):
    pass


class ResealResult(_Stored, frozen=True, kw_only=True, tag="reseal"):
    pass


class SignResult(_Base, frozen=True, kw_only=True, tag="sign"):
    """`signature`: as in `SigningScheme`. `encoded`: what the content's format makes of it; for an Ethereum
    transaction `raw_transaction` and `transaction_hash` (0x...)."""

    scheme: SigningScheme
    public_key: Hex
    signature: Hex
    encoded: dict[str, str]


class UnsealResult(_Base, frozen=True, kw_only=True, tag="unseal"):
    """HPKE to the recipient that the request named: info `unseal_info(tenant, request_id)`."""

    enc: Hex32
    ciphertext: Hex


Result = GenerateKeyResult | ImportKeyResult | SealResult | ResealResult | SignResult | UnsealResult


def parse_result(data: bytes) -> Result:
    """Errors: MESSAGE_INVALID."""
    return strict_json.decode(data, Result, limit=256 * 1024, code=Code.MESSAGE_INVALID)  # type: ignore[arg-type]


def encode_result(result: Result) -> bytes:
    return strict_json.encode(result)
