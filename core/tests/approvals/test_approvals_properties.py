"""Whatever a host makes of an approval: it verifies unchanged, or it is refused by one of the approval's codes."""

from __future__ import annotations

import pytest
from approval_cases import NOW, new_case, statement
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adytum_policy.approvals.authenticator_data import parse_authenticator_data
from adytum_policy.approvals.client_data import parse_client_data
from adytum_sim.passkeys import ED, UP, UV
from adytum_wire.errors import AdytumError, Code

CASE = new_case()
CODES = {code for code in Code if code.value.startswith("APPROVAL_")} - {Code.APPROVAL_COUNTER}
GENUINE = [make.approval(statement()) for make in (CASE.alice, CASE.es256, CASE.eddsa)]
PARTS = ("statement", "signature", "authenticator_data", "client_data", "credential_id", "public_key")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GENUINE), st.sampled_from(PARTS), st.integers(0, 600), st.binary(min_size=1, max_size=3))
def test_a_changed_byte_anywhere_is_refused(good: object, part: str, at: int, patch: bytes) -> None:
    from adytum_wire.approvals import Approval

    assert isinstance(good, Approval)
    holder = good if part == "statement" else good.proof
    if not hasattr(holder, part):
        return
    old: bytes = getattr(holder, part)
    at %= len(old)
    new = old[:at] + patch + old[at + len(patch) :]
    if new == old:
        return
    changed = (
        replace(good, statement=new) if part == "statement" else replace(good, proof=replace(holder, **{part: new}))
    )
    with pytest.raises(AdytumError) as caught:
        CASE.verify(changed)
    assert caught.value.code in CODES


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_signed_bytes_are_read_or_refused(data: bytes) -> None:
    """Properly signed rubbish in each place, so that the parsers see it."""
    text = statement(issued_at=NOW)
    for approval in (
        CASE.alice.approval(data),
        CASE.eddsa.approval(data),
        CASE.eddsa.approval(text, client_data=data),
        CASE.eddsa.approval(text, flags=UP | UV | ED, extensions=data),
    ):
        try:
            verified = CASE.verify(approval)
        except AdytumError as error:
            assert error.code in CODES
        else:
            assert verified.vote.principal_id == "alice"


@settings(max_examples=200, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_members_of_any_kind_are_tolerated(value: object) -> None:
    from adytum_sim.passkeys import client_data_json

    data = client_data_json(b"x", origin="https://a", members={"new in browsers": value})
    if len(data) <= 2048:
        assert parse_client_data(data).origin == "https://a"


@settings(max_examples=200, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=40) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
))  # fmt: skip
def test_extensions_of_another_cbor_writer_are_walked_to_their_end(value: object) -> None:
    cbor2 = pytest.importorskip("cbor2")
    encoded = cbor2.dumps({"ext": value})
    head = bytes(32) + bytes([UP | UV | ED]) + (7).to_bytes(4, "big")
    deep = _depth({"ext": value})
    if deep <= 4 and len(encoded) <= 900:
        assert parse_authenticator_data(head + encoded).counter == 7
    for wrong in (encoded + b"\0", encoded[:-1]):
        with pytest.raises(AdytumError):
            parse_authenticator_data(head + wrong)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(inner) for inner in value), default=0)
    return 0
