"""What the decoder found out about content, as far as rules may look at it.

`None` means that the content has no such thing: a contract creation has no `to`. No condition is ever met by `None`
(P-12), so a rule that names destinations can never be met by content without one.
"""

from __future__ import annotations

from msgspec import Struct


class TokenFacts(Struct, frozen=True, kw_only=True):
    """A call that is exactly an ERC-20 transfer, approve or transferFrom.

    `recipient`: 20 bytes, of `approve` the spender. `source`: 20 bytes, whose tokens move; None unless transferFrom.
    `amount`: the token's smallest unit (of an ERC-721 contract, which shares the selectors, the token's id).
    """

    method: str
    recipient: bytes
    source: bytes | None
    amount: int


class ContentFacts(Struct, frozen=True, kw_only=True):
    """What every decoder finds. `type`: the type that a matcher names (`shape`)."""

    type: str


class EthereumFacts(ContentFacts, frozen=True, kw_only=True):
    """An Ethereum transaction. `to`: 20 bytes, None for a contract creation. `value` and `max_fee` in wei; `max_fee` is
    gas limit times (maximum) gas price, and for blobs their maximum fee on top. `selector`: 4 bytes; b"" for empty
    calldata; None where there is none, that is for a contract creation and for calldata of 1 to 3 bytes. `token`: None
    unless an ERC-20 call. `delegates`: the address that each authorization of EIP-7702 names; None for other forms."""

    chain_id: int
    to: bytes | None
    value: int
    max_fee: int
    selector: bytes | None
    token: TokenFacts | None
    delegates: tuple[bytes, ...] | None = None


class MessageFacts(ContentFacts, frozen=True, kw_only=True):
    """A message to be signed as EIP-191 has it. `text`: None unless a person can read it."""

    text: str | None


class PermitFacts(Struct, frozen=True, kw_only=True):
    """EIP-2612's Permit: `spender` may move `value` of `owner`'s tokens until `deadline` (seconds since 1970).
    Addresses are 20 bytes; the token is the domain's verifying contract."""

    owner: bytes
    spender: bytes
    value: int
    deadline: int


class TypedDataFacts(ContentFacts, frozen=True, kw_only=True):
    """EIP-712 typed data. What the domain does not have is None. `verifying_contract`: 20 bytes. `permit`: None unless
    the primary type is exactly EIP-2612's."""

    domain_name: str | None
    domain_version: str | None
    chain_id: int | None
    verifying_contract: bytes | None
    primary_type: str
    permit: PermitFacts | None


class SolanaFacts(ContentFacts, frozen=True, kw_only=True):
    """A Solana message that is nothing but transfers, one element a transfer; keys are 32 bytes. `recipients`: accounts
    for lamports, token accounts for tokens. `mints`: of the token transfers, None where it is not named;
    `token_amounts`: what each of them moves. `lamports` and `tokens` (smallest units, of whatever mint): everything
    that moves, added up. `max_fee` in lamports."""

    programs: tuple[bytes, ...]
    recipients: tuple[bytes, ...]
    mints: tuple[bytes | None, ...]
    lamports: int
    tokens: int
    max_fee: int
    token_amounts: tuple[int, ...] = ()


class BitcoinFacts(ContentFacts, frozen=True, kw_only=True):
    """A Bitcoin transaction all of whose inputs are ours. `recipients`: the scripts of the outputs that are not change.
    `amount`: what goes to them; `fee`: exact. Both in satoshi."""

    recipients: tuple[bytes, ...]
    amount: int
    fee: int
