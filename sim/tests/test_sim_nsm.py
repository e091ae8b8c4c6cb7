"""The NSM's semantics, as AWS's own nsm-check program expects them of the hardware."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_sim.nsm import SimNsm, cbor, extend, measured_text
from adytum_sim.pki import DevPki
from adytum_verify import AttestationError, authenticate_document, parse_unverified

NOW = 1_790_000_000_000
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
ROLE = "arn:aws:iam::111122223333:role/adytum-enclave"
IMAGE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
PKI = DevPki.create(NOW)


@pytest.fixture
def nsm() -> SimNsm:
    return SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW, parent_role=ROLE)


def ask(nsm: SimNsm, request: object) -> Any:
    return cbor.decode(nsm.request(request if isinstance(request, bytes) else cbor.encode(request)))


def error(code: str) -> dict[str, str]:
    return {"Error": code}


def test_the_requests_bytes_are_those_of_the_rust_library(nsm: SimNsm) -> None:
    described = ask(nsm, bytes.fromhex("6b44657363726962654e534d"))["DescribeNSM"]
    assert described["max_pcrs"] == 32
    assert described["locked_pcrs"] == list(range(16))
    assert described["digest"] == "SHA384"
    assert described["module_id"] == MODULE_ID
    assert ask(nsm, bytes.fromhex("a16b4465736372696265504352a165696e64657800")) == {
        "DescribePCR": {"lock": True, "data": IMAGE[0]}
    }
    extended = ask(nsm, bytes.fromhex("a169457874656e64504352a265696e64657810646461746143010203"))
    assert extended["ExtendPCR"]["data"].hex().startswith("cb178fcd3f32")
    assert extended["ExtendPCR"]["data"].hex().endswith("650694e")
    assert nsm.request(bytes.fromhex("a1674c6f636b504352a165696e64657810")) == b"\x67LockPCR"
    assert nsm.request(bytes.fromhex("a1684c6f636b50435273a16572616e67651820")) == b"\x68LockPCRs"


def test_random_starts_as_the_kernel_driver_requires_and_never_repeats(nsm: SimNsm) -> None:
    answers = {nsm.request(bytes.fromhex("6947657452616e646f6d")) for _ in range(8)}
    assert len(answers) == 8
    for answer in answers:
        assert answer.startswith(b"\xa1\x69GetRandom\xa1\x66random")
        assert len(cbor.decode(answer)["GetRandom"]["random"]) == 256  # type: ignore[index, call-overload, arg-type]


def test_pcr3_and_pcr4_measure_the_parent(nsm: SimNsm) -> None:
    assert ask(nsm, {"DescribePCR": {"index": 4}})["DescribePCR"]["data"] == measured_text("i-0123456789abcdef0")
    assert ask(nsm, {"DescribePCR": {"index": 3}})["DescribePCR"]["data"] == measured_text(ROLE)
    assert measured_text("x") == hashlib.sha384(bytes(48) + b"x").digest()


def test_the_boot_pcrs_cannot_be_extended_or_locked_again(nsm: SimNsm) -> None:
    for index in range(16):
        assert ask(nsm, {"ExtendPCR": {"index": index, "data": b"x"}}) == error("ReadOnlyIndex")
        assert ask(nsm, {"LockPCR": {"index": index}}) == error("ReadOnlyIndex")
    assert ask(nsm, {"DescribePCR": {"index": 0}})["DescribePCR"]["data"] == IMAGE[0]


def test_extends_chain_until_the_pcr_is_locked(nsm: SimNsm) -> None:
    first = ask(nsm, {"ExtendPCR": {"index": 17, "data": b"one"}})["ExtendPCR"]["data"]
    second = ask(nsm, {"ExtendPCR": {"index": 17, "data": b"two"}})["ExtendPCR"]["data"]
    assert second == extend(extend(bytes(48), b"one"), b"two") != first
    assert ask(nsm, {"DescribePCR": {"index": 17}}) == {"DescribePCR": {"lock": False, "data": second}}
    assert ask(nsm, {"LockPCR": {"index": 17}}) == "LockPCR"
    assert ask(nsm, {"LockPCR": {"index": 17}}) == error("ReadOnlyIndex")
    assert ask(nsm, {"ExtendPCR": {"index": 17, "data": b"three"}}) == error("ReadOnlyIndex")
    assert ask(nsm, {"DescribePCR": {"index": 17}}) == {"DescribePCR": {"lock": True, "data": second}}


def test_a_range_may_be_locked_over_locked_ones(nsm: SimNsm) -> None:
    assert ask(nsm, {"LockPCRs": {"range": 8}}) == "LockPCRs"
    assert ask(nsm, {"LockPCRs": {"range": 20}}) == "LockPCRs"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))
    assert ask(nsm, {"LockPCRs": {"range": 33}}) == error("InvalidIndex")
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))


@pytest.mark.parametrize("operation", ["DescribePCR", "ExtendPCR", "LockPCR"])
@pytest.mark.parametrize("index", [32, 33, 256, 65536])
def test_there_are_thirty_two_pcrs(nsm: SimNsm, operation: str, index: int) -> None:
    more = {"data": b""} if operation == "ExtendPCR" else {}
    assert ask(nsm, {operation: {"index": index} | more}) == error("InvalidIndex")


def test_an_index_may_be_written_in_any_width(nsm: SimNsm) -> None:
    wide = bytes.fromhex("a16b4465736372696265504352a165696e6465781b0000000000000001")
    assert ask(nsm, wide)["DescribePCR"]["data"] == IMAGE[1]


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\xff",
        b"\x6bDescribeNSM\x00",
        "Reboot",
        {"Reboot": {}},
        {"DescribePCR": {}},
        {"DescribePCR": {"index": "0"}},
        {"DescribePCR": {"index": True}},
        {"DescribePCR": {"index": 0, "more": 1}},
        {"ExtendPCR": {"index": 16, "data": "text"}},
        {"LockPCR": {"index": 16}, "LockPCRs": {"range": 32}},
        {"Attestation": {"certificate": b""}},
        {"GetRandom": {}},
        [],
    ],
)
def test_what_is_no_request_changes_nothing(nsm: SimNsm, request_: object) -> None:
    assert ask(nsm, request_) == error("InvalidOperation")
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(16))


def test_a_request_of_more_than_4096_bytes_is_too_large(nsm: SimNsm) -> None:
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": bytes(4096)}}) == error("InputTooLarge")
    assert ask(nsm, {"DescribePCR": {"index": 16}})["DescribePCR"]["data"] == bytes(48)


@pytest.mark.parametrize(("field", "limit"), [("user_data", 512), ("nonce", 512), ("public_key", 1024)])
def test_the_fields_of_a_document_have_limits(
    nsm: SimNsm, field: str, limit: int, attest_with: Callable[..., bytes]
) -> None:
    document = parse_unverified(attest_with(nsm, **{field: b"\x5a" * limit}))
    assert getattr(document, field) == b"\x5a" * limit
    fields = {"user_data": None, "nonce": None, "public_key": None, field: bytes(limit + 1)}
    assert ask(nsm, {"Attestation": fields}) == error("InputTooLarge")
    assert ask(nsm, {"Attestation": fields | {field: "text"}}) == error("InvalidArgument")


@pytest.mark.parametrize("encoding", ["indefinite", "definite"])
def test_documents_verify_and_show_locked_pcrs_only(encoding: Any, attest_with: Callable[..., bytes]) -> None:
    nsm = SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW, payload_encoding=encoding)
    ask(nsm, {"ExtendPCR": {"index": 16, "data": b"manifest"}})
    before = authenticate_document(attest_with(nsm, nonce=b"n"), anchors=[PKI.anchor], now_ms=NOW)
    assert sorted(before.pcrs) == list(range(16))
    ask(nsm, {"LockPCR": {"index": 16}})
    after = authenticate_document(attest_with(nsm, user_data=b"", nonce=b"n"), anchors=[PKI.anchor], now_ms=NOW)
    assert after.pcrs[16] == extend(bytes(48), b"manifest")
    assert (after.user_data, after.nonce, after.public_key) == (b"", b"n", None)
    assert (after.module_id, after.timestamp_ms) == (MODULE_ID, NOW)


def test_the_two_payload_encodings_differ_as_the_hardware_did(attest_with: Callable[..., bytes]) -> None:
    for encoding, first in (("indefinite", 0xBF), ("definite", 0xA9)):
        nsm = SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW, payload_encoding=encoding)  # type: ignore[arg-type]
        document = attest_with(nsm)
        assert document.startswith(bytes.fromhex("8444a1013822a059"))
        assert document[10] == first
        assert document[-98:-96] == b"\x58\x60"


def test_debug_mode_zeroes_the_image_and_nothing_else(attest_with: Callable[..., bytes]) -> None:
    nsm = SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW, parent_role=ROLE, debug=True)
    document = authenticate_document(attest_with(nsm), anchors=[PKI.anchor], now_ms=NOW)
    assert [document.pcrs[i] for i in (0, 1, 2)] == [bytes(48)] * 3
    assert document.pcrs[3] == measured_text(ROLE)
    assert document.pcrs[4] == measured_text("i-0123456789abcdef0")


def test_a_document_dies_with_its_leaf(attest_with: Callable[..., bytes]) -> None:
    nsm = SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW)
    document = attest_with(nsm)
    authenticate_document(document, anchors=[PKI.anchor], now_ms=NOW + 3 * 3_600_000 - 1000)
    with pytest.raises(AttestationError):
        authenticate_document(document, anchors=[PKI.anchor], now_ms=NOW + 3 * 3_600_000 + 1000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((1 + _depth(item) for item in inner), default=0)


@given(VALUES.filter(lambda value: _depth(value) <= cbor.MAX_DEPTH))
def test_cbor_reads_what_it_writes(value: Any) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_answered(data: bytes) -> None:
    nsm = SimNsm(PKI, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=lambda: NOW)
    assert cbor.decode(nsm.request(data)) is not None
    assert ask(nsm, {"DescribePCR": {"index": 0}})["DescribePCR"]["data"] == IMAGE[0]


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_cbor_raises_one_error_for_any_bytes(data: bytes) -> None:
    with contextlib.suppress(cbor.CborError):
        cbor.decode(data)
