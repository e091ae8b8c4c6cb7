"""How much of which asset content moves: what limits count (spec/policy.md, "Limits").

Assets are named `eip155:<chain>/native`, `eip155:<chain>/erc20:0x<contract, lower case>`, `solana/native`,
`solana/token:<mint>`, `bitcoin/native`. Amounts are in the smallest unit. Fees are not counted; rules bound them.

What a signature moves is not always to be read from it. A call to any contract can move every token that was approved
to it before, typed data may be an order of an exchange. Such content is *opaque* for the assets that it might move: no
limit on one of them can be charged, so none allows (P-31). It is never taken for an amount of 0.

>>> Spending(moved={"eip155:1/native": 5}, opaque=("eip155:1/erc20:",)).of("eip155:1/native")
5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adytum_policy.content import base58
from adytum_policy.facts import BitcoinFacts, ContentFacts, EthereumFacts, MessageFacts, SolanaFacts, TypedDataFacts

_EVERYTHING = ("",)
_SOLANA_TOKENS = "solana/token:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """`moved`: amounts by asset. `opaque`: how the names of assets begin of which nobody can say how much moves; ""
    begins them all."""

    moved: Mapping[str, int]
    opaque: tuple[str, ...] = ()

    def of(self, asset: str) -> int | None:
        """The amount of `asset` that moves; 0 when none does, None when that cannot be known."""
        return None if asset.startswith(self.opaque) else self.moved.get(asset, 0)


def spending_of(facts: ContentFacts | None) -> Spending | None:
    """What content moves. None when it was not understood, or is of a kind of which nothing is known here."""
    if isinstance(facts, EthereumFacts):
        return _ethereum(facts)
    if isinstance(facts, TypedDataFacts):
        return _typed_data(facts)
    if isinstance(facts, MessageFacts):
        # Bytes that nobody can read may be the digest of an order; a text that a person reads is no transaction.
        return Spending(moved={}, opaque=_EVERYTHING if facts.text is None else ())
    if isinstance(facts, SolanaFacts):
        return _solana(facts)
    if isinstance(facts, BitcoinFacts):
        return Spending(moved={"bitcoin/native": facts.amount})
    return None


def _ethereum(facts: EthereumFacts) -> Spending:
    chain = f"eip155:{facts.chain_id}/"
    if facts.delegates is not None:
        # Code begins to act for accounts, perhaps for this one; what it moves is not in this transaction.
        return Spending(moved={}, opaque=(chain,))
    moved = {f"{chain}native": facts.value}
    if facts.to is not None and facts.token is not None:
        # `approve` counts as if the amount had moved: from then on the spender takes it without asking here.
        moved[f"{chain}erc20:0x{facts.to.hex()}"] = facts.token.amount
    elif facts.to is None or facts.selector != b"":
        # A program, or a call that is none of ERC-20's three: it can move any token of the chain.
        return Spending(moved=moved, opaque=(f"{chain}erc20:",))
    return Spending(moved=moved)


def _typed_data(facts: TypedDataFacts) -> Spending:
    """A Permit moves what it permits. Of anything else, and of a Permit that does not say for which token on which
    chain, nobody can tell."""
    if facts.permit is None or facts.chain_id is None or facts.verifying_contract is None:
        return Spending(moved={}, opaque=_EVERYTHING)
    return Spending(moved={f"eip155:{facts.chain_id}/erc20:0x{facts.verifying_contract.hex()}": facts.permit.value})


def _solana(facts: SolanaFacts) -> Spending:
    moved = {"solana/native": facts.lamports}
    if len(facts.token_amounts) != len(facts.mints) or None in facts.mints:
        return Spending(moved=moved, opaque=(_SOLANA_TOKENS,))  # a `Transfer` does not say of which token
    for mint, amount in zip(facts.mints, facts.token_amounts, strict=True):
        if mint is not None:
            asset = _SOLANA_TOKENS + base58.encode(mint)
            moved[asset] = moved.get(asset, 0) + amount
    return Spending(moved=moved)


def is_asset(text: str) -> bool:
    """Whether an asset's name (of the shape's pattern) can be one that content moves. A mint that is not 32 bytes never
    moves, so that a limit on it would limit nothing."""
    if not text.startswith(_SOLANA_TOKENS):
        return True
    try:
        mint = base58.decode(text.removeprefix(_SOLANA_TOKENS))
    except base58.Base58Error:
        return False
    return len(mint) == 32 and text == _SOLANA_TOKENS + base58.encode(mint)
