"""Record headers are canonical or refused; receipt links and heads against the formula of their own docstring."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_wire import receipts, record
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import RECEIPT_HEAD
from adytum_wire.types import Algorithm, KeyState, RecordKind, derive_key_id

ARN = "arn:aws:kms:eu-central-1:111122223333:key/abc"


def header(**changes: Any) -> record.Header:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "key_id": "key-" + "0" * 32,
        "node_id": "n1",
        "kind": RecordKind.SIGNING_KEY,
        "algorithm": Algorithm.SECP256K1,
        "public_key": "02" * 33,
        "version": 1,
        "generation": 1,
        "labels": ["treasury"],
        "state": KeyState.ACTIVE,
        "delete_after": 0,
        "kms_key_arn": ARN,
        "created_at": 5,
    }
    return record.Header(**(fields | changes))


CANONICAL = record.encode_header(header())
slug = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,20}\Z")
headers = st.builds(
    record.Header,
    v=st.just(1),
    tenant=slug,
    key_id=st.from_regex(r"\Akey-[0-9a-f]{32}\Z"),
    node_id=slug,
    kind=st.sampled_from(RecordKind),
    algorithm=st.sampled_from(Algorithm),
    public_key=st.binary(max_size=33).map(bytes.hex),
    version=st.integers(1, 2**53),
    generation=st.integers(1, 2**31),
    labels=st.lists(slug, max_size=4),
    state=st.sampled_from(KeyState),
    delete_after=st.integers(0, 2**53),
    kms_key_arn=st.just(ARN),
    created_at=st.integers(0, 2**53),
)


def refused(data: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        record.parse_header(data)
    assert caught.value.code is Code.RECORD_INVALID
    return caught.value.field


@given(headers)
def test_headers_go_round(value: record.Header) -> None:
    assert record.parse_header(record.encode_header(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        CANONICAL + b" ",
        CANONICAL.replace(b":", b": ", 1),
        CANONICAL.replace(b"acme", b"\\u0061cme"),
        CANONICAL.replace(b"eu-central-1", b"eu\\u002dcentral-1"),
        json.dumps(json.loads(CANONICAL), sort_keys=True, separators=(",", ":")).encode(),
        b"\n" + CANONICAL,
    ],
)
def test_the_same_header_spelled_otherwise(data: bytes) -> None:
    """The header is AAD: a second spelling would not open, or make two records look like one."""
    assert refused(data) == "$ (not canonical)"


@given(st.integers(0, len(CANONICAL)), st.integers(0, 4), st.binary(max_size=4))
def test_a_mutated_header_is_refused_or_canonical(at: int, cut: int, patch: bytes) -> None:
    data = CANONICAL[:at] + patch + CANONICAL[at + cut :]
    try:
        value = record.parse_header(data)
    except AdytumError as error:
        assert error.code is Code.RECORD_INVALID
    else:
        assert record.encode_header(value) == data


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("tenant", "ACME"),
        ("tenant", ""),
        ("key_id", "key-0"),
        ("kind", "root"),
        ("algorithm", "rsa"),
        ("public_key", "0g"),
        ("version", 0),
        ("labels", ["a"] * 17),
        ("labels", ["A"]),
        ("kms_key_arn", "arn:aws:kms:eu-central-1:111122223333:alias/abc"),
        ("created_at", -1),
    ],
)
def test_a_bad_header_field(name: str, value: Any) -> None:
    fields = json.loads(CANONICAL)
    fields[name] = value
    field = refused(json.dumps(fields, separators=(",", ":")).encode())
    assert field.startswith(f"$.{name}")


def test_each_header_field_is_required() -> None:
    fields = json.loads(CANONICAL)
    for name in fields:
        rest = {other: value for other, value in fields.items() if other != name}
        refused(json.dumps(rest, separators=(",", ":")).encode())
    refused(json.dumps(fields | {"extra": 1}, separators=(",", ":")).encode())


def test_encryption_context_names_what_kms_binds() -> None:
    assert record.encryption_context(header(version=3)) == {
        "adytum:tenant": "acme",
        "adytum:key": "key-" + "0" * 32,
        "adytum:kind": "signing-key",
        "adytum:version": "3",
    }


@given(slug, slug, slug, slug)
def test_key_ids_do_not_collide_across_the_border_of_their_parts(t1: str, r1: str, t2: str, r2: str) -> None:
    assert (derive_key_id(t1, r1) == derive_key_id(t2, r2)) == ((t1, r1) == (t2, r2))


# --- receipts


def receipt(sequence: int, previous: bytes, request_id: str = "r-1") -> receipts.Receipt:
    return receipts.Receipt(
        chain="ab" * 16,
        sequence=sequence,
        previous=previous.hex(),
        time=1,
        tenant="acme",
        principal="alice",
        request_id=request_id,
        operation="sign",
        request_digest="00" * 32,
        decision="allow",
        code="",
        rules=[receipts.RuleOutcome("pay", "allow")],
        approvals=[],
        wanted=[],
        limits=[],
        policy_version=1,
        policy_digest="",
        key_id="",
        record_version=0,
        public_key="",
        summary={},
        result_digest="",
    )


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@given(st.integers(1, 8), st.data())
def test_each_receipt_of_a_group_leads_to_the_same_head(count: int, data: st.DataObject) -> None:
    link, bodies, links = receipts.GENESIS, [], [receipts.GENESIS]
    for sequence in range(1, count + 1):
        body = receipts.encode(receipt(sequence, link, f"r-{sequence}"))
        bodies.append(body)
        link = sha(b"adytum/receipt-link/v1" + link + sha(body))
        links.append(link)
    at = data.draw(st.integers(0, count - 1))
    envelope = receipts.ReceiptEnvelope(
        body=bodies[at].decode(),
        following=[sha(body).hex() for body in bodies[at + 1 :]],
        key="00" * 32,
        signature="00" * 64,
    )
    parsed = receipts.parse_receipt(bodies[at])
    assert receipts.parse_envelope(receipts.encode(envelope)) == envelope
    assert receipts.head_of(envelope, parsed) == (count, link)
    assert receipts.next_link(links[at], sha(bodies[at])) == links[at + 1]
    # one letter of the body, or one receipt less, is another head
    edited = receipts.ReceiptEnvelope(
        body=envelope.body.replace("acme", "acne"), following=envelope.following, key="00" * 32, signature="00" * 64
    )
    assert receipts.head_of(edited, parsed)[1] != link
    if envelope.following:
        shorter = receipts.ReceiptEnvelope(
            body=envelope.body, following=envelope.following[1:], key="00" * 32, signature="00" * 64
        )
        assert receipts.head_of(shorter, parsed) != (count, link)


def test_head_bytes() -> None:
    link = bytes(range(32))
    raw = bytes.fromhex("ab" * 16) + (7).to_bytes(8, "big") + link
    kind = RECEIPT_HEAD.encode()
    assert receipts.head_bytes("ab" * 16, 7, link) == b"DSSEv1 %d %s 56 %s" % (len(kind), kind, raw)


@given(st.binary(max_size=100))
def test_arbitrary_receipts_are_refused(data: bytes) -> None:
    for parse in (receipts.parse_receipt, receipts.parse_envelope):
        with pytest.raises(AdytumError) as caught:
            parse(data)
        assert caught.value.code is Code.RECEIPT_INVALID


@pytest.mark.parametrize(
    ("name", "value"),
    [("chain", "AB" * 16), ("sequence", 0), ("previous", "00"), ("decision", "maybe"), ("time", -1), ("v", 2)],
)
def test_a_bad_receipt_field(name: str, value: Any) -> None:
    fields = json.loads(receipts.encode(receipt(1, receipts.GENESIS)))
    fields[name] = value
    with pytest.raises(AdytumError) as caught:
        receipts.parse_receipt(json.dumps(fields).encode())
    assert (caught.value.code, caught.value.field) == (Code.RECEIPT_INVALID, f"$.{name}")
