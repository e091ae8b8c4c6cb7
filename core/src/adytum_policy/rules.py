"""Compiled rules: the fast form of `shape.RuleEntry`, built once when a policy is opened.

Deciding runs for each request inside the enclave, so lists are frozensets, and the outcome objects of the receipt exist
beforehand. Conditions on content are in `matchers`. `None` in a compiled rule stands for "*" (no condition).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from adytum_policy import shape
from adytum_policy.facts import ContentFacts
from adytum_policy.matchers import CONTENT_CONDITIONS, Matcher, compile_matcher
from adytum_policy.matchers.path import PathMatcher
from adytum_policy.matchers.time import TimeMatcher
from adytum_policy.matchers.values import strings
from adytum_wire.receipts import RuleOutcome

# Operations whose request chooses the labels of a new record (P-10).
_LABELLING = frozenset({"generate_key", "generate_seed", "import_key", "import_file", "seal", "seal_anchor"})

_DEPTH = {name: depth for depth, name in enumerate(CONTENT_CONDITIONS)}
CONDITIONS = ("operation", "principal", "label", "algorithm", "path", "time", "content", *CONTENT_CONDITIONS)
# What a matching allow rule may still ask for, as its outcome says it.
DEMANDS = ("approvals", "limit")


class Subject(Struct, frozen=True, kw_only=True):
    """What is to be decided. The caller has authenticated `principal_id` and looked `roles` up in the same policy.

    `operation`: `requests.operation_of(body)`. `labels` and `algorithm`: of the record, or for a new one of the
    request. `facts`: of the decoded content, None where there is none or it cannot be understood. `path`: the
    derivation path that the request names, "" for none. `signing_paths`: of the keys that really sign, where they lie
    below that one (a PSBT for a seed). `key_id`: "" when the request makes a record.
    """

    operation: str
    principal_id: str
    roles: Collection[str]
    algorithm: str
    labels: Collection[str]
    facts: ContentFacts | None
    path: str = ""
    signing_paths: Collection[str] = ()
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    id: str
    allow: bool
    operations: frozenset[str]
    principals: frozenset[str] | None
    roles: frozenset[str]
    labels: frozenset[str] | None
    algorithms: frozenset[str] | None
    paths: PathMatcher | None
    times: TimeMatcher | None
    approvals: shape.ApprovalEntry | None
    limits: tuple[shape.LimitEntry, ...]
    content: tuple[Matcher, ...] | None
    matched: RuleOutcome
    said: dict[str, RuleOutcome] = field(repr=False)

    def outcome(self, subject: Subject, now_ms: int) -> RuleOutcome:
        """`matched` when every condition holds, else the outcome that names the first that does not (P-9)."""
        found = self._before_content(subject, now_ms)
        if found is not None:
            return found
        facts = subject.facts
        if self.content is None:
            # `sign` means content that was understood, whatever the rule says of it (P-11).
            return self.said["content"] if facts is None and subject.operation == "sign" else self.matched
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

    def outcome_without_content(self, subject: Subject, now_ms: int) -> RuleOutcome:
        """What is certain of a subject whose content is not decoded yet: `matched` is the outcome for whatever content
        decodes. Of an allow rule every other outcome but `content` is, too. A deny rule may say "path" and be met later
        by a path that only the content names."""
        found = self._before_content(subject, now_ms)
        if found is not None:
            return found
        return self.matched if self.content is None else self.said["content"]

    def _before_content(self, subject: Subject, now_ms: int) -> RuleOutcome | None:
        """The first condition that does not hold, of all but content; None when they hold."""
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
        if self.paths is not None and not self._meets_path(self.paths, subject):
            return self.said["path"]
        if self.times is not None and not self.times.holds(now_ms):
            return self.said["time"]
        return None

    def _meets_path(self, paths: PathMatcher, subject: Subject) -> bool:
        """Whoever may sign by an account's path may sign with its addresses, which is what a PSBT is for. Who may not
        sign with one of them may not do it by way of the account either (P-26)."""
        if paths.holds(subject.path):
            return True
        return not self.allow and any(map(paths.holds, subject.signing_paths))


def compile_rule(entry: shape.RuleEntry, limits: Mapping[str, shape.LimitEntry]) -> Rule:
    """Compile a rule that `document` has checked. `limits`: the document's, by id."""
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
        labels=strings(entry.labels),
        algorithms=strings(entry.algorithms),
        paths=None if entry.paths == "*" else PathMatcher(entry.paths),
        times=None if entry.times == "*" else TimeMatcher(entry.times),
        approvals=None if entry.approvals == "none" else entry.approvals,
        limits=() if entry.limits == "none" else tuple(limits[name] for name in entry.limits),
        content=None
        if entry.content == "*"
        else tuple(compile_matcher(matcher, allow=effect == "allow") for matcher in entry.content),
        matched=RuleOutcome(entry.id, effect),
        said={name: RuleOutcome(entry.id, name) for name in (*CONDITIONS, *DEMANDS)},
    )
