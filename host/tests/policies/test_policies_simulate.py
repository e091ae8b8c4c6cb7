"""Rehearsing a draft with recorded requests."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from adytum.policies.records import read_records
from adytum.policies.simulate import ALLOWED, simulate
from adytum_policy.content import rlp
from adytum_policy.document import Policy, parse_policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import ApprovalOutcome, Receipt, ReceiptEnvelope, encode
from adytum_wire.types import sha256

MONDAY = 1_800_262_800_000  # 2027-01-18 09:00 UTC
USDC = bytes.fromhex("a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48")
PARTNER = bytes.fromhex("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed")
KEY = "key-" + "0" * 32


def policy(document: dict[str, Any]) -> Policy:
    return parse_policy(json.dumps(document).encode())


def body(number: int, usdc: int, *, to: bytes = PARTNER, content: dict[str, Any] | None = None) -> str:
    calldata = bytes.fromhex("a9059cbb") + bytes(12) + to + (usdc * 10**6).to_bytes(32, "big")
    fields = [rlp.encode_int(n) for n in (1, number, 1, 10**9, 60_000)]
    unsigned = b"\x02" + rlp.encode([*fields, USDC, b"", calldata, []])
    return json.dumps(
        {
            "operation": "sign",
            "v": 1,
            "tenant": "acme",
            "request_id": f"payout-{number:04}",
            "issued_at": MONDAY + number * 1000,
            "key_id": KEY,
            "path": "",
            "scheme": "ecdsa-secp256k1",
            "content": content or {"type": "ethereum-transaction", "unsigned": unsigned.hex()},
        }
    )


def line(text: str, **more: Any) -> bytes:
    fields = {"body": text, "principal": "payments", "labels": ["payouts"], "algorithm": "secp256k1"}
    return json.dumps(fields | more).encode()


def outcomes(draft: dict[str, Any], *lines: bytes, **more: Any) -> list[str]:
    return [answer.after for answer in simulate(policy(draft), read_records(lines), **more)]


def test_limits_are_charged_as_the_requests_go_by(guide: dict[str, Any]) -> None:
    lines = [line(body(number, 5_000)) for number in range(12)]
    assert outcomes(guide, *reversed(lines)) == [ALLOWED] * 10 + ["APPROVALS_MISSING"] * 2
    later = line(body(13, 5_000), time=MONDAY + 25 * 3_600_000)
    assert outcomes(guide, *lines, later)[-1] == ALLOWED


def test_approvals_are_taken_as_recorded(guide: dict[str, Any]) -> None:
    large = body(1, 9_000)
    assert outcomes(guide, line(large), line(large, approved=["olga"])) == ["APPROVALS_MISSING"] * 2
    assert outcomes(guide, line(large, approved=["olga", "peter"])) == [ALLOWED]
    night = MONDAY - 3 * 3_600_000
    assert outcomes(guide, line(large, approved=["olga", "peter"], time=night)) == ["POLICY_DENIED"]


def test_what_changes_is_said(guide: dict[str, Any]) -> None:
    tighter = copy.deepcopy(guide)
    tighter["rules"][1]["content"][0]["erc20"]["max_amount"] = "1000000000"
    lines = [line(body(1, 500), outcome=ALLOWED), line(body(2, 5_000), outcome=ALLOWED)]
    answers = simulate(policy(tighter), read_records(lines))
    assert [(a.request_id, a.before, a.after, a.changed) for a in answers] == [
        ("payout-0001", ALLOWED, ALLOWED, False),
        ("payout-0002", ALLOWED, "APPROVALS_MISSING", True),
    ]
    assert answers[1].decision is not None
    assert answers[1].decision.rules[1].outcome == "content.erc20.max_amount"
    against = simulate(policy(tighter), read_records(lines), against=policy(guide))
    assert [a.before for a in against] == [ALLOWED, ALLOWED]


def test_what_is_not_known_is_not_guessed(guide: dict[str, Any]) -> None:
    raw = json.dumps({"body": body(1, 5), "principal": "payments"}).encode()
    [answer] = simulate(policy(guide), read_records([raw]))
    assert (answer.after, answer.decision) == ("", None)
    assert KEY in answer.why
    psbt = body(2, 0, content={"type": "bitcoin-psbt", "psbt": "00", "network": "mainnet"})
    assert outcomes(guide, line(psbt)) == [""]


def test_somebody_whom_the_draft_does_not_have_and_content_that_does_not_decode(guide: dict[str, Any]) -> None:
    assert outcomes(guide, line(body(1, 5), principal="eve")) == ["PRINCIPAL_UNKNOWN"]
    broken = body(1, 5, content={"type": "ethereum-transaction", "unsigned": "02c0"})
    assert outcomes(guide, line(broken)) == ["CONTENT_INVALID"]


def test_receipts_and_keys_complete_the_lines(guide: dict[str, Any]) -> None:
    text = body(1, 9_000)
    receipt = Receipt(
        chain="0" * 32,
        sequence=1,
        previous="0" * 64,
        time=MONDAY,
        tenant="acme",
        principal="payments",
        request_id="payout-0001",
        operation="sign",
        request_digest=sha256(text.encode()).hex(),
        decision="allow",
        code="",
        rules=[],
        wanted=[],
        approvals=[ApprovalOutcome("olga", "0" * 64, "approve"), ApprovalOutcome("peter", "0" * 64, "expired")],
        limits=[],
        policy_version=1,
        policy_digest="",
        key_id=KEY,
        record_version=1,
        public_key="",
        summary={},
        result_digest="",
    )
    envelope = encode(ReceiptEnvelope(body=encode(receipt).decode(), following=[], key="0" * 64, signature="0" * 128))
    keys = {"keys": [{"key_id": KEY, "algorithm": "secp256k1", "labels": ["payouts"], "public_key": "", "kind": "x"}]}
    bare = json.dumps({"body": text}).encode()
    [record] = read_records([bare, b"\n"], receipts=[b'{"v":1}', envelope + b"\n"], keys=json.dumps(keys).encode())
    assert (record.principal, record.time, record.outcome, record.approved) == ("payments", MONDAY, ALLOWED, ["olga"])
    [answer] = simulate(policy(guide), [record])
    assert (answer.before, answer.after, answer.changed) == (ALLOWED, "APPROVALS_MISSING", True)


@pytest.mark.parametrize(
    "bad", [b"x", b"[]", b"{}", b'{"body": 1}', b'{"body": "{}"}', b'{"body": "{}", "surprise": 1}']
)
def test_a_line_that_is_no_record_is_named(bad: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        read_records([line(body(1, 5)), bad])
    assert caught.value.code is Code.REQUEST_INVALID
    assert caught.value.field.startswith("line 2 (")


def test_what_makes_a_key_needs_no_labels_of_one(guide: dict[str, Any]) -> None:
    make = {"operation": "generate_key", "v": 1, "tenant": "acme", "request_id": "make-0001", "issued_at": MONDAY}
    text = json.dumps(make | {"algorithm": "secp256k1", "labels": ["payouts"]})
    record = json.dumps({"body": text, "principal": "ops", "approved": ["peter"]}).encode()
    assert outcomes(guide, record) == [ALLOWED]
