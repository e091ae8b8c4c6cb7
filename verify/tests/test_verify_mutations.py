"""Structure-aware mutations of genuine documents: nothing verifies, and nothing but `AttestationError` is raised."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum_verify import AWS_ANCHOR, AttestationError, PcrPolicy, parse_unverified, verify_archived_attestation
from adytum_verify.cose import split

NUMBERS = ("01", "03", "09", "12", "13")
FIELDS = ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce"]
modest = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def genuine(folder: Path, number: str) -> tuple[bytes, dict[str, Any], PcrPolicy]:
    [path] = folder.glob(f"{number}_*.bin")
    document = path.read_bytes()
    found = parse_unverified(document)
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    for field in dataclasses.fields(found):
        name = "timestamp" if field.name == "timestamp_ms" else field.name
        if name in fields:
            fields[name] = getattr(found, field.name)
    fields["pcrs"], fields["cabundle"] = dict(found.pcrs), list(found.cabundle)
    return document, fields, PcrPolicy(dict(found.pcrs))


def accepted(document: bytes, policy: PcrPolicy) -> bool:
    try:
        verify_archived_attestation(document, expected=policy, anchors=[AWS_ANCHOR])
    except AttestationError:
        return False
    return True


def flip(data: bytes, bit: int) -> bytes:
    bit %= 8 * len(data)
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@modest
@given(number=st.sampled_from(NUMBERS), bit=st.integers(0, 10**6))
def test_any_flipped_bit_is_refused(vectors: Path, number: str, bit: int) -> None:
    document, _, policy = genuine(vectors, number)
    assert not accepted(flip(document, bit), policy)


@modest
@given(
    number=st.sampled_from(NUMBERS), start=st.integers(0, 6000), end=st.integers(0, 6000), new=st.binary(max_size=40)
)
def test_any_splice_is_refused(vectors: Path, number: str, start: int, end: int, new: bytes) -> None:
    document, _, policy = genuine(vectors, number)
    edited = document[:start] + new + document[end:]
    if edited not in (document, b"\xd2" + document):
        assert not accepted(edited, policy)


@modest
@given(data=st.data(), number=st.sampled_from(NUMBERS), other=st.sampled_from(NUMBERS))
def test_any_changed_field_is_refused(vectors: Path, pki: Any, data: Any, number: str, other: str) -> None:
    """Re-encode the payload with a change, or with fields of another genuine document, under the old signature."""
    document, fields, policy = genuine(vectors, number)
    encode = type(pki).document.__globals__["cbor"]
    edited = dict(fields)
    for name in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
        match data.draw(st.integers(0, 6)):
            case 0:
                edited.pop(name, None)
            case 1:
                edited[name] = None
            case 2:
                edited[name] = genuine(vectors, other)[1][name]
            case 3 if isinstance(fields[name], bytes) and fields[name]:
                edited[name] = flip(fields[name], data.draw(st.integers(0, 10_000)))
            case 4:
                edited[name] = data.draw(st.binary(max_size=50) | st.text(max_size=9) | st.integers(0, 2**64 - 1))
            case 5:
                edited["pcrs"] = {**fields["pcrs"], data.draw(st.integers(0, 40)): data.draw(st.binary(max_size=49))}
            case _:
                bundle = list(fields["cabundle"])
                at = data.draw(st.integers(0, 3))
                bundle[at] = data.draw(st.sampled_from([flip(bundle[at], 2000), fields["certificate"], b"\x30\x00"]))
                edited["cabundle"] = data.draw(st.permutations(bundle))
    payload = encode(edited, indefinite=data.draw(st.booleans()))
    if payload == split(document).payload:
        return
    signature = split(document).signature
    assert not accepted(encode([bytes.fromhex("a1013822"), {}, payload, signature]), policy)


@modest
@given(document=st.binary(max_size=200))
def test_garbage_is_refused(document: bytes) -> None:
    policy = PcrPolicy(dict.fromkeys(range(3), b"x" * 48))
    assert not accepted(document, policy)
    assert not accepted(b"\x84\x44\xa1\x01\x38\x22\xa0" + document, policy)


@modest
@given(payload=st.binary(max_size=200))
def test_garbage_in_a_sound_envelope_is_refused(pki: Any, payload: bytes) -> None:
    policy = PcrPolicy(dict.fromkeys(range(3), b"x" * 48))
    assert not accepted(pki.document(payload=payload), policy)
    assert not accepted(pki.document(payload=b"\xbf" + payload + b"\xff"), policy)


@modest
@given(bit=st.integers(0, 10**6), place=st.integers(0, 4))
def test_flipped_bit_in_a_certificate_of_a_signed_document_is_refused(pki: Any, bit: int, place: int) -> None:
    """The holder of a leaf key can sign any payload; the chain must still be AWS's, bit for bit."""
    fields = pki.payload()
    if place == 4:
        changes: dict[str, Any] = {"certificate": flip(fields["certificate"], bit)}
    else:
        bundle = list(fields["cabundle"])
        bundle[place] = flip(bundle[place], bit)
        changes = {"cabundle": bundle}
    expected = PcrPolicy({i: fields["pcrs"][i] for i in range(3)})
    try:
        verify_archived_attestation(pki.document(**changes), expected=expected, anchors=[pki.anchor])
    except AttestationError:
        return
    raise AssertionError(f"accepted with bit {bit} of certificate {place} flipped")
