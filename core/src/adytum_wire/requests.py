"""What a client signs: the body of a request (spec/signed-bytes.md).

A body is strict JSON, signed over `pae(REQUEST, body)` and carried byte for byte to the enclave. The operation stands
in the body, so nobody on the way can choose another one.

>>> body = b'{"operation":"reseal","v":1,"tenant":"acme","request_id":"r-00000001","issued_at":1,"key_id":"key-%s"}'
>>> parse_body(body.replace(b"%s", b"0" * 32)).tenant
'acme'
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adytum_wire import limits, strict_json
from adytum_wire.errors import Code
from adytum_wire.types import (
    Algorithm,
    Hex,
    Hex32,
    KeyId,
    Label,
    Labels,
    Milliseconds,
    Path,
    RecordKind,
    RequestId,
    Scheme,
    SigningScheme,
    TenantId,
)


class Sealed(Struct, frozen=True, forbid_unknown_fields=True):
    """HPKE base mode (RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM) to the enclave's attested key.

    info = `import_info` of the request and of the key that stamps it, no associated data: a blob that is lifted into
    another request, into another operation, or under another's stamp does not open.
    """

    enc: Hex32
    ciphertext: Annotated[Hex, Meta(max_length=2 * (limits.MAX_SECRET + 16))]


class SealedFile(Struct, frozen=True, forbid_unknown_fields=True):
    """As `Sealed`, for `import_file`: u32 big-endian length of the password, the password, the file."""

    enc: Hex32
    ciphertext: Annotated[Hex, Meta(max_length=2 * (limits.MAX_FILE + 16))]


def import_info(operation: str, tenant: str, request_id: str, scheme: Scheme, public_key: bytes) -> bytes:
    """HPKE info of what a client seals to the enclave (S-13). `operation`: the name in the body. `scheme`,
    `public_key`: of the key that must stamp the request, itself or through a session that it opened. A sealed blob
    travels through the host: without these whoever may `seal` and `unseal` could read what another one imports."""
    parts = (operation.encode(), tenant.encode(), request_id.encode(), scheme.value.encode(), public_key)
    return _info(b"adytum/import/v2", parts)


def unseal_info(operation: str, tenant: str, request_id: str, key_id: str, kind: RecordKind) -> bytes:
    """HPKE info of what the enclave seals to a recipient (S-25). `operation`: `unseal` or `export`. `key_id`, `kind`:
    of the record whose secret it is, so that nobody on the way can call it another's, or another kind of thing."""
    parts = (operation.encode(), tenant.encode(), request_id.encode(), key_id.encode(), kind.value.encode())
    return _info(b"adytum/unseal/v2", parts)


def _info(domain: bytes, parts: tuple[bytes, ...]) -> bytes:
    """One reading only: the domain, a zero, and each part behind its length (u16, big endian)."""
    return domain + b"\0" + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


class EthereumTransaction(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="ethereum-transaction"
):
    """`unsigned`: the bytes whose keccak-256 is signed: type||rlp(fields) (EIP-2930, 1559, 4844, 7702), or
    rlp(9 fields) (EIP-155)."""

    unsigned: Annotated[Hex, Meta(max_length=2 * limits.MAX_CONTENT)]


class PersonalMessage(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="eip191-message"):
    """`message`: what stands after EIP-191's prefix and length, which the enclave adds."""

    message: Annotated[Hex, Meta(max_length=2 * limits.MAX_CONTENT)]


class TypedData(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="eip712-typed-data"):
    """`typed_data`: the JSON text that `eth_signTypedData_v4` takes: types, primaryType, domain, message."""

    typed_data: Annotated[str, Meta(max_length=limits.MAX_CONTENT)]


class SolanaMessage(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="solana-message"):
    """`message`: the bytes that a transaction's signatures are over, legacy or v0."""

    message: Annotated[Hex, Meta(max_length=2 * limits.MAX_CONTENT)]


class BitcoinPsbt(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="bitcoin-psbt"):
    """`psbt`: version 0 or 2. `network`: how addresses are shown; scripts are the same on all."""

    psbt: Annotated[Hex, Meta(max_length=2 * limits.MAX_CONTENT)]
    network: Literal["mainnet", "testnet", "regtest"]


class RawDigest(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="raw-digest"):
    """32 bytes that the enclave cannot understand. A right of its own (`sign-raw`), never implied by `sign`."""

    digest: Hex32


class RawMessage(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="raw-message"):
    """Bytes that the enclave cannot understand, for schemes that hash by themselves (Ed25519), or hashed here with
    SHA-256 (ECDSA P-256, BIP-340). Also `sign-raw`."""

    message: Annotated[Hex, Meta(max_length=2 * limits.MAX_CONTENT)]


Content = EthereumTransaction | PersonalMessage | TypedData | SolanaMessage | BitcoinPsbt | RawDigest | RawMessage


class _Base(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="operation"):
    v: Literal[1]
    tenant: TenantId
    request_id: RequestId
    issued_at: Milliseconds


class GenerateKey(_Base, frozen=True, kw_only=True, tag="generate_key"):
    algorithm: Algorithm
    labels: Labels


class ImportKey(_Base, frozen=True, kw_only=True, tag="import_key"):
    algorithm: Algorithm
    labels: Labels
    public_key: Hex  # what the caller expects; checked against the imported key
    sealed: Sealed


class GenerateSeed(_Base, frozen=True, kw_only=True, tag="generate_seed"):
    """A record of kind `hd-seed`: 32 random bytes."""

    labels: Labels


