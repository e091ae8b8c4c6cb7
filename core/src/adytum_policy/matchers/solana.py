"""Conditions on Solana messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adytum_policy import shape
from adytum_policy.content import base58
from adytum_policy.facts import ContentFacts, SolanaFacts
from adytum_policy.matchers import values


@dataclass(frozen=True, slots=True, kw_only=True)
class SolanaMatcher:
    allow: bool
    max_fee: int | None
    programs: frozenset[bytes | None] | None
    recipients: frozenset[bytes | None] | None
    mints: frozenset[bytes | None] | None
    min_lamports: int | None
    max_lamports: int | None
    min_tokens: int | None
    max_tokens: int | None

    def failed(self, facts: ContentFacts) -> str:
        if not isinstance(facts, SolanaFacts):
            return "content.type"
        if self.max_fee is not None and facts.max_fee > self.max_fee:
            return "content.max_fee"
        for name, listed, found in (
            ("content.program", self.programs, facts.programs),
            ("content.recipient", self.recipients, facts.recipients),
            ("content.mint", self.mints, facts.mints),
        ):
            if not values.meets(listed, found, every=self.allow):
                return name
        for unit, least, most, value in (
            ("lamports", self.min_lamports, self.max_lamports, facts.lamports),
            ("tokens", self.min_tokens, self.max_tokens, facts.tokens),
        ):
            if least is not None and value < least:
                return f"content.min_{unit}"
            if most is not None and value > most:
                return f"content.max_{unit}"
        return ""


def compile_entry(entry: shape.SolanaEntry, *, allow: bool) -> SolanaMatcher:
    """Compile an entry that `bad_fields` has passed."""
    return SolanaMatcher(
        allow=allow,
        max_fee=values.amount(entry.max_fee),
        programs=_keys(entry.programs),
        recipients=_keys(entry.recipients),
        mints=_keys(entry.mints),
        min_lamports=values.amount(entry.min_lamports),
        max_lamports=values.amount(entry.max_lamports),
        min_tokens=values.amount(entry.min_tokens),
        max_tokens=values.amount(entry.max_tokens),
    )


def bad_fields(entry: shape.SolanaEntry) -> Iterator[str]:
    """Addresses that are not 32 bytes."""
    for name, listed in (("programs", entry.programs), ("recipients", entry.recipients), ("mints", entry.mints)):
        if listed != "*" and not all(_is_key(text) for text in listed):
            yield name


def _keys(listed: list[str] | shape.Wildcard) -> frozenset[bytes | None] | None:
    return None if listed == "*" else frozenset(base58.decode(text) for text in listed)


def _is_key(text: str) -> bool:
    try:
        return len(base58.decode(text)) == 32
    except base58.Base58Error:
        return False
