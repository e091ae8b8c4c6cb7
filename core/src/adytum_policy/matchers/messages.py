"""Conditions on what an Ethereum account signs beside transactions: EIP-191 messages and EIP-712 typed data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adytum_policy import shape
from adytum_policy.facts import ContentFacts, MessageFacts, TypedDataFacts
from adytum_policy.matchers import values


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageMatcher:
    readable: bool | None
    prefixes: tuple[str, ...] | None

    def failed(self, facts: ContentFacts) -> str:
        if not isinstance(facts, MessageFacts):
            return "content.type"
        if self.readable is not None and (facts.text is not None) is not self.readable:
            return "content.readable"
        if self.prefixes is not None and (facts.text is None or not facts.text.startswith(self.prefixes)):
            return "content.prefix"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitMatcher:
    spenders: frozenset[bytes] | None
    min_value: int | None
    max_value: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDataMatcher:
    domain_names: frozenset[str] | None
    domain_versions: frozenset[str] | None
    chain_ids: frozenset[int] | None
    verifying_contracts: frozenset[bytes] | None
    primary_types: frozenset[str] | None
    permit: PermitMatcher | None

    def failed(self, facts: ContentFacts) -> str:
        if not isinstance(facts, TypedDataFacts):
            return "content.type"
        # No list contains None, so what the domain does not have meets no condition (P-12).
        if self.chain_ids is not None and facts.chain_id not in self.chain_ids:
            return "content.chain_id"
        if self.domain_names is not None and facts.domain_name not in self.domain_names:
            return "content.domain_name"
        if self.domain_versions is not None and facts.domain_version not in self.domain_versions:
            return "content.domain_version"
        if self.verifying_contracts is not None and facts.verifying_contract not in self.verifying_contracts:
            return "content.verifying_contract"
        if self.primary_types is not None and facts.primary_type not in self.primary_types:
            return "content.primary_type"
        return "" if self.permit is None else _permit_failed(self.permit, facts)


def compile_message(entry: shape.MessageEntry) -> MessageMatcher:
    return MessageMatcher(
        readable=None if entry.readable == "*" else entry.readable,
        prefixes=None if entry.prefixes == "*" else tuple(entry.prefixes),
    )


def compile_typed_data(entry: shape.TypedDataEntry) -> TypedDataMatcher:
    """Compile an entry that `bad_fields` has passed."""
    permit = entry.permit
    return TypedDataMatcher(
        domain_names=values.strings(entry.domain_names),
        domain_versions=values.strings(entry.domain_versions),
        chain_ids=values.numbers(entry.chain_ids),
        verifying_contracts=values.addresses(entry.verifying_contracts),
        primary_types=values.strings(entry.primary_types),
        permit=None
        if permit == "*"
        else PermitMatcher(
            spenders=values.addresses(permit.spenders),
            min_value=values.amount(permit.min_value),
            max_value=values.amount(permit.max_value),
        ),
    )


def bad_fields(entry: shape.TypedDataEntry) -> Iterator[str]:
    """Addresses with a wrong checksum and amounts that no number reaches."""
    if not values.are_addresses(entry.verifying_contracts):
        yield "verifying_contracts"
    if entry.permit == "*":
        return
    if not values.are_addresses(entry.permit.spenders):
        yield "permit.spenders"
    if values.over(entry.permit.min_value):
        yield "permit.min_value"
    if values.over(entry.permit.max_value):
        yield "permit.max_value"


def _permit_failed(permit: PermitMatcher, facts: TypedDataFacts) -> str:
    found = facts.permit
    if found is None:
        return "content.permit"
    if permit.spenders is not None and found.spender not in permit.spenders:
        return "content.permit.spender"
    if permit.min_value is not None and found.value < permit.min_value:
        return "content.permit.min_value"
    if permit.max_value is not None and found.value > permit.max_value:
        return "content.permit.max_value"
    return ""
