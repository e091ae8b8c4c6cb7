"""What a draft would have answered to requests that were recorded, and what it changes.

Each request is decided with the enclave's own function, in the order of time, and what an allowed one is charged counts
for those after it. Content is decoded from the body's bytes. Approvals are taken as given: who approved according to
the record approves here too, under the draft.

What is not known is said and not guessed: without the labels of a key the draft decides nothing about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from adytum_policy.content import Decoded, decode_content
from adytum_policy.decide import Decision, decide
from adytum_policy.document import Policy
from adytum_policy.rules import Subject
from adytum_policy.subject import ALGORITHMS
from adytum_policy.usage import Charge
from adytum_policy.votes import Vote
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import BitcoinPsbt, Body, DeriveKey, Making, OnRecord, Sign, operation_of, parse_body
from adytum_wire.types import Algorithm, SigningScheme, sha256

ALLOWED = "allowed"


class Recorded(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a record. `body`: the request as it was signed. `principal`: who asked. `algorithm`, `labels`,
    `public_key` (hex): of the key record; needed unless the request makes one. `time`: when it was decided, ms since
    1970; by default when it was issued. `outcome`: "allowed" or the error code; "" when it is not known. `approved`:
    the principals who approved it."""

    body: str
    principal: str
    algorithm: Algorithm | None = None
    labels: list[str] | None = None
    public_key: str = ""
    time: int | None = None
    outcome: str = ""
    approved: list[str] = []


class Answer(NamedTuple):
    """`before` and `after`: "allowed", an error code, or "" where it is not known; then `why` says what is missing."""

    request_id: str
    operation: str
    principal: str
    before: str
    after: str
    decision: Decision | None
    why: str = ""

    @property
    def changed(self) -> bool:
        return self.before != self.after


class Window:
    """Usage that begins at nothing and remembers what it was charged."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._charged: dict[tuple[str, str], deque[tuple[int, int]]] = {}

    def used(self, charge: Charge) -> int:
        entries = self._charged.get((charge.limit, charge.scope), deque())
        return sum(amount for at, amount in entries if at > self.now_ms - charge.window_ms)

    def charge(self, charges: Iterable[Charge]) -> None:
        for charge in charges:
            self._charged.setdefault((charge.limit, charge.scope), deque()).append((self.now_ms, charge.amount))


def simulate(draft: Policy, records: Iterable[Recorded], *, against: Policy | None = None) -> list[Answer]:
    """Answers in the order of time. With `against` the old outcomes are that policy's, else those of the records.

    Errors: REQUEST_INVALID for a body that is no request.
    """
    parsed = sorted(((record, parse_body(record.body.encode())) for record in records), key=_when)
    new, old = Window(), Window()
    answers = []
    for record, body in parsed:
        after, decision, why = outcome_of(draft, record, body, new)
        before = record.outcome if against is None else outcome_of(against, record, body, old)[0]
        answers.append(Answer(body.request_id, operation_of(body), record.principal, before, after, decision, why))
    return answers


def outcome_of(policy: Policy, record: Recorded, body: Body, window: Window) -> tuple[str, Decision | None, str]:
    """(outcome, decision, what is missing) of one request; what it is charged is charged to `window`."""
    try:
        subject = subject_of(policy, record, body)
    except AdytumError as error:
        return error.code.value, None, ""
    except _UnknownError as error:
        return "", None, str(error)
    window.now_ms = _when((record, body))
    decision = decide(subject, policy, window.now_ms, votes=_votes(policy, record, window.now_ms), usage=window)
    window.charge(decision.charges)
    return ALLOWED if decision.code is None else decision.code.value, decision, ""


class _UnknownError(Exception):
    """What a record lacks."""


def subject_of(policy: Policy, record: Recorded, body: Body) -> Subject:
    """As the enclave makes it. Errors: PRINCIPAL_UNKNOWN, CONTENT_INVALID; _UnknownError."""
    roles = {entry.id: entry.roles for entry in policy.document.principals}
    if record.principal not in roles:
        raise AdytumError(Code.PRINCIPAL_UNKNOWN)
    labels, algorithm = record.labels, record.algorithm
    if isinstance(body, Making):
        labels, algorithm = body.labels, getattr(body, "algorithm", Algorithm.NONE)
    elif not isinstance(body, OnRecord):
        labels, algorithm = [], Algorithm.NONE
    if labels is None or algorithm is None:
        raise _UnknownError(f"labels or algorithm of {getattr(body, 'key_id', 'the key')} are not known")
    if isinstance(body, Sign | DeriveKey) and body.path:  # what is derived from a seed has an algorithm
        algorithm = body.algorithm if isinstance(body, DeriveKey) else ALGORITHMS[body.scheme]
    content = _content(body, record.public_key) if isinstance(body, Sign) else None
    return Subject(
        operation=operation_of(body),
        principal_id=record.principal,
        roles=frozenset(roles[record.principal]),
        algorithm=algorithm,
        labels=labels,
        facts=None if content is None else content.facts,
        path=body.path if isinstance(body, Sign | DeriveKey) else "",
        signing_paths=frozenset() if content is None else content.signing_paths,
        key_id=getattr(body, "key_id", ""),
    )


def _content(body: Sign, public_key: str) -> Decoded:
    if isinstance(body.content, BitcoinPsbt) and not public_key and not body.path:
        raise _UnknownError("a PSBT is decoded for the public key that signs it")
    return decode_content(body.content, SigningScheme(body.scheme), bytes.fromhex(public_key), body.path)


def _votes(policy: Policy, record: Recorded, now_ms: int) -> list[Vote]:
    roles: Mapping[str, Any] = {entry.id: entry.roles for entry in policy.document.principals}
    return [
        Vote(
            principal_id=name,
            roles=frozenset(roles.get(name, ())),
            decision="approve",
            policy_version=policy.version,
            issued_at=now_ms,
            expires_at=now_ms,
            digest=sha256(name.encode()),
        )
        for name in record.approved
    ]


def _when(pair: tuple[Recorded, Body]) -> int:
    record, body = pair
    return body.issued_at if record.time is None else record.time
