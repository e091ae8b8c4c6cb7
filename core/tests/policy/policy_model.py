"""A second reading of spec/policy.md for tests: policies and requests at random, and a decision written for clarity.

It works on the document, not on compiled rules, and shares nothing with `adytum_policy` but its data types. Kept naive:
where it and `decide` differ, one of them does not say what the specification says.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from adytum_policy.document import Policy, parse_policy
from adytum_policy.facts import EthereumFacts, TokenFacts
from adytum_policy.rules import Subject
from adytum_policy.usage import Charge
from adytum_policy.votes import Vote
from adytum_wire.types import sha256

VERSION = 5
VALID_UNTIL = 4_000_000_000_000
NOW = 1_800_000_000_000  # Friday, 2027-01-15 08:00 UTC
TOKEN = "0x" + "11" * 20
KEYS = {  # public keys of the private keys 01.., 02.., 03.., 04..
    "alice": "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
    "bob": "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394",
    "carol": "ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1",
    "dave": "ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c",
}
ROLES = {"alice": ["signer"], "bob": ["signer", "boss"], "carol": ["boss", "audit"], "dave": ["boss", "audit"]}
LIMITS = [
    {"id": "eth", "measure": "amount", "asset": "eip155:1/native", "per": "key"},
    {"id": "usd", "measure": "amount", "asset": f"eip155:1/erc20:{TOKEN}", "per": "tenant"},
    {"id": "many", "measure": "count", "asset": "*", "per": "principal"},
    {"id": "sends", "measure": "count", "asset": "eip155:1/native", "per": "tenant"},
]
WINDOW_S = 3_600


def document_of(rules: list[dict[str, Any]], maxima: dict[str, int] | None = None) -> dict[str, Any]:
    maxima = maxima or {}
    return {
        "v": 1,
        "tenant": "acme",
        "version": VERSION,
        "valid_until": VALID_UNTIL,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "limits": [
            limit | {"window_seconds": WINDOW_S, "max": str(maxima.get(str(limit["id"]), 10))} for limit in LIMITS
        ],
        "principals": [
            {"id": name, "keys": [{"scheme": "ed25519", "public_key": key}], "passkeys": [], "roles": ROLES[name]}
            for name, key in KEYS.items()
        ],
        "rules": [rule | {"id": f"r{at}"} for at, rule in enumerate(rules)],
    }


def policy_of(rules: list[dict[str, Any]], maxima: dict[str, int] | None = None) -> Policy:
    return parse_policy(json.dumps(document_of(rules, maxima)).encode())


# --- at random

_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_CLOCK = ["00:00", "07:59", "08:00", "08:01", "23:59", "24:00"]
_times = st.builds(
    lambda days, clock: {"days": days, "start": clock[0], "end": clock[1]},
    st.lists(st.sampled_from(_DAYS), max_size=3),
    st.lists(st.sampled_from(_CLOCK), min_size=2, max_size=2, unique=True).map(sorted),
)
PATTERNS = ["", "m/*", "m/44'", "m/44'/*", "m/44", "m/44/*", "m/4/*", "m/44'/60'/*", "m/44'/60'/0'"]
PATTERNS += ["m/44'/60'/0'/0/5", "m/44'/60'/0'/0/*"]
PATHS = ["", "m/44'", "m/44", "m/44'/60'", "m/44'/60'/0'", "m/44'/60'/0'/7", "m/44/60", "m/4", "m/440"]
_amount = st.sampled_from(["*", "0", "5"])
_content = st.fixed_dictionaries(
    {
        "type": st.just("ethereum-transaction"),
        "chain_ids": st.just("*") | st.lists(st.sampled_from([1, 5]), max_size=2),
        "contract_creation": st.sampled_from([True, False, "*"]),
        "to": st.just("*") | st.lists(st.sampled_from([TOKEN, "0x" + "22" * 20]), max_size=2),
        "min_value": st.just("*"),
        "max_value": _amount,
        "max_fee": st.just("*"),
        "selectors": st.just("*") | st.lists(st.sampled_from(["none", "0xa9059cbb"]), max_size=2),
        "erc20": st.just("*")
        | st.fixed_dictionaries(
            {"methods": st.just("*"), "recipients": st.just("*"), "min_amount": st.just("*"), "max_amount": _amount}
        ),
    }
)
_OPERATIONS = ["sign", "sign-raw", "generate_seed", "import_file", "unseal"]


def _rule(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "principals": st.just("*") | st.lists(st.sampled_from(["principal:alice", "role:boss"]), max_size=2),
            "labels": st.just("*") | st.lists(st.sampled_from(["hot", "cold"]), max_size=2),
            "algorithms": st.just("*") | st.just(["secp256k1"]),
            "paths": st.just("*") | st.lists(st.sampled_from(PATTERNS), max_size=2),
            "times": st.just("*") | st.lists(_times, max_size=2),
            **fields,
        }
    )


_what = st.fixed_dictionaries(
    {"operations": st.lists(st.sampled_from(_OPERATIONS), min_size=1, max_size=3), "content": st.just("*")}
) | st.fixed_dictionaries({"operations": st.just(["sign"]), "content": st.just("*") | st.lists(_content, max_size=2)})
_demands = {
    "effect": st.just("allow"),
    "approvals": st.just("none")
    | st.builds(
        lambda role, count: {"role": role, "count": count},
        st.sampled_from(["boss", "boss", "audit"]),
        st.sampled_from([1, 1, 2]),
    ),
    "limits": st.just("none")
    | st.lists(st.sampled_from([str(limit["id"]) for limit in LIMITS]), min_size=1, max_size=2, unique=True),
}
_OPEN = dict.fromkeys(("principals", "labels", "algorithms", "paths", "times", "content"), "*") | {
    "operations": _OPERATIONS
}
# Most rules match, so that approvals and limits are reached: all conditions are open but one or two.
_opened = st.builds(
    lambda rule, what, kept: rule | what | {name: value for name, value in _OPEN.items() if name not in kept},
    _rule(),
    _what,
    st.sets(st.sampled_from(["principals", "labels", "algorithms", "paths", "times"]), max_size=1)
    | st.just({"operations", "content"}),
)
_random = st.builds(lambda rule, what: rule | what, _rule(), _what)
allow_rules = st.builds(
    lambda rule, demands: rule | demands, _opened | _opened | _random, st.fixed_dictionaries(_demands)
)
deny_rules = st.builds(
    lambda rule: rule | {"effect": "deny", "approvals": "none", "limits": "none"}, _opened | _random | _random | _random
)
rules = st.builds(
    lambda allow, deny, at: [*allow[:at], *deny, *allow[at:]],
    st.lists(allow_rules, min_size=1, max_size=3),
    st.lists(deny_rules, max_size=1) | st.just([]) | st.just([]),
    st.integers(0, 2),
)

_bytes20 = st.sampled_from([b"\x11" * 20, b"\x22" * 20])
_tokens = st.builds(
    TokenFacts, method=st.just("transfer"), recipient=_bytes20, source=st.none(), amount=st.integers(0, 8)
)
_calls = st.tuples(st.just(b"\xa9\x05\x9c\xbb"), _tokens) | st.tuples(st.sampled_from([b"", b"\1\2\3\4"]), st.none())
facts = st.builds(
    lambda chain, to, value, call: EthereumFacts(
        type="ethereum-transaction",
        chain_id=chain,
        to=to,
        value=value,
        max_fee=1,
        selector=None if to is None else call[0],
        token=None if to is None else call[1],
    ),
    st.sampled_from([1, 1, 1, 5]),
    st.none() | _bytes20 | _bytes20,
    st.integers(0, 8),
    _calls,
)
_names = st.sampled_from(sorted(KEYS))
# Of a PSBT for a seed, which says where below the request's path the keys lie that sign.
_below_path = st.frozensets(st.sampled_from(["", "/0/5", "/0/7", "/1/0"]), max_size=2)
subjects = st.builds(
    lambda name, what, path, below, **more: Subject(
        principal_id=name,
        roles=frozenset(ROLES[name]),
        operation=what[0],
        facts=what[1],
        path=path,
        signing_paths=frozenset(path + more for more in below) if path and what[1] is not None else frozenset(),
        **more,
    ),
    _names,
    st.tuples(st.just("sign"), facts)
    | st.tuples(st.just("sign"), facts)
    | st.tuples(st.just("sign"), facts)
    | st.tuples(st.sampled_from(_OPERATIONS), st.none()),
    algorithm=st.sampled_from(["secp256k1", "none"]),
    labels=st.lists(st.sampled_from(["hot", "cold"]), max_size=2),
    path=st.sampled_from(["", *PATHS]),
    below=st.just(frozenset()) | _below_path,
    key_id=st.sampled_from(["", "key-1", "key-1"]),
)
moments = st.sampled_from([NOW - 1, NOW, NOW, NOW + 59_999, NOW + 60_000, NOW + 86_400_000, VALID_UNTIL + 1])
approves = st.builds(
    lambda name, version, lasts, number: Vote(
        principal_id=name,
        roles=frozenset(ROLES[name]),
        decision="approve",
        policy_version=version,
        issued_at=0,
        expires_at=NOW + lasts,
        digest=sha256(bytes([number])),
    ),
    _names,
    st.sampled_from([VERSION, VERSION, VERSION, VERSION - 1]),
    st.sampled_from([86_400_000, 86_400_000, 0, -1]),
    st.integers(0, 255),
)
votes = st.lists(approves, min_size=1, max_size=4) | st.lists(approves, max_size=1)


class Book:
    """Usage as numbers: the same for every scope of a limit. None: unknown."""

    def __init__(self, used: dict[str, int | None]) -> None:
        self.by_limit = used

    def used(self, charge: Charge) -> int | None:
        return self.by_limit.get(charge.limit, 0)


books = st.dictionaries(
    st.sampled_from([str(limit["id"]) for limit in LIMITS]), st.none() | st.integers(0, 11), max_size=4
).map(Book)


# --- the specification once more


def allows(
    document: dict[str, Any], subject: Subject, now_ms: int, ballots: list[Vote], book: Book, waited: bool = False
) -> tuple[bool, str]:
    """(allowed, code). `waited`: the request is older than one without approvals may be."""
    if now_ms > document["valid_until"]:
        return False, "POLICY_EXPIRED"
    hits = [rule for rule in document["rules"] if matches(rule, subject, now_ms)]
    if not hits or any(rule["effect"] == "deny" for rule in hits):
        return False, "POLICY_DENIED"
    alive = [vote for vote in ballots if now_ms <= vote.expires_at]
    asked = {rule["approvals"]["role"] for rule in hits if rule["approvals"] != "none"}
    if any(vote.decision == "reject" and asked & set(ROLES[vote.principal_id]) for vote in alive):
        return False, "APPROVALS_REJECTED"
    codes = set()
    for rule in hits:
        wants = rule["approvals"]
        if wants != "none":
            people = {
                vote.principal_id
                for vote in alive
                if vote.decision == "approve"
                and vote.policy_version == document["version"]
                and wants["role"] in ROLES[vote.principal_id]
                and vote.principal_id != subject.principal_id
            }
            if len(people) < wants["count"]:
                codes.add("APPROVALS_MISSING")
                continue
        elif waited:
            codes.add("REQUEST_EXPIRED")
            continue
        names = [] if rule["limits"] == "none" else rule["limits"]
        verdicts = {_room(limit, subject, book) for limit in document["limits"] if limit["id"] in names}
        if verdicts <= {"fits"}:
            return True, ""
        codes.add("USAGE_UNKNOWN" if "unknown" in verdicts else "LIMIT_EXCEEDED")
    for code in ("APPROVALS_MISSING", "USAGE_UNKNOWN", "LIMIT_EXCEEDED", "REQUEST_EXPIRED"):
        if code in codes:
            return False, code
    raise AssertionError("no verdict")


def matches(rule: dict[str, Any], subject: Subject, now_ms: int) -> bool:
    who = [f"principal:{subject.principal_id}", *(f"role:{role}" for role in subject.roles)]
    labels, found = rule["labels"], list(subject.labels)
    if labels == "*":
        labelled = True
    elif rule["effect"] == "allow" and subject.operation in ("generate_seed", "import_file"):
        labelled = bool(found) and set(found) <= set(labels)
    else:
        labelled = bool(set(found) & set(labels))
    paths = {subject.path}
    if rule["effect"] == "deny":
        paths |= set(subject.signing_paths)
    content = rule["content"]
    if subject.facts is None:
        understood = content == "*" and subject.operation != "sign"
    else:
        understood = content == "*" or any(_content_matches(one, subject.facts) for one in content)
    return (
        subject.operation in rule["operations"]
        and (rule["principals"] == "*" or bool(set(who) & set(rule["principals"])))
        and labelled
        and (rule["algorithms"] == "*" or subject.algorithm in rule["algorithms"])
        and (rule["paths"] == "*" or any(_below(pattern, path) for pattern in rule["paths"] for path in paths))
        and (rule["times"] == "*" or any(_within(window, now_ms) for window in rule["times"]))
        and understood
    )


def _below(pattern: str, path: str) -> bool:
    """Step by step."""
    have, want = path.split("/"), pattern.split("/")
    if want[-1] == "*":
        return len(have) >= len(want) and have[: len(want) - 1] == want[:-1]
    return have == want


def _within(window: dict[str, Any], now_ms: int) -> bool:
    """By the calendar of the standard library; text compares as time does when it has leading zeros."""
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    return now.strftime("%a").lower() in window["days"] and window["start"] <= now.strftime("%H:%M") < window["end"]


def _content_matches(matcher: dict[str, Any], found: Any) -> bool:
    token, erc20 = found.token, matcher["erc20"]
    selector = "absent" if found.selector is None else "0x" + found.selector.hex() if found.selector else "none"
    return (
        (matcher["chain_ids"] == "*" or found.chain_id in matcher["chain_ids"])
        and matcher["contract_creation"] in ("*", found.to is None)
        and (matcher["to"] == "*" or (found.to is not None and "0x" + found.to.hex() in matcher["to"]))
        and (matcher["max_value"] == "*" or found.value <= int(matcher["max_value"]))
        and (matcher["selectors"] == "*" or selector in matcher["selectors"])
        and (
            erc20 == "*"
            or (token is not None and (erc20["max_amount"] == "*" or token.amount <= int(erc20["max_amount"])))
        )
    )


def _room(limit: dict[str, Any], subject: Subject, book: Book) -> str:
    amount = _amount_of(limit, subject)
    if amount is None:
        return "unmeasured"
    used = book.by_limit.get(limit["id"], 0)
    if used is None:
        return "unknown"
    return "fits" if used + amount <= int(limit["max"]) else "full"


def _amount_of(limit: dict[str, Any], subject: Subject) -> int | None:
    found: Any = subject.facts
    if limit["per"] == "key" and not subject.key_id:
        return None
    if limit["id"] == "many":
        return 1
    if found is None:
        return None
    if limit["id"] in ("eth", "sends"):
        value = found.value if found.chain_id == 1 else 0
        return value if limit["id"] == "eth" else min(value, 1)
    if found.chain_id != 1:
        return 0
    if found.to is None or (found.token is None and found.selector != b""):
        return None
    return found.token.amount if found.token is not None and found.to == b"\x11" * 20 else 0
