"""The step `approve` and the times of `authenticate`, with a clock of the test's own."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from adytum_enclave.core.passkeys import PasskeyMemory
from adytum_enclave.core.rejections import Rejections
from adytum_enclave.core.replay import Replay
from adytum_enclave.core.steps.approve import approve
from adytum_enclave.core.steps.authenticate import Authenticated, authenticate
from adytum_policy.document import parse_policy
from adytum_policy.votes import Vote
from adytum_sim.passkeys import UP, Passkey
from adytum_sim.people import Person, approval_statement, request_body
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute
from adytum_wire.types import sha256

NOW = 1_795_435_200_000
WINDOW, LONG = 300_000, 86_400_000
BOUNDS: Any = SimpleNamespace(request_past_ms=WINDOW, request_future_ms=60_000, approval_past_ms=LONG)
RP_ID = "vault.example"


class Desk:
    """One tenant: alice asks, bob (key and passkey) and carol approve; erin has no say."""

    def __init__(self, *operations: str) -> None:
        self.alice, self.bob, self.carol, self.erin = (Person.new(name) for name in ("alice", "bob", "carol", "erin"))
        self.passkey = Passkey.new(RP_ID)
        self.passkeys, self.rejections = PasskeyMemory(), Rejections()
        rule = {
            "id": "wait",
            "effect": "allow",
            "operations": list(operations or ("generate_key", "reseal")),
            "principals": "*",
            "labels": "*",
            "algorithms": "*",
            "paths": "*",
            "times": "*",
            "approvals": {"role": "approver", "count": 1},
            "limits": "none",
            "content": "*",
        }
        document = {
            "v": 1,
            "tenant": "acme",
            "version": 7,
            "valid_until": 2_000_000_000_000,
            "records": {"generation": 1, "min_generation": 1},
            "recovery": "none",
            "passkeys": {"rp_id": RP_ID, "origins": [f"https://{RP_ID}"]},
            "recipients": [],
            "limits": [],
            "principals": [
                self.alice.as_principal("signer"),
                self.bob.as_principal("approver", passkeys=[self.passkey]),
                self.carol.as_principal("approver"),
                self.erin.as_principal("auditor"),
            ],
            "rules": [rule],
        }
        self.policy: Any = SimpleNamespace(policy=parse_policy(json.dumps(document).encode()), digest=bytes(32))

    def message(self, *approvals: Approval, issued_at: int = NOW, operation: str = "generate_key") -> Execute:
        fields: dict[str, Any] = (
            {"algorithm": "ed25519", "labels": []} if operation == "generate_key" else {"key_id": "key-" + "00" * 16}
        )
        if operation == "sign":
            fields |= {"path": "", "scheme": "ed25519", "content": {"type": "raw-message", "message": "00"}}
        body = request_body("acme", operation, issued_at, request_id="request-0001", **fields)
        return Execute(body, self.alice.stamp(body), None, approvals)

    def who(self, message: Execute, *, now_ms: int = NOW) -> Authenticated:
        tenants: Any = {"acme": SimpleNamespace(id="acme")}
        sessions: Any = None  # nobody here has one
        return authenticate(
            message,
            tenants=tenants,
            policies={"acme": self.policy},
            sessions=sessions,
            bounds=BOUNDS,
            now_ms=now_ms,
        )

    def votes(self, message: Execute, *, now_ms: int = NOW) -> list[tuple[str, str]]:
        return [(vote.principal_id, vote.decision) for vote in self.raw_votes(message, now_ms=now_ms)]

    def raw_votes(self, message: Execute, *, now_ms: int = NOW) -> tuple[Vote, ...]:
        return approve(
            message,
            self.who(message, now_ms=now_ms),
            passkeys=self.passkeys,
            rejections=self.rejections,
            future_ms=60_000,
            now_ms=now_ms,
        )

    def statement(self, **changes: Any) -> bytes:
        fields = {"policy_version": 7, "issued_at": NOW} | changes
        return approval_statement("acme", sha256(self.message().body), **fields)


def test_without_approvals_there_are_no_votes() -> None:
    desk = Desk()
    assert desk.votes(desk.message()) == []


def test_the_place_of_what_is_wrong_is_named_and_what_was_right_is_remembered() -> None:
    desk = Desk()
    text = desk.statement()
    good = desk.passkey.approval(text, counter=5)
    for at, bad, code in (
        (1, desk.passkey.approval(text, counter=9, flags=UP), Code.APPROVAL_FLAGS),
        (1, desk.passkey.approval(desk.statement(issued_at=NOW + 1), counter=4), Code.APPROVAL_COUNTER),
        (2, Person.new("bob").approval(text), Code.APPROVAL_UNKNOWN),
    ):
        given = (good, desk.carol.approval(text))[:at]
        with pytest.raises(AdytumError) as caught:
            desk.votes(desk.message(*given, bad))
        assert (caught.value.code, caught.value.field) == (code, f"$.approvals[{at}]")
    assert desk.votes(desk.message(good, desk.carol.approval(text))) == [("bob", "approve"), ("carol", "approve")]


def test_a_rejection_that_was_seen_comes_back_until_it_expires() -> None:
    desk = Desk()
    yes, no = desk.statement(), desk.statement(decision="reject", expires_at=NOW + 1000)
    seen = desk.message(desk.bob.approval(yes), desk.carol.approval(no))
    assert desk.votes(seen) == [("bob", "approve"), ("carol", "reject")]
    assert desk.votes(seen) == [("bob", "approve"), ("carol", "reject")]  # not twice
    dropped = desk.message(desk.bob.approval(yes))
    assert desk.votes(dropped, now_ms=NOW + 1000) == [("bob", "approve"), ("carol", "reject")]
    assert desk.votes(dropped, now_ms=NOW + 1001) == [("bob", "approve")]


def test_a_rejection_by_nobody_who_is_asked_or_an_expired_one_is_not_kept() -> None:
    desk = Desk()
    no, late = desk.statement(decision="reject"), desk.statement(decision="reject", expires_at=NOW + 1)
    desk.votes(desk.message(desk.erin.approval(no)))
    desk.votes(desk.message(desk.carol.approval(late)), now_ms=NOW + 2)
    assert desk.votes(desk.message()) == []


def code_at(desk: Desk, message: Execute, now_ms: int) -> Code | None:
    try:
        desk.who(message, now_ms=now_ms)
    except AdytumError as error:
        return error.code
    return None


def test_only_with_approvals_may_a_request_be_older() -> None:
    desk = Desk()
    plain, waited = desk.message(), desk.message(desk.bob.approval(desk.statement()))
    assert code_at(desk, plain, NOW + WINDOW) is None
    assert code_at(desk, plain, NOW + WINDOW + 1) is Code.REQUEST_EXPIRED
    assert code_at(desk, waited, NOW + LONG) is None
    assert code_at(desk, waited, NOW + LONG + 1) is Code.REQUEST_EXPIRED
    assert code_at(desk, waited, NOW - 60_001) is Code.REQUEST_FROM_FUTURE


@pytest.mark.parametrize(
    ("asked", "operation", "lives"),
    [
        (("generate_key",), "generate_key", LONG),
        (("generate_key",), "reseal", WINDOW),
        (("sign-raw",), "sign", WINDOW),  # repeated, it gives the same bytes
    ],
)
def test_an_id_stays_taken_for_as_long_as_approvals_could_revive_it(
    asked: tuple[str, ...], operation: str, lives: int
) -> None:
    """Carried out without approvals, and again with some a day later: a second key under the id of the first."""
    desk = Desk(*asked)
    message = desk.message(operation=operation)
    who = desk.who(message)
    assert who.lives_until_ms == NOW + lives
    replay: Replay[str] = Replay(WINDOW + 60_000)
    entry = replay.admit(
        "acme", "request-0001", who.digest, repeatable=False, now_ms=NOW, lives_until_ms=who.lives_until_ms
    )
    replay.finish(entry, "the first key", repeatable=False)
    again = desk.message(desk.bob.approval(desk.statement()), operation=operation)
    late = desk.who(again, now_ms=NOW + LONG)
    found = replay.admit("acme", "request-0001", late.digest, repeatable=False, now_ms=NOW + LONG)
    assert (found.answer == "the first key") is (lives == LONG)
