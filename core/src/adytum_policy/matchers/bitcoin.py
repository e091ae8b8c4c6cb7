"""Conditions on Bitcoin transactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adytum_policy import shape
from adytum_policy.content.address_bitcoin import BitcoinAddressError, script_of
from adytum_policy.facts import BitcoinFacts, ContentFacts
from adytum_policy.matchers import values


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoinMatcher:
    allow: bool
    max_fee: int | None
    recipients: frozenset[bytes] | None
    min_amount: int | None
    max_amount: int | None

    def failed(self, facts: ContentFacts) -> str:
        if not isinstance(facts, BitcoinFacts):
            return "content.type"
        if self.max_fee is not None and facts.fee > self.max_fee:
            return "content.max_fee"
        if not values.meets(self.recipients, facts.recipients, every=self.allow):
            return "content.recipient"
        if self.min_amount is not None and facts.amount < self.min_amount:
            return "content.min_amount"
        if self.max_amount is not None and facts.amount > self.max_amount:
            return "content.max_amount"
        return ""


def compile_entry(entry: shape.BitcoinEntry, *, allow: bool) -> BitcoinMatcher:
    """Compile an entry that `bad_fields` has passed."""
    return BitcoinMatcher(
        allow=allow,
        max_fee=values.amount(entry.max_fee),
        recipients=None if entry.recipients == "*" else frozenset(script_of(text) for text in entry.recipients),
        min_amount=values.amount(entry.min_amount),
        max_amount=values.amount(entry.max_amount),
    )


def bad_fields(entry: shape.BitcoinEntry) -> Iterator[str]:
    """Recipients that are no addresses."""
    if entry.recipients != "*" and not all(_is_address(text) for text in entry.recipients):
        yield "recipients"


def _is_address(text: str) -> bool:
    try:
        script_of(text)
    except BitcoinAddressError:
        return False
    return True
