"""One receipt by itself, and each way in which it can be changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum_verify import verify_receipt
from adytum_wire.errors import AdytumError, Code


def refused(envelope: bytes, **arguments: Any) -> str:
    with pytest.raises(AdytumError) as caught:
        verify_receipt(envelope, **arguments)
    assert caught.value.code is Code.RECEIPT_INVALID
    return caught.value.field


def edit(envelope: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(envelope), **changes}).encode()


def edit_body(envelope: bytes, **changes: Any) -> bytes:
    return edit(envelope, body=json.dumps({**json.loads(json.loads(envelope)["body"]), **changes}))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_every_receipt_of_a_group_verifies_alone(ledger: Any, size: int) -> None:
    for index, envelope in enumerate(ledger.group(size), 1):
        verified = verify_receipt(envelope, receipt_key=ledger.key)
        assert verified.receipt.sequence == index
        assert (verified.head_sequence, verified.head_link) == (size, ledger.link)
        assert verified.key == ledger.key


def test_without_a_key_the_result_names_the_key(ledger: Any, make_ledger: Any) -> None:
    forged = make_ledger(seed=2)
    [envelope] = forged.group(1)
    assert verify_receipt(envelope).key == forged.key != ledger.key
    assert refused(envelope, receipt_key=ledger.key) == "$.key"


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "deny"},
        {"tenant": "other"},
        {"summary": {"to": "0x" + "44" * 20, "value": "1"}},
        {"previous": "55" * 32},
        {"time": 0},
        {"policy_version": 4},
        {"chain": "cd" * 16},
        {"sequence": 2},
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_edited_body_is_refused(ledger: Any, changes: dict[str, Any], at: int) -> None:
    ledger.group(2)
    assert refused(edit_body(ledger.group(2)[at], **changes), receipt_key=ledger.key) == "$.signature"


def test_same_meaning_in_other_bytes_is_refused(ledger: Any) -> None:
    """The signature covers the bytes; a body that was parsed and written again is another body."""
    [envelope] = ledger.group(1)
    body = json.loads(envelope)["body"]
    assert refused(edit(envelope, body=body + " "), receipt_key=ledger.key) == "$.signature"
    verify_receipt(edit(envelope), receipt_key=ledger.key)  # the envelope around it may be laid out otherwise


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["following"].pop(),
        lambda found: found["following"].reverse(),
        lambda found: found["following"].append("00" * 32),
        lambda found: found.update(signature="00" * 64),
        lambda found: found.update(signature=found["signature"][:-2] + "00"),
    ],
)
def test_edited_envelope_is_refused(ledger: Any, change: Any) -> None:
    envelope = json.loads(ledger.group(3)[0])
    change(envelope)
    assert refused(json.dumps(envelope).encode(), receipt_key=ledger.key) == "$.signature"


def test_first_receipt_must_stand_on_nothing(make_ledger: Any) -> None:
    ledger = make_ledger()
    ledger.link = b"x" * 32
    assert refused(ledger.group(1)[0], receipt_key=ledger.key) == "$.body.previous"


def test_signature_for_another_purpose_is_refused(ledger: Any) -> None:
    """The same key, over the head without its pre-authentication encoding."""
    [envelope] = ledger.group(1)
    raw = bytes.fromhex(ledger.chain) + (1).to_bytes(8, "big") + ledger.link
    assert refused(edit(envelope, signature=ledger.signer.sign(raw).hex()), receipt_key=ledger.key) == "$.signature"


def test_all_zero_key_is_refused(ledger: Any) -> None:
    """A key of small order, under which an all-zero signature would verify for anything."""
    [envelope] = ledger.group(1)
    for key in (bytes(32), b"\1" + bytes(31)):
        for signature in (bytes(64), b"\1" + bytes(63)):
            refused(edit(envelope, key=key.hex(), signature=signature.hex()))


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[]", b"\xff", b'{"body":1}', b"[" * 10_000, b"x" * 200_000])
def test_garbage_is_refused(garbage: bytes) -> None:
    refused(garbage)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2), start=st.integers(0, 1500), length=st.integers(0, 5), new=st.binary(max_size=5))
def test_any_splice_leaves_the_signed_body_or_is_refused(
    make_ledger: Any, at: int, start: int, length: int, new: bytes
) -> None:
    ledger = make_ledger()
    envelope = ledger.group(3)[at]
    edited = envelope[:start] + new + envelope[start + length :]
    try:
        found = verify_receipt(edited, receipt_key=ledger.key)
    except AdytumError as error:
        assert error.code is Code.RECEIPT_INVALID
    else:
        assert json.loads(edited)["body"] == json.loads(envelope)["body"]
        assert found == verify_receipt(envelope, receipt_key=ledger.key)
