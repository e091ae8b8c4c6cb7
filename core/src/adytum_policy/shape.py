"""The shape of a policy document (spec/policy.md): every field is required, every unknown field refuses (P-3).

A field that could be left out would need a default, and a default is either a surprise or a hole: an author who forgets
`to` must hear of it and not allow every destination. The string "*" stands for "no condition", written out each time.

These structs say only what JSON can say about one field. What spans fields is checked in `document`.

>>> msgspec.convert({"min": "0"}, Erc20Entry)
Traceback (most recent call last):
msgspec.ValidationError: Object contains unknown field `min`
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adytum_wire.types import (
    Algorithm,
    Generation,
    Hex,
    Hex32,
    Label,
    Milliseconds,
    PrincipalId,
    Scheme,
    TenantId,
    Version,
)

Wildcard = Literal["*"]

NoneWord = Literal["none"]

Operation = Literal[
    "sign",
    "sign-raw",
    "generate_key",
    "generate_seed",
    "import_key",
    "import_file",
    "derive_key",
    "seal",
    "seal_anchor",
    "unseal",
    "reseal",
    "export",
    "enable_key",
    "disable_key",
    "schedule_deletion",
    "cancel_deletion",
    "delete_key",
    "rotation_statement",
    "open_session",
]
Erc20Method = Literal["transfer", "approve", "transferFrom"]
RuleId = Label
Role = Label

# a principal by id, or everybody with a role
Who = Annotated[
    str, Meta(pattern=r"\A(principal:[a-z0-9][a-z0-9._@-]{0,62}|role:[a-z0-9][a-z0-9._-]{0,62})\Z", max_length=80)
]
Address = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{40}\Z")]
Amount = Annotated[
    str, Meta(pattern=r"\A(\*|0|[1-9][0-9]{0,77})\Z")
]  # decimal; JSON numbers lose digits in many readers
Fee = Annotated[str, Meta(pattern=r"\A(\*|0|[1-9][0-9]{0,96})\Z")]
Selector = Annotated[str, Meta(pattern=r"\A(0x[0-9a-f]{8}|none)\Z")]  # "none": empty calldata
Text = Annotated[str, Meta(min_length=1, max_length=256)]  # compared character by character
TypeName = Annotated[str, Meta(pattern=r"\A[A-Za-z_$][A-Za-z0-9_$]{0,63}\Z")]
SolanaAddress = Annotated[str, Meta(pattern=r"\A[1-9A-HJ-NP-Za-km-z]{32,44}\Z")]
BitcoinAddress = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z]{26,90}\Z")]
ChainId = Annotated[int, Meta(ge=1, le=2**53)]


# derivation paths: one, or all below one ("m/44'/60'/*"); "" is a record that is itself a key
PathPattern = Annotated[str, Meta(pattern=r"\A(m(/(0|[1-9][0-9]{0,9})'?){0,10}(/\*)?)?\Z", max_length=128)]
Origin = Annotated[
    str,
    Meta(pattern=r"\A(https://[a-z0-9.-]{1,253}(:[0-9]{1,5})?|http://localhost(:[0-9]{1,5})?|"
         r"android:apk-key-hash:[A-Za-z0-9_-]{43})\Z"),
]  # fmt: skip
RpId = Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]
CredentialId = Annotated[str, Meta(pattern=r"\A([0-9a-f]{2}){1,1023}\Z")]
TimeOfDay = Annotated[str, Meta(pattern=r"\A([01][0-9]|2[0-3]):[0-5][0-9]\Z|\A24:00\Z")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
# what an amount is counted in: a chain's own coin or a token. "*" is part of the pattern: of `str | Literal` msgspec
# takes the pattern alone.
Asset = Annotated[
    str,
    Meta(pattern=r"\A(\*|eip155:[1-9][0-9]{0,15}/(native|erc20:0x[0-9a-f]{40})|"
         r"solana/(native|token:[1-9A-HJ-NP-Za-km-z]{32,44})|bitcoin/native)\Z"),
]  # fmt: skip


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that a principal stamps with. Sizes: see `adytum_wire.types.Scheme`."""

    scheme: Scheme
    public_key: Hex


class PasskeyEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A WebAuthn credential that its owner approves with. `scheme`: `p256` (COSE ES256) or `ed25519` (EdDSA)."""

    credential_id: CredentialId
    scheme: Scheme
    public_key: Hex


class PasskeyRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where passkeys are used: `rp_id`, and the pages of it that may ask."""

    rp_id: RpId
    origins: Annotated[list[Origin], Meta(max_length=16)]


class PrincipalEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody, or a service, that may ask or approve. Without keys it cannot ask for anything; with `passkeys` it can
    approve."""

    id: PrincipalId
    keys: Annotated[list[KeyEntry], Meta(max_length=16)]
    passkeys: Annotated[list[PasskeyEntry], Meta(max_length=16)]
    roles: Annotated[list[Role], Meta(max_length=32)]


class Erc20Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions on an ERC-20 call. `recipients`: who receives, or for `approve` who may spend. Amounts are in the
    token's smallest unit and both ends are included. The token's contract is the transaction's `to`."""

    methods: list[Erc20Method] | Wildcard
    recipients: list[Address] | Wildcard
    min_amount: Amount
    max_amount: Amount


class EthereumEntry(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="ethereum-transaction"
):
    """Conditions on a decoded Ethereum transaction (legacy, EIP-2930, EIP-1559); all must hold. Amounts in wei, both
    ends included. `max_fee` bounds gas limit times (maximum) gas price, without which a small transfer could burn a
    whole balance as fees."""

    chain_ids: list[ChainId] | Wildcard
    contract_creation: bool | Wildcard
    to: list[Address] | Wildcard
    min_value: Amount
    max_value: Amount
    max_fee: Fee
    selectors: list[Selector] | Wildcard
    erc20: Erc20Entry | Wildcard


class EthereumBlobEntry(EthereumEntry, frozen=True, kw_only=True, tag="ethereum-blob-transaction"):
    """The same for transactions that carry blobs (EIP-4844). `max_fee` includes what the blobs may cost."""


class EthereumSetCodeEntry(EthereumEntry, frozen=True, kw_only=True, tag="ethereum-set-code-transaction"):
    """The same for transactions that let code act for accounts (EIP-7702). `delegates`: the code's addresses; no "*" in
    an allow rule."""

    delegates: list[Address] | Wildcard


class MessageEntry(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="eip191-message"
):
    """Conditions on an EIP-191 message. `readable`: a person can read it; bytes that nobody can read may be a digest of
    anything. `prefixes`: the text begins with one of them."""

    readable: bool | Wildcard
    prefixes: list[Text] | Wildcard


class PermitEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions on an EIP-2612 Permit. Values in the token's smallest unit, both ends included. The token is the
    domain's verifying contract."""

    spenders: list[Address] | Wildcard
    min_value: Amount
    max_value: Amount


class TypedDataEntry(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="eip712-typed-data"
):
    """Conditions on EIP-712 typed data: its domain and its primary type, and for a Permit what it permits."""

    domain_names: list[Text] | Wildcard
    domain_versions: list[Text] | Wildcard
    chain_ids: list[ChainId] | Wildcard
    verifying_contracts: list[Address] | Wildcard
    primary_types: list[TypeName] | Wildcard
    permit: PermitEntry | Wildcard


class SolanaEntry(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="solana-message"
):
    """Conditions on a Solana message of transfers. Amounts are of the whole message, both ends included: lamports, and
    tokens in their smallest unit. `recipients`: accounts, of token transfers token accounts."""

    max_fee: Fee
    programs: list[SolanaAddress] | Wildcard
    recipients: list[SolanaAddress] | Wildcard
    mints: list[SolanaAddress] | Wildcard
    min_lamports: Amount
    max_lamports: Amount
    min_tokens: Amount
    max_tokens: Amount


class BitcoinEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="bitcoin-psbt"):
    """Conditions on a Bitcoin transaction. Amounts in satoshi, both ends included, of all outputs that are not change.
    `recipients`: the addresses of those outputs."""

    max_fee: Amount
    recipients: list[BitcoinAddress] | Wildcard
    min_amount: Amount
    max_amount: Amount


