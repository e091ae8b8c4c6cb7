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
    """An Ethereum transaction. `to`: 20 bytes, None for a contract creation. `value` and `max_fee` in wei; `max_fee` is
    gas limit times (maximum) gas price. `selector`: 4 bytes; b"" for empty calldata; None where there is none, that is
    for a contract creation and for calldata of 1 to 3 bytes. `token`: None unless an ERC-20 call."""

    type: str
    chain_id: int
    to: bytes | None
    value: int
    max_fee: int
    selector: bytes | None
    token: TokenFacts | None
