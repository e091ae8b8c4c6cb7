"""How much of which asset content moves: what limits count (spec/policy.md, Limits).

Assets are named `eip155:<chain>/native`, `eip155:<chain>/erc20:0x<contract, lower case>`, `solana/native`,
`solana/token:<mint>`, `bitcoin/native`. Amounts are in the smallest unit. Fees are not counted; rules bound them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adytum_policy.facts import BitcoinFacts, ContentFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """`moved`: amounts by asset. `opaque`: assets, or prefixes of assets that end in "/", of which nobody can say how
    much moves."""

    moved: Mapping[str, int]
    opaque: frozenset[str] = frozenset()

    def of(self, asset: str) -> int | None:
        """The amount of `asset` that moves; 0 when none does, None when that cannot be known."""
        if asset in self.opaque or any(asset.startswith(prefix) for prefix in self.opaque if prefix.endswith("/")):
            return None
        return self.moved.get(asset, 0)


def spending_of(facts: ContentFacts | None) -> Spending | None:
    """None when the content was not understood, or is of a kind of which nothing is known here."""
    if isinstance(facts, BitcoinFacts):
        return Spending(moved={"bitcoin/native": facts.amount})
    return None