# Never a lone struct: msgspec would let its tag be absent.
ContentEntry = (
    EthereumEntry
    | EthereumBlobEntry
    | EthereumSetCodeEntry
    | MessageEntry
    | TypedDataEntry
    | SolanaEntry
    | BitcoinEntry
)


class TimeEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the week, in UTC by the enclave's time: on `days`, from `start` (included) to `end` (excluded).
    `start` is before `end`; what goes over midnight is two entries."""

    days: list[Day]
    start: TimeOfDay
    end: TimeOfDay


class ApprovalEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`count` distinct people with `role`, none of them who asked."""

    role: Role
    count: Annotated[int, Meta(ge=1, le=32)]


class LimitEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much the requests that count against it may add up to in any `window_seconds`.

    `measure`: `amount` of `asset`, in its smallest unit, or `count` of requests ("*": all of them, else those that move
    the asset). `per`: one sum for each key (record), for each principal, or one for the tenant.
    """

    id: Label
    measure: Literal["amount", "count"]
    asset: Asset
    per: Literal["key", "principal", "tenant"]
    window_seconds: Annotated[int, Meta(ge=60, le=31 * 86_400)]
    max: Annotated[str, Meta(pattern=r"\A(0|[1-9][0-9]{0,77})\Z")]


class RecordRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """New and resealed records get `generation`; those below `min_generation` are good for `reseal` only."""

    generation: Generation
    min_generation: Generation


class RecoveryRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Each new or resealed record gets a second envelope, which `threshold` of the holders of the X25519 keys open
    together, offline."""

    threshold: Annotated[int, Meta(ge=2, le=16)]
    keys: Annotated[list[Hex32], Meta(min_length=2, max_length=16)]


class RecipientEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """To whom key material may be exported: an X25519 key by name."""

    id: Label
    public_key: Hex32


class RuleEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule. It matches when each of its conditions does; an empty list is a condition that nothing meets.

    `approvals` and `limits` are what a matching allow rule asks for besides; a deny rule has "none" of them.
    """

    id: RuleId
    effect: Literal["allow", "deny"]
    operations: list[Operation]  # no "*": an operation that a later version adds must not be granted by an old rule
    principals: list[Who] | Wildcard
    labels: list[Label] | Wildcard
    algorithms: list[Algorithm] | Wildcard
    paths: Annotated[list[PathPattern], Meta(max_length=64)] | Wildcard
    times: Annotated[list[TimeEntry], Meta(max_length=32)] | Wildcard
    content: Annotated[list[ContentEntry], Meta(max_length=64)] | Wildcard
    approvals: ApprovalEntry | NoneWord
    limits: Annotated[list[Label], Meta(min_length=1, max_length=16)] | NoneWord


class PolicyDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole document of one tenant."""

    v: Literal[1]
    tenant: TenantId
    version: Version
    valid_until: Milliseconds
    records: RecordRules
    recovery: RecoveryRules | NoneWord
    passkeys: PasskeyRules | NoneWord
    recipients: Annotated[list[RecipientEntry], Meta(max_length=64)]
    principals: Annotated[list[PrincipalEntry], Meta(max_length=1024)]
    limits: Annotated[list[LimitEntry], Meta(max_length=64)]
    rules: Annotated[list[RuleEntry], Meta(max_length=256)]


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a policy document, as published in spec/policy.schema.json.

    It says less than the parser: references between fields, checksums and keys are the parser's business.
    """
    schema = msgspec.json.schema(PolicyDocument)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Adytum policy document",
        **{name: _portable(part) for name, part in schema.items()},
    }


def _portable(part: object) -> object:
    """JSON Schema patterns are ECMA-262, which writes \\A and \\Z as ^ and $."""
    if isinstance(part, dict):
        return {
            name: value.replace(r"\A", "^").replace(r"\Z", "$") if name == "pattern" else _portable(value)
            for name, value in part.items()
        }
    if isinstance(part, list):
        return [_portable(value) for value in part]
    return part
