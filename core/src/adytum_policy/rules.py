"""Compiled rules: the fast form of `shape.RuleEntry`, built once when a policy is opened.

Deciding runs for each request inside the enclave, so lists are frozensets, numbers are ints, addresses are bytes, and
the outcome objects of the receipt exist beforehand. `None` in a compiled rule stands for "*" (no condition).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from adytum_policy import shape
from adytum_policy.facts import ContentFacts
from adytum_wire.receipts import RuleOutcome

# Operations whose request chooses the labels of a new record (P-10).
_LABELLING = frozenset({"generate_key", "import_key", "seal"})

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
)
_DEPTH = {name: depth for depth, name in enumerate(CONTENT_CONDITIONS)}
CONDITIONS = ("operation", "principal", "label", "algorithm", "content", *CONTENT_CONDITIONS)


class Subject(Struct, frozen=True, kw_only=True):
    """What is to be decided. The caller has authenticated `principal_id` and looked `roles` up in the same policy.

    `operation`: `requests.operation_of(body)`. `labels` and `algorithm`: of the record, or for a new one of the
    request. `facts`: of the decoded content, None where there is none or it cannot be understood.
    """

    operation: str
    principal_id: str
    roles: Collection[str]
    algorithm: str
    labels: Collection[str]
    facts: ContentFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Erc20Matcher:
    methods: frozenset[str] | None
    recipients: frozenset[bytes] | None
    min_amount: int | None
    max_amount: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EthereumMatcher:
    type: str
    chain_ids: frozenset[int] | None
    contract_creation: bool | None
    to: frozenset[bytes] | None
    min_value: int | None
    max_value: int | None
    max_fee: int | None
    selectors: frozenset[bytes] | None
    erc20: Erc20Matcher | None

    def failed(self, facts: ContentFacts) -> str:
        """The name of the first condition that does not hold, "" when all do."""
        if facts.type != self.type:
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
        return "" if self.erc20 is None else _erc20_failed(self.erc20, facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    id: str
    allow: bool
    operations: frozenset[str]
    principals: frozenset[str] | None
    roles: frozenset[str]
    labels: frozenset[str] | None
    algorithms: frozenset[str] | None
    content: tuple[EthereumMatcher, ...] | None
    matched: RuleOutcome
    said: dict[str, RuleOutcome] = field(repr=False)

    def outcome(self, subject: Subject) -> RuleOutcome:
        """`matched` when every condition holds, else the outcome that names the first that does not (P-9)."""
        operation = subject.operation
        if operation not in self.operations:
            return self.said["operation"]
        if (
            self.principals is not None
            and subject.principal_id not in self.principals
            and self.roles.isdisjoint(subject.roles)
        ):
            return self.said["principal"]
        listed = self.labels
        if listed is not None:
            labels = subject.labels
            if self.allow and operation in _LABELLING:
                # Any one would let somebody slip a foreign label onto a new key beside a label of their own.
                if not labels or not listed.issuperset(labels):
                    return self.said["label"]
            elif listed.isdisjoint(labels):
                return self.said["label"]
        if self.algorithms is not None and subject.algorithm not in self.algorithms:
            return self.said["algorithm"]
        facts = subject.facts
        if self.content is None:
            # `sign` means content that was understood, whatever the rule says of it (P-11).
            return self.said["content"] if facts is None and operation == "sign" else self.matched
        if facts is None:
            return self.said["content"]
        furthest = "content"  # of several matchers, say where the one that came closest failed
        for matcher in self.content:
            name = matcher.failed(facts)
            if not name:
                return self.matched
            if furthest == "content" or _DEPTH[name] > _DEPTH[furthest]:
                furthest = name
        return self.said[furthest]


def compile_rule(entry: shape.RuleEntry) -> Rule:
    """Compile a rule that `document` has checked."""
    effect = entry.effect
    principals = roles = None
    if entry.principals != "*":
        principals = frozenset(who.removeprefix("principal:") for who in entry.principals if who[0] == "p")
        roles = frozenset(who.removeprefix("role:") for who in entry.principals if who[0] == "r")
    return Rule(
        id=entry.id,
        allow=effect == "allow",
        operations=frozenset(entry.operations),
        principals=principals,
        roles=roles or frozenset(),
        labels=_strings(entry.labels),
        algorithms=_strings(entry.algorithms),
        content=None if entry.content == "*" else tuple(_ethereum(matcher) for matcher in entry.content),
        matched=RuleOutcome(entry.id, effect),
        said={name: RuleOutcome(entry.id, name) for name in CONDITIONS},
    )


def _erc20_failed(erc20: Erc20Matcher, facts: ContentFacts) -> str:
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


def _ethereum(entry: shape.EthereumEntry) -> EthereumMatcher:
    erc20 = entry.erc20
    return EthereumMatcher(
        type=entry.type,
        chain_ids=None if entry.chain_ids == "*" else frozenset(entry.chain_ids),
        contract_creation=None if entry.contract_creation == "*" else entry.contract_creation,
        to=_addresses(entry.to),
        min_value=_amount(entry.min_value),
        max_value=_amount(entry.max_value),
        max_fee=_amount(entry.max_fee),
        selectors=(
            None
            if entry.selectors == "*"
            else frozenset(b"" if text == "none" else bytes.fromhex(text[2:]) for text in entry.selectors)
        ),
        erc20=None
        if erc20 == "*"
        else Erc20Matcher(
            methods=_strings(erc20.methods),
            recipients=_addresses(erc20.recipients),
            min_amount=_amount(erc20.min_amount),
            max_amount=_amount(erc20.max_amount),
        ),
    )


def _strings(listed: Iterable[str]) -> frozenset[str] | None:
    return None if listed == "*" else frozenset(map(str, listed))


def _addresses(listed: Iterable[str]) -> frozenset[bytes] | None:
    return None if listed == "*" else frozenset(bytes.fromhex(text[2:]) for text in listed)


def _amount(text: str) -> int | None:
    return None if text == "*" else int(text)
