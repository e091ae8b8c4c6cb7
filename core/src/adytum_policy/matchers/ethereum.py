"""Conditions on Ethereum transactions of every form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adytum_policy import shape
from adytum_policy.facts import ContentFacts, EthereumFacts
from adytum_policy.matchers import values


@dataclass(frozen=True, slots=True, kw_only=True)
class Erc20Matcher:
    methods: frozenset[str] | None
    recipients: frozenset[bytes] | None
    min_amount: int | None
    max_amount: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EthereumMatcher:
    type: str
    allow: bool
    chain_ids: frozenset[int] | None
    contract_creation: bool | None
    to: frozenset[bytes] | None
    min_value: int | None
    max_value: int | None
    max_fee: int | None
    selectors: frozenset[bytes] | None
    erc20: Erc20Matcher | None
    delegates: frozenset[bytes] | None

    def failed(self, facts: ContentFacts) -> str:
        """The name of the first condition that does not hold, "" when all do."""
        if facts.type != self.type or not isinstance(facts, EthereumFacts):
            return "content.type"
        if self.chain_ids is not None and facts.chain_id not in self.chain_ids:
            return "content.chain_id"
        to = facts.to
        if self.contract_creation is not None and (to is None) is not self.contract_creation:
            return "content.contract_creation"
        if self.to is not None and (to is None or to not in self.to):
            return "content.to"
        if self.min_value is not None and facts.value < self.min_value:
            return "content.min_value"
        if self.max_value is not None and facts.value > self.max_value:
            return "content.max_value"
        if self.max_fee is not None and facts.max_fee > self.max_fee:
            return "content.max_fee"
        if self.selectors is not None and (facts.selector is None or facts.selector not in self.selectors):
            return "content.selector"
        if self.erc20 is not None and (name := _erc20_failed(self.erc20, facts)):
            return name
        if self.delegates is not None and not values.meets(self.delegates, facts.delegates, every=self.allow):
            return "content.delegate"
        return ""


def compile_entry(entry: shape.EthereumEntry, *, allow: bool) -> EthereumMatcher:
    """Compile an entry that `bad_fields` has passed."""
    erc20 = entry.erc20
    return EthereumMatcher(
        type=str(entry.__struct_config__.tag),
        allow=allow,
        chain_ids=values.numbers(entry.chain_ids),
        contract_creation=None if entry.contract_creation == "*" else entry.contract_creation,
        to=values.addresses(entry.to),
        min_value=values.amount(entry.min_value),
        max_value=values.amount(entry.max_value),
        max_fee=values.amount(entry.max_fee),
        selectors=(
            None
            if entry.selectors == "*"
            else frozenset(b"" if text == "none" else bytes.fromhex(text[2:]) for text in entry.selectors)
        ),
        erc20=None
        if erc20 == "*"
        else Erc20Matcher(
            methods=values.strings(erc20.methods),
            recipients=values.addresses(erc20.recipients),
            min_amount=values.amount(erc20.min_amount),
            max_amount=values.amount(erc20.max_amount),
        ),
        delegates=values.addresses(entry.delegates) if isinstance(entry, shape.EthereumSetCodeEntry) else None,
    )


def bad_fields(entry: shape.EthereumEntry, *, allow: bool) -> Iterator[str]:
    """Addresses with a wrong checksum, amounts that no number reaches, and an allow rule that names no delegates."""
    if not values.are_addresses(entry.to):
        yield "to"
    if values.over(entry.min_value):
        yield "min_value"
    if values.over(entry.max_value):
        yield "max_value"
    if entry.erc20 != "*":
        if not values.are_addresses(entry.erc20.recipients):
            yield "erc20.recipients"
        if values.over(entry.erc20.min_amount):
            yield "erc20.min_amount"
        if values.over(entry.erc20.max_amount):
            yield "erc20.max_amount"
    if isinstance(entry, shape.EthereumSetCodeEntry) and (
        (allow and entry.delegates == "*") or not values.are_addresses(entry.delegates)
    ):
        yield "delegates"


def _erc20_failed(erc20: Erc20Matcher, facts: EthereumFacts) -> str:
    found = facts.token
    if found is None:
        return "content.erc20"
    if erc20.methods is not None and found.method not in erc20.methods:
        return "content.erc20.method"
    if erc20.recipients is not None and found.recipient not in erc20.recipients:
        return "content.erc20.recipient"
    if erc20.min_amount is not None and found.amount < erc20.min_amount:
        return "content.erc20.min_amount"
    if erc20.max_amount is not None and found.amount > erc20.max_amount:
        return "content.erc20.max_amount"
    return ""
