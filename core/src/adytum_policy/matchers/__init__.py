"""Compiled conditions on decoded content, one file a family of formats, and their dispatch by the entry's class.

A matcher says of facts which of its conditions fails first. Where a fact is a list (the delegates of a transaction, the
recipients of a message), an allow rule asks that **every** element be named and a deny rule that **any** be (P-20), so
`compile_matcher` is told which of the two it is compiling for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from adytum_policy import shape
from adytum_policy.facts import ContentFacts
from adytum_policy.matchers import bitcoin, ethereum, messages, solana

# Conditions on content in the order in which they are looked at.
CONTENT_CONDITIONS = (
    "content.type",
    "content.chain_id",
    "content.contract_creation",
    "content.to",
    "content.min_value",
    "content.max_value",
    "content.max_fee",
    "content.selector",
    "content.erc20",
    "content.erc20.method",
    "content.erc20.recipient",
    "content.erc20.min_amount",
    "content.erc20.max_amount",
    "content.delegate",
    "content.domain_name",
    "content.domain_version",
    "content.verifying_contract",
    "content.primary_type",
    "content.permit",
    "content.permit.spender",
    "content.permit.min_value",
    "content.permit.max_value",
    "content.readable",
    "content.prefix",
    "content.program",
    "content.recipient",
    "content.mint",
    "content.min_lamports",
    "content.max_lamports",
    "content.min_tokens",
    "content.max_tokens",
    "content.min_amount",
    "content.max_amount",
)


class Matcher(Protocol):
    def failed(self, facts: ContentFacts) -> str:
        """The name of the first condition that does not hold, "" when all do."""


def compile_matcher(entry: shape.ContentEntry, *, allow: bool) -> Matcher:
    """Compile an entry that `bad_fields` has passed, for an allow or a deny rule."""
    if isinstance(entry, shape.TypedDataEntry):
        return messages.compile_typed_data(entry)
    if isinstance(entry, shape.MessageEntry):
        return messages.compile_message(entry)
    if isinstance(entry, shape.SolanaEntry):
        return solana.compile_entry(entry, allow=allow)
    if isinstance(entry, shape.BitcoinEntry):
        return bitcoin.compile_entry(entry, allow=allow)
    return ethereum.compile_entry(entry, allow=allow)


def bad_fields(entry: shape.ContentEntry, *, allow: bool) -> Iterator[str]:
    """The fields (paths below the entry) whose values the shape takes and that are wrong all the same."""
    if isinstance(entry, shape.TypedDataEntry):
        return messages.bad_fields(entry)
    if isinstance(entry, shape.MessageEntry):
        return iter(())
    if isinstance(entry, shape.SolanaEntry):
        return solana.bad_fields(entry)
    if isinstance(entry, shape.BitcoinEntry):
        return bitcoin.bad_fields(entry)
    return ethereum.bad_fields(entry, allow=allow)
