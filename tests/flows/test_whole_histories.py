"""Histories of valid and invalid messages: whatever the host and the clients try, nothing is signed that may not be.

The enclave is the real core in this process (`adytum_sim.inside`). What may be signed is said again here in a few lines
that share no code with `decide`: a small payment by Alice within a day's limit, a large one with Bob's or Carol's fresh
approval, and never anything to the banned address.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import rlp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wallet import allow_everything

from adytum_sim.inside import Inside
from adytum_sim.people import Person, approval_statement, request_body
from adytum_wire import results
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.record import Record
from adytum_wire.requests import Stamp
from adytum_wire.types import sha256

START = 1_800_000_000_000
DAY = 86_400_000
WINDOW = 3_600_000
SMALL, LARGE, LIMIT = 100, 1000, 250
GOOD, BANNED = "0x" + "11" * 20, "0x" + "22" * 20
ARN = "arn:aws:kms:eu-central-1:111122223333:key/one"

# Keys once for all histories: making them is the slow part of a history.
ADMIN, ALICE, BOB, CAROL, MALLORY, STRANGER = (
    Person.new(name) for name in ("admin", "alice", "bob", "carol", "mallory", "alice")
)


def document(version: int, *, approvers: tuple[Person, ...] = (BOB, CAROL)) -> dict[str, Any]:
    ethereum = {
        "type": "ethereum-transaction", "chain_ids": [1], "contract_creation": False, "to": "*", "min_value": "0",
        "max_value": str(SMALL), "max_fee": "*", "selectors": ["none"], "erc20": "*",
    }  # fmt: skip
    rules = [
        allow_everything("make", operations=["generate_key", "reseal"]),
        allow_everything("small", operations=["sign"], content=[ethereum], limits=["hourly"]),
        allow_everything(
            "large",
            operations=["sign"],
            content=[ethereum | {"max_value": str(LARGE)}],
            approvals={"role": "approver", "count": 1},
        ),
        allow_everything(
            "banned", effect="deny", operations=["sign"], content=[ethereum | {"to": [BANNED], "max_value": "*"}]
        ),
    ]
    limit = {"id": "hourly", "measure": "amount", "asset": "eip155:1/native", "per": "tenant"}
    people = [ALICE.as_principal("signer"), MALLORY.as_principal()]
    people += [person.as_principal("approver") for person in approvers]
    return {
        "v": 1, "tenant": "acme", "version": version, "valid_until": START + 30 * DAY,
        "records": {"generation": 1, "min_generation": 1}, "recovery": "none", "passkeys": "none", "recipients": [],
        "principals": people, "limits": [limit | {"window_seconds": WINDOW // 1000, "max": str(LIMIT)}], "rules": rules,
    }  # fmt: skip


def manifest() -> bytes:
    kms = {"region": "eu-central-1", "account": "111122223333", "keys": [ARN], "host": "kms", "port": 8000}
    bounds = {"request_past_ms": 300_000, "request_future_ms": 60_000, "approval_past_ms": DAY, "key_ttl_seconds": 60}
    return json.dumps(
        {
            "v": 1, "deployment": "inside", "epoch": 1, "debug": False, "node_id": "node-1",
            "kms": kms | {"roots": ["x"], "credentials": "pushed"},
            "tenants": [{"id": "acme", "kms_key": ARN, "admins": [ADMIN.as_admin()], "threshold": 1}],
            "bounds": bounds | {"key_max_uses": 1000, "max_warm_keys": 10}, "anchor": {"kind": "none"},
        }
    ).encode()  # fmt: skip


@dataclass(frozen=True, slots=True)
class Try:
    """One request: what it asks, who stamps it, what the approver said, and how the host or a thief spoils it."""

    value: int
    to: str
    who: str
    votes: tuple[str, ...]
    spoil: str
    age_ms: int
    raw: bool


TRIES = st.builds(
    Try,
    value=st.sampled_from([0, 1, SMALL, SMALL, SMALL + 1, LARGE, LARGE + 1]),
    to=st.sampled_from([GOOD, GOOD, GOOD, BANNED]),
    who=st.sampled_from(["alice", "alice", "alice", "mallory", "bob", "stranger"]),
    votes=st.lists(
        st.sampled_from(["bob", "carol", "bob-rejects", "alice", "mallory", "stale", "expired", "other-request"]),
        max_size=2,
    ).map(tuple),
    spoil=st.sampled_from(["", "", "", "", "edit", "stamp", "record", "no-record", "kms", "drop-votes"]),
    age_ms=st.sampled_from([0, 0, 200_000, 400_000, 2 * DAY]),
    raw=st.sampled_from([False, False, False, True]),
)
STEPS = st.lists(
    TRIES | st.tuples(st.just("tick"), st.integers(0, WINDOW)) | st.tuples(st.just("repeat"), st.integers(0, 20))
    | st.tuples(st.just("policy"), st.integers(0, 3)),
    min_size=1,
    max_size=14,
)  # fmt: skip


@dataclass(slots=True)
class History:
    inside: Inside
    key_id: str = ""
    record: Record = field(default_factory=lambda: Record(b"", b"", b""))
    version: int = 3
    sent: list[tuple[Execute, Try]] = field(default_factory=list)
    signed: dict[bytes, tuple[Try, int]] = field(default_factory=dict)  # by request digest: what, when first

    def run(self, step: Any) -> None:
        if isinstance(step, Try):
            message = self.message(step)
            self.sent.append((message, step))
            self.judge(message, step)
        elif step[0] == "tick":
            self.inside.clock_ms += step[1]
        elif step[0] == "policy":
            version = self.version - 1 + step[1]
            reply = self.inside.put_policy(document(version), ADMIN)
            if not isinstance(reply, Refusal):
                assert version >= self.version
                self.version = version
        elif self.sent:
            self.judge(*self.sent[step[1] % len(self.sent)])

    def message(self, wanted: Try) -> Execute:
        now = self.inside.clock_ms
        fields = [1, 0, 0, 0, 21_000, bytes.fromhex(wanted.to[2:]), wanted.value, b"", []]
        content = {"type": "ethereum-transaction", "unsigned": (b"\x02" + rlp.encode(fields)).hex()}
        if wanted.raw:
            content = {"type": "raw-digest", "digest": "ab" * 32}
        body = request_body(
            "acme", "sign", now - wanted.age_ms, key_id=self.key_id, path="", scheme="ecdsa-secp256k1", content=content
        )
        people = {"alice": ALICE, "mallory": MALLORY, "bob": BOB, "stranger": STRANGER}
        stamp = people[wanted.who].stamp(body)
        approvals = tuple(self.vote(name, body) for name in wanted.votes)
        record: Record | None = self.record
        match wanted.spoil:
            case "edit":
                body = body.replace(b'"v": 1', b'"v":  1', 1)
            case "stamp":
                stamp = Stamp(stamp.scheme, stamp.public_key, stamp.signature[:-1] + bytes([stamp.signature[-1] ^ 1]))
            case "record":
                record = Record(self.record.header, self.record.ciphertext_blob[::-1], self.record.data_key_ciphertext)
            case "no-record":
                record = None
            case "drop-votes":
                approvals = ()
        return Execute(body, stamp, record, approvals)

    def vote(self, name: str, body: bytes) -> Any:
        now = self.inside.clock_ms
        person = {"carol": CAROL, "alice": ALICE, "mallory": MALLORY}.get(name, BOB)
        statement = approval_statement(
            "acme",
            sha256(body if name != "other-request" else body + b" "),
            policy_version=self.version - (name == "stale"),
            issued_at=now - (7_200_000 if name == "expired" else 0),
            decision="reject" if name == "bob-rejects" else "approve",
        )
        return person.approval(statement)

    def judge(self, message: Execute, wanted: Try) -> None:
        if wanted.spoil == "kms":
            self.inside.kms_fails = 1
        before = self.inside.clock_ms
        reply = self.inside.execute(message)
        self.inside.kms_fails = 0
        if not isinstance(reply, ExecuteReply):
            return
        digest = sha256(message.body)
        first = digest not in self.signed
        if first:
            self.signed[digest] = wanted, before
        assert self.may(wanted), (wanted, reply)
        for moment in {at for _, at in self.signed.values()}:
            spent = sum(t.value for t, at in self.signed.values() if _is_small(t) and moment <= at < moment + WINDOW)
            assert spent <= LIMIT

    def may(self, wanted: Try) -> bool:
        """The rules once more, by hand. A spoilt ciphertext is not read while its key is warm, and harms nobody."""
        if wanted.raw or wanted.who != "alice" or wanted.to == BANNED or wanted.spoil in ("edit", "stamp"):
            return False
        if wanted.spoil == "no-record" or wanted.value > LARGE or "bob-rejects" in _given(wanted):
            return False
        if not set(_given(wanted)) & {"bob", "carol"}:
            return wanted.value <= SMALL and wanted.age_ms <= 300_000
        return wanted.age_ms <= DAY


def _given(wanted: Try) -> tuple[str, ...]:
    return () if wanted.spoil == "drop-votes" else wanted.votes


def _is_small(wanted: Try) -> bool:
    """Charged to the limit for sure: nobody approved it."""
    return not set(_given(wanted)) & {"bob", "carol"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_no_history_of_messages_signs_what_may_not_be_signed(steps: list[Any]) -> None:
    history = begin()
    for step in steps:
        history.run(step)
    # The receipts tell the same story: one for each signature, none without a signature.
    receipts = [json.loads(json.loads(envelope)["body"]) for envelope in history.inside.receipts]
    allowed = {r["request_digest"] for r in receipts if r["decision"] == "allow" and r["operation"] == "sign"}
    assert allowed == {digest.hex() for digest in history.signed}


def begin() -> History:
    history = History(Inside(manifest=manifest(), start_ms=START))
    history.inside.put_policy(document(history.version), ADMIN)
    reply = history.inside.ask(ALICE, "generate_key", algorithm="secp256k1", labels=["treasury"])
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is not None
    history.key_id, history.record = results.parse_result(reply.result).key_id, reply.record
    history.inside.clock_ms += WINDOW + 1  # a cold start: the window opens when it has passed
    return history


def test_the_property_would_notice_and_what_may_be_signed_is(monkeypatch: Any) -> None:
    """The histories do sign, by each rule; and with the decision taken out the property fails."""
    history = begin()
    small = Try(SMALL, GOOD, "alice", (), "", 0, False)
    large = Try(LARGE, GOOD, "alice", ("carol",), "", 400_000, False)
    for wanted in (small, large, small, small):
        history.run(wanted)
    assert [wanted for wanted, _ in history.signed.values()] == [small, large, small]  # the third small one is too much

    from adytum_enclave.core import pipeline

    allow = history.inside.enclave
    real = pipeline.authorise

    def yes(*args: Any, **kwargs: Any) -> Any:
        decision = real(*args, **kwargs)
        return type(decision)(True, None, decision.rules, "small")

    monkeypatch.setattr(pipeline, "authorise", yes)
    assert allow is history.inside.enclave
    noticed = False
    try:
        history.run(Try(LARGE + 1, GOOD, "alice", (), "", 0, False))
    except AssertionError:
        noticed = True
    assert noticed
