"""What the enclave answers a client, as JSON bytes; the receipt's `result_digest` is their SHA-256.

The host carries these bytes unchanged, and a client parses them only after the receipt has verified.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adytum_wire import strict_json
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm, Hex, Hex32, KeyState, Labels, Path, RecordKind, SigningScheme


class _Base(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="operation"):
    v: Literal[1] = 1
    tenant: str
    request_id: str
    key_id: Annotated[str, Meta(pattern=r"\A(key-[0-9a-f]{32})?\Z")]  # "" for what is about no record


class _Stored(_Base, frozen=True, kw_only=True):
    """A record was made. `address`: EIP-55, for secp256k1 keys, else empty. `record_digest`: SHA-256 of its header.
    `delete_after`: ms, 0 unless its deletion is pending."""

    kind: RecordKind
    algorithm: Algorithm
    public_key: Hex
    address: str
    labels: Labels
    generation: int
    state: KeyState
    delete_after: int
    record_version: int
    record_digest: Hex32


class GenerateKeyResult(_Stored, frozen=True, kw_only=True, tag="generate_key"):
    pass


class ImportKeyResult(_Stored, frozen=True, kw_only=True, tag="import_key"):
    pass


class SealResult(_Stored, frozen=True, kw_only=True, tag="seal"):
    pass


class SealAnchorResult(_Stored, frozen=True, kw_only=True, tag="seal_anchor"):
    pass


class ResealResult(_Stored, frozen=True, kw_only=True, tag="reseal"):
    pass


class GenerateSeedResult(_Stored, frozen=True, kw_only=True, tag="generate_seed"):
    pass


class ImportFileResult(_Stored, frozen=True, kw_only=True, tag="import_file"):
    pass


class EnableKeyResult(_Stored, frozen=True, kw_only=True, tag="enable_key"):
    pass


class DisableKeyResult(_Stored, frozen=True, kw_only=True, tag="disable_key"):
    pass


class ScheduleDeletionResult(_Stored, frozen=True, kw_only=True, tag="schedule_deletion"):
    pass


class CancelDeletionResult(_Stored, frozen=True, kw_only=True, tag="cancel_deletion"):
    pass


class DeleteKeyResult(_Base, frozen=True, kw_only=True, tag="delete_key"):
    """The record is not opened any more. `record_digest`: SHA-256 of the header that it had last."""

    record_version: int
    record_digest: Hex32


class DeriveKeyResult(_Base, frozen=True, kw_only=True, tag="derive_key"):
    """`addresses`: by the name of their form: `ethereum`, `bitcoin-p2wpkh`, `bitcoin-p2tr`, `bitcoin-p2sh-p2wpkh` for
    secp256k1 (Bitcoin's are mainnet's), `solana` for Ed25519."""

    path: Path
    algorithm: Algorithm
    public_key: Hex
    addresses: dict[str, str]


class RotationStatementResult(_Base, frozen=True, kw_only=True, tag="rotation_statement"):
    """From the policy of this version on, this enclave uses no record below `min_generation` and
    seals new ones under `generation` and `kms_key_arn`. `resealed`: how many it resealed for the tenant since it
    started."""

    generation: int
    min_generation: int
    policy_version: int
    policy_digest: Hex32
    kms_key_arn: str
    resealed: int


class OpenSessionResult(_Base, frozen=True, kw_only=True, tag="open_session"):
    """`session_id`: 16 bytes, the public key of the session's stamps."""

    session_id: Hex
    expires_at: int


class SignResult(_Base, frozen=True, kw_only=True, tag="sign"):
    """`signature`: as in `SigningScheme`. `encoded`: what the content's format makes of it; for an Ethereum
    transaction `raw_transaction` and `transaction_hash` (0x...)."""

    path: Path
    scheme: SigningScheme
    public_key: Hex
    signature: Hex
    encoded: dict[str, str]


class UnsealResult(_Base, frozen=True, kw_only=True, tag="unseal"):
    """HPKE to the recipient that the request named: info `unseal_info` of `unseal`, this record and `secret`."""

    enc: Hex32
    ciphertext: Hex


class ExportResult(_Base, frozen=True, kw_only=True, tag="export"):
    """HPKE to the recipient: info `unseal_info` of `export`, this record and `kind`: what the plaintext is."""

    recipient: str
    kind: RecordKind
    enc: Hex32
    ciphertext: Hex


Result = (
    GenerateKeyResult
    | GenerateSeedResult
    | ImportKeyResult
    | ImportFileResult
    | SealResult
    | SealAnchorResult
    | ResealResult
    | EnableKeyResult
    | DisableKeyResult
    | ScheduleDeletionResult
    | CancelDeletionResult
    | DeleteKeyResult
    | DeriveKeyResult
    | SignResult
    | UnsealResult
    | ExportResult
    | RotationStatementResult
    | OpenSessionResult
)


def parse_result(data: bytes) -> Result:
    """Errors: MESSAGE_INVALID."""
    return strict_json.decode(data, Result, limit=256 * 1024, code=Code.MESSAGE_INVALID)  # type: ignore[arg-type]


def encode_result(result: Result) -> bytes:
    return strict_json.encode(result)