class ImportFile(_Base, frozen=True, kw_only=True, tag="import_file"):
    """Material in a form that others wrote. Everything of it, a password included, comes sealed to the enclave.

    `expected`: what the caller knows the outcome to be, "" for nothing: a public key in hex or an EIP-55 address for
    a key, for a mnemonic the Ethereum address at m/44'/60'/0'/0/0. A share says nothing about itself.
    """

    format: Literal["keystore-v3", "bip39", "mpcenc-v1", "mpc-legacy"]
    labels: Labels
    expected: Annotated[str, Meta(max_length=130)]
    sealed: SealedFile


class DeriveKey(_Base, frozen=True, kw_only=True, tag="derive_key"):
    """The public key at a path of a seed, and its addresses. `algorithm` chooses BIP-32 (secp256k1) or SLIP-10."""

    key_id: KeyId
    path: Path
    algorithm: Algorithm


class Sign(_Base, frozen=True, kw_only=True, tag="sign"):
    """`path`: "" for a record that is a key; the path to derive for a record that is a seed."""

    key_id: KeyId
    path: Path
    scheme: SigningScheme
    content: Content


class Seal(_Base, frozen=True, kw_only=True, tag="seal"):
    """Store a secret of 1 to `limits.MAX_SECRET` bytes as a record of kind `secret`."""

    labels: Labels
    sealed: Sealed


class SealAnchor(_Base, frozen=True, kw_only=True, tag="seal_anchor"):
    """Store the credentials of the anchor's table as a record of kind `anchor-credentials` (spec/usage.md, U-14)."""

    labels: Labels
    sealed: Sealed


class Unseal(_Base, frozen=True, kw_only=True, tag="unseal"):
    """Hand a `secret` record to the holder of the X25519 key `recipient` (HPKE, info `unseal_info`)."""

    key_id: KeyId
    recipient: Hex32


class Reseal(_Base, frozen=True, kw_only=True, tag="reseal"):
    """Seal the record again under a fresh data key, version + 1; the older version is refused from then on. It gets
    the generation of the policy in force and the tenant's KMS key."""

    key_id: KeyId


class Export(_Base, frozen=True, kw_only=True, tag="export"):
    """Hand key material to a recipient that the policy names (HPKE, info `unseal_info`)."""

    key_id: KeyId
    recipient: Label


class EnableKey(_Base, frozen=True, kw_only=True, tag="enable_key"):
    """Make a disabled record active again. Cancelling a deletion leaves it disabled: two steps, two decisions."""

    key_id: KeyId


class DisableKey(_Base, frozen=True, kw_only=True, tag="disable_key"):
    key_id: KeyId


class ScheduleDeletion(_Base, frozen=True, kw_only=True, tag="schedule_deletion"):
    """Until `waiting_days` have passed, by the enclave's time, the deletion can be cancelled."""

    key_id: KeyId
    waiting_days: Annotated[int, Meta(ge=7, le=30)]


class CancelDeletion(_Base, frozen=True, kw_only=True, tag="cancel_deletion"):
    key_id: KeyId


class DeleteKey(_Base, frozen=True, kw_only=True, tag="delete_key"):
    """After the waiting period: the enclave says so in a receipt and opens the record no more; the host destroys its
    ciphertext."""

    key_id: KeyId


class RotationStatement(_Base, frozen=True, kw_only=True, tag="rotation_statement"):
    """What the enclave can vouch for after a rotation: which generation it refuses to use, and under which policy."""


class OpenSession(_Base, frozen=True, kw_only=True, tag="open_session"):
    """`sealed`: 32 bytes, the session's HMAC key. `expires_at`: at most `limits.MAX_SESSION_MS` ahead."""

    sealed: Sealed
    expires_at: Milliseconds


# Bodies that name a sealed record: it travels beside them.
OnRecord = (
    Sign | DeriveKey | Unseal | Reseal | Export | EnableKey | DisableKey | ScheduleDeletion | CancelDeletion | DeleteKey
)
# Bodies that make a record.
Making = GenerateKey | GenerateSeed | ImportKey | ImportFile | Seal | SealAnchor
Body = OnRecord | Making | RotationStatement | OpenSession

OPERATIONS: dict[type, str] = {
    GenerateKey: "generate_key",
    GenerateSeed: "generate_seed",
    ImportKey: "import_key",
    ImportFile: "import_file",
    DeriveKey: "derive_key",
    Sign: "sign",
    Seal: "seal",
    SealAnchor: "seal_anchor",
    Unseal: "unseal",
    Reseal: "reseal",
    Export: "export",
    EnableKey: "enable_key",
    DisableKey: "disable_key",
    ScheduleDeletion: "schedule_deletion",
    CancelDeletion: "cancel_deletion",
    DeleteKey: "delete_key",
    RotationStatement: "rotation_statement",
    OpenSession: "open_session",
}


class Stamp(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="key"):
    """A client's signature over `pae(REQUEST, body)`. Sizes: see `Scheme`."""

    scheme: Scheme
    public_key: bytes
    signature: bytes


class SessionStamp(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="session"):
    """HMAC-SHA-256 (RFC 2104) under a session's key, over `pae(REQUEST, body)`. Good in the boot that opened the
    session and as long as the key that opened it is its principal's."""

    session_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    mac: Annotated[bytes, Meta(min_length=32, max_length=32)]


AnyStamp = Stamp | SessionStamp


def parse_body(body: bytes) -> Body:
    """Parse a request body. Errors: REQUEST_INVALID with the field's path. Call only after the stamp has verified,
    unless the result is used for nothing but looking up whose stamp it must be."""
    return strict_json.decode(body, Body, limit=limits.MAX_BODY, code=Code.REQUEST_INVALID)  # type: ignore[arg-type]


def operation_of(body: Body) -> str:
    """The right that a policy must grant: the operation, with raw signing set apart as `sign-raw`."""
    if isinstance(body, Sign) and isinstance(body.content, RawDigest | RawMessage):
        return "sign-raw"
    return OPERATIONS[type(body)]
