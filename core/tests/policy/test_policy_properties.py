"""The decision against a second reading of the specification, and what may never allow more."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from policy_model import (
    NOW,
    WINDOW_S,
    Book,
    allow_rules,
    allows,
    approves,
    books,
    deny_rules,
    document_of,
    facts,
    moments,
    policy_of,
    rules,
    subjects,
    votes,
)

from adytum_policy.decide import Decision, _weigh, decide, deny_whatever_content
from adytum_policy.rules import Subject
from adytum_policy.usage import Charge, NoUsage, UnknownUsage
from adytum_policy.votes import Vote

Rules = list[dict[str, Any]]
# A loaded machine is no reason to fail.
_CALM = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
EXAMPLES = settings(max_examples=80, deadline=None, suppress_health_check=_CALM)


def with_(value: Any, **changes: Any) -> Any:
    return type(value)(**({name: getattr(value, name) for name in value.__struct_fields__} | changes))


def allowed(listed: Rules, subject: Subject, ballots: list[Vote], book: Any, **maxima: int) -> bool:
    return decide(subject, policy_of(listed, maxima), NOW, votes=ballots, usage=book).allowed


@settings(max_examples=400, deadline=None, suppress_health_check=_CALM)
@given(rules, subjects, moments, votes, st.booleans(), books, st.sampled_from([False, False, True]))
def test_decide_says_what_the_second_reading_says(
    listed: Rules, subject: Subject, now: int, ballots: list[Vote], rejected: bool, book: Book, waited: bool
) -> None:
    if rejected and ballots:
        ballots = [*ballots[1:], with_(ballots[0], decision="reject")]
    decision = decide(subject, policy_of(listed), now, votes=ballots, usage=book, waited=waited)
    expected = allows(document_of(listed), subject, now, ballots, book, waited)
    assert (decision.allowed, decision.code.value if decision.code else "") == expected
    assert decision.allowed == bool(decision.rule)
    assert bool(decision.wanted) == (expected[1] == "APPROVALS_MISSING")
    if decision.allowed:
        assert next(outcome.rule for outcome in decision.rules if outcome.outcome == "allow") == decision.rule
        if waited:
            assert listed[int(decision.rule.removeprefix("r"))]["approvals"] != "none"


# Rules whose one condition, or whose one path, is all that decides.
_ACCOUNT = "m/44'/60'/0'"
_open = {"operations": ["sign"], "approvals": "none", "limits": "none"} | dict.fromkeys(
    ("principals", "labels", "algorithms", "paths", "times", "content"), "*"
)
_ANY_CONTENT = {"type": "ethereum-transaction"} | dict.fromkeys(
    ("chain_ids", "contract_creation", "to", "min_value", "max_value", "max_fee", "selectors", "erc20"), "*"
)
_by_path = st.builds(
    lambda effect, paths: _open | {"effect": effect, "paths": paths},
    st.sampled_from(["allow", "allow", "deny"]),
    st.just("*")
    | st.lists(st.sampled_from([_ACCOUNT + more for more in ("", "/*", "/0/*", "/0/5", "/1/*", "/0/5/*")]), max_size=2),
)
_by_content = st.builds(
    lambda effect, condition: _open | {"effect": effect, "content": [_ANY_CONTENT | condition]},
    st.sampled_from(["allow", "allow", "deny"]),
    st.sampled_from([{}, {"chain_ids": [1]}, {"chain_ids": [5]}, {"max_value": "4"}, {"contract_creation": True}]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=_CALM)
@given(
    st.lists(_by_path, min_size=1, max_size=3) | _by_path.map(lambda rule: [_open | {"effect": "allow"}, rule]),
    st.sampled_from([_ACCOUNT, _ACCOUNT + "/0/5", _ACCOUNT + "/0"]),
    st.frozensets(st.sampled_from(["", "/0/5", "/0/7", "/1/0"]), max_size=2),
    facts,
)
def test_paths_that_sign_against_the_second_reading(
    listed: Rules, path: str, below: frozenset[str], found: Any
) -> None:
    fields: dict[str, Any] = {"principal_id": "alice", "roles": (), "algorithm": "secp256k1", "labels": ()}
    signing = [path + more for more in below]
    subject = Subject(operation="sign", facts=found, path=path, signing_paths=signing, key_id="key-1", **fields)
    assert decide(subject, policy_of(listed), NOW).allowed == allows(document_of(listed), subject, NOW, [], Book({}))[0]
    blind = with_(subject, facts=None, signing_paths=())
    if deny_whatever_content(blind, policy_of(listed), NOW) is not None:
        assert not decide(subject, policy_of(listed), NOW).allowed


@settings(max_examples=300, deadline=None, suppress_health_check=_CALM)
@given(
    rules | st.lists(_by_content, min_size=1, max_size=2),
    subjects,
    moments,
    votes,
    books,
    st.lists(st.tuples(facts, st.booleans()), min_size=1, max_size=4),
)
def test_denied_before_decoding_is_denied_for_every_content(
    listed: Rules, subject: Subject, now: int, ballots: list[Vote], book: Book, contents: list[tuple[Any, bool]]
) -> None:
    """By the second reading too, and what the refusal says of a rule is what would be said of it with the content."""
    policy, blind = policy_of(listed), with_(subject, facts=None, signing_paths=())
    early = deny_whatever_content(blind, policy, now)
    if early is None:
        return
    assert not early.allowed
    for found, elsewhere in [(subject.facts, False), *contents]:
        paths = [subject.path + "/0/5"] if elsewhere and subject.path else []
        full = with_(subject, facts=found if subject.operation == "sign" else None, signing_paths=paths)
        late = decide(full, policy, now, votes=ballots, usage=book)
        assert (late.allowed, late.code) == (False, early.code)
        assert not allows(document_of(listed), full, now, ballots, book)[0]
        for said, rule in zip(early.rules, late.rules, strict=True):
            if said.outcome not in ("content", "allow", "path"):
                assert said == rule


@settings(max_examples=150, deadline=None, suppress_health_check=_CALM)
@given(rules, subjects, moments)
def test_what_is_not_denied_before_decoding_could_be_allowed(listed: Rules, subject: Subject, now: int) -> None:
    """The early answer is not only sound but worth something: without content conditions it is the whole answer."""
    open_rules = [rule | {"content": "*", "approvals": "none", "limits": "none"} for rule in listed]
    full = with_(subject, operation="sign-raw", facts=None, signing_paths=())
    policy = policy_of(open_rules)
    assert (deny_whatever_content(full, policy, now) is None) == decide(full, policy, now).allowed


@EXAMPLES
@given(rules, subjects, votes, books, st.booleans(), st.randoms(use_true_random=False))
def test_whether_it_is_allowed_does_not_depend_on_order(
    listed: Rules, subject: Subject, ballots: list[Vote], book: Book, waited: bool, random: Any
) -> None:
    decision = decide(subject, policy_of(listed), NOW, votes=ballots, usage=book, waited=waited)
    other, shuffled = list(listed), list(ballots)
    random.shuffle(other)
    random.shuffle(shuffled)
    again = decide(subject, policy_of(other), NOW, votes=shuffled, usage=book, waited=waited)
    assert (again.allowed, again.code) == (decision.allowed, decision.code)


@EXAMPLES
@given(rules, subjects, votes, books)
def test_age_never_allows_more(listed: Rules, subject: Subject, ballots: list[Vote], book: Book) -> None:
    old = decide(subject, policy_of(listed), NOW, votes=ballots, usage=book, waited=True)
    assert old.allowed <= allowed(listed, subject, ballots, book)


@EXAMPLES
@given(rules, subjects, votes, books, st.sampled_from(["/0/5", "/0/7", "/1/0"]))
def test_one_more_key_that_signs_never_allows_more(
    listed: Rules, subject: Subject, ballots: list[Vote], book: Book, below: str
) -> None:
    more = with_(subject, signing_paths=[*subject.signing_paths, subject.path + below])
    assert allowed(listed, more, ballots, book) <= allowed(listed, subject, ballots, book)


@EXAMPLES
@given(rules, subjects, votes, approves, books, st.data())
def test_fewer_approvals_a_rejection_or_a_deny_rule_never_allow_more(
    listed: Rules, subject: Subject, ballots: list[Vote], extra: Vote, book: Book, data: st.DataObject
) -> None:
    before = allowed(listed, subject, ballots, book)
    for at in range(len(ballots)):
        assert allowed(listed, subject, ballots[:at] + ballots[at + 1 :], book) <= before
    assert allowed(listed, subject, [*ballots, *ballots], book) == before
    assert allowed(listed, subject, [with_(vote, roles=()) for vote in ballots], book) <= before
    for place in (0, len(ballots)):
        more = [*ballots[:place], with_(extra, decision="reject"), *ballots[place:]]
        assert allowed(listed, subject, more, book) <= before
    place = data.draw(st.integers(0, len(listed)))
    assert allowed([*listed[:place], data.draw(deny_rules), *listed[place:]], subject, ballots, book) <= before
    assert allowed([*listed, data.draw(allow_rules)], subject, ballots, book) >= (
        before if not any(vote.decision == "reject" for vote in ballots) else False
    )


@EXAMPLES
@given(rules, subjects, votes, books, st.integers(0, 10))
def test_lower_limits_more_used_or_nothing_known_never_allow_more(
    listed: Rules, subject: Subject, ballots: list[Vote], book: Book, less: int
) -> None:
    before = allowed(listed, subject, ballots, book)
    for name in ("eth", "usd", "many", "sends"):
        assert allowed(listed, subject, ballots, book, **{name: less}) <= before
        used = book.by_limit.get(name, 0)
        assert allowed(listed, subject, ballots, Book(book.by_limit | {name: None})) <= before
        if used is not None:
            assert allowed(listed, subject, ballots, Book(book.by_limit | {name: used + less})) <= before
    limited = [rule for rule in listed if rule["effect"] == "deny" or rule["limits"] != "none"]
    assert not allowed(limited, subject, ballots, UnknownUsage())


@EXAMPLES
@given(rules, subjects, votes, books, st.data())
def test_asking_for_more_never_allows_more(
    listed: Rules, subject: Subject, ballots: list[Vote], book: Book, data: st.DataObject
) -> None:
    before = allowed(listed, subject, ballots, book)
    for at, rule in enumerate(listed):
        if rule["effect"] == "deny":
            continue
        tighter: Rules = [rule | {name: []} for name in ("operations", "principals", "labels", "algorithms")]
        tighter += [rule | {"paths": []}, rule | {"times": []}, rule | {"approvals": {"role": "boss", "count": 3}}]
        tighter += [rule | {"operations": ["sign"] if "sign" in rule["operations"] else [], "content": []}]
        if rule["approvals"] != "none":
            wants = rule["approvals"]
            tighter.append(rule | {"approvals": wants | {"count": 2}})
        tighter.append(rule | {"limits": sorted({*(rule["limits"] if rule["limits"] != "none" else ()), "many"})})
        for one in tighter:
            if rule["approvals"] != "none" and one["approvals"] != rule["approvals"] and one["approvals"]["count"] == 3:
                continue  # another role is not more of the same
            assert allowed([*listed[:at], one, *listed[at + 1 :]], subject, ballots, book) <= before
        assert allowed(listed[:at] + listed[at + 1 :], subject, ballots, book) <= before or any(
            vote.decision == "reject" for vote in ballots
        )


@EXAMPLES
@given(st.lists(allow_rules, max_size=4), subjects, votes, books)
def test_an_absent_fact_never_widens(listed: Rules, subject: Subject, ballots: list[Vote], book: Book) -> None:
    """For allow rules; what a deny rule does not see it does not hit (P-12). Content without a destination is a
    contract creation, a fact of its own, so it is not taken away here; nor is the path: without one it is the record's
    own key."""
    before = allowed(listed, subject, ballots, book)
    poorer = [
        with_(subject, roles=()),
        with_(subject, labels=[]),
        with_(subject, facts=None),
        with_(subject, key_id=""),
    ]
    found: Any = subject.facts
    if found is not None and found.token is not None:
        poorer += [with_(subject, facts=with_(found, **{name: None})) for name in ("selector", "token")]
    for less in poorer:
        assert allowed(listed, less, ballots, book) <= before


@EXAMPLES
@given(rules, subjects, books)
def test_the_fast_way_and_the_slow_way_agree(listed: Rules, subject: Subject, book: Book) -> None:
    policy = policy_of(listed)
    fast = decide(subject, policy, NOW, usage=book)
    outcomes = [rule.outcome(subject, NOW) for rule in policy.rules]
    matching = [rule for at, rule in enumerate(policy.rules) if outcomes[at] is rule.matched]
    assume(matching and all(rule.allow for rule in matching))
    slow: Decision = _weigh(subject, policy, NOW, (), book, outcomes, waited=False)
    assert slow == fast


class Ledger:
    """A rolling window as simply as can be: what was charged when."""

    def __init__(self) -> None:
        self.entries: deque[tuple[int, str, str, int]] = deque()
        self.now = 0

    def used(self, charge: Charge) -> int:
        return sum(
            amount
            for at, limit, scope, amount in self.entries
            if (limit, scope) == (charge.limit, charge.scope) and at > self.now - charge.window_ms
        )

    def charge(self, charges: tuple[Charge, ...]) -> None:
        self.entries.extend((self.now, charge.limit, charge.scope, charge.amount) for charge in charges)


@settings(max_examples=60, deadline=None, suppress_health_check=_CALM)
@given(
    st.lists(allow_rules, min_size=1, max_size=3),
    st.lists(st.tuples(facts, st.sampled_from(["key-1", "key-2"]), st.sampled_from([0, 1, 900_000])), max_size=25),
    st.dictionaries(st.sampled_from(["eth", "usd", "many", "sends"]), st.integers(0, 12)),
)
def test_charged_one_after_the_other_no_window_exceeds_its_maximum(
    listed: Rules, asked: list[tuple[Any, str, int]], maxima: dict[str, int]
) -> None:
    open_rules = [
        rule | {"principals": "*", "labels": "*", "algorithms": "*", "paths": "*", "times": "*", "approvals": "none"}
        for rule in listed
    ]
    policy, ledger = policy_of(open_rules, maxima), Ledger()
    ledger.now = NOW
    for found, key, later in asked:
        ledger.now += later
        subject = Subject(
            operation="sign", principal_id="alice", roles=(), algorithm="secp256k1", labels=(), facts=found, key_id=key
        )
        decision = decide(subject, policy, ledger.now, usage=ledger)
        rule = next((r for r in policy.rules if r.id == decision.rule), None)
        assert tuple(charge.limit for charge in decision.charges) == tuple(e.id for e in (rule.limits if rule else ()))
        ledger.charge(decision.charges)
    for start, _, _, _ in ledger.entries:
        for name, scope in {(limit, scope) for _, limit, scope, _ in ledger.entries}:
            window = [
                e[3] for e in ledger.entries if e[1:3] == (name, scope) and start <= e[0] < start + WINDOW_S * 1000
            ]
            assert sum(window) <= maxima.get(name, 10)


@EXAMPLES
@given(rules, subjects)
def test_without_votes_and_usage_only_plain_rules_allow(listed: Rules, subject: Subject) -> None:
    decision = decide(subject, policy_of(listed), NOW, usage=NoUsage())
    if decision.allowed:
        rule = listed[int(decision.rule.removeprefix("r"))]
        assert rule["approvals"] == "none"
