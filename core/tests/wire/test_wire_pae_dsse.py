"""Pre-authentication encoding and DSSE envelopes, against the vector of the DSSE specification."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from adytum_wire import dsse
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import POLICY, RECEIPT_HEAD, REQUEST, pae

# https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, "Test Vectors"
DSSE_TYPE, DSSE_PAYLOAD = "http://example.com/HelloWorld", b"hello world"
DSSE_PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
DSSE_KEY = (
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
)
DSSE_SIG = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="


def test_the_vector_of_the_specification() -> None:
    assert pae(DSSE_TYPE, DSSE_PAYLOAD) == DSSE_PAE


def test_the_vectors_signature_holds_over_our_bytes() -> None:
    key = ec.EllipticCurvePublicNumbers(*DSSE_KEY, ec.SECP256R1()).public_key()
    raw = base64.b64decode(DSSE_SIG)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key.verify(utils.encode_dss_signature(r, s), pae(DSSE_TYPE, DSSE_PAYLOAD), ec.ECDSA(SHA256()))


def test_lengths_are_of_bytes() -> None:
    assert pae("é", b"\xff") == b"DSSEv1 2 \xc3\xa9 1 \xff"
    assert pae("", b"") == b"DSSEv1 0  0 "


@given(st.text(max_size=20), st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40))
def test_two_pairs_never_share_an_encoding(type1: str, data1: bytes, type2: str, data2: bytes) -> None:
    assert (pae(type1, data1) == pae(type2, data2)) == ((type1, data1) == (type2, data2))


def test_our_types_differ() -> None:
    assert len({REQUEST, POLICY, RECEIPT_HEAD}) == 3


def parse(data: bytes, payload_type: str = POLICY) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    return dsse.parse(data, payload_type, limit=10_000, code=Code.POLICY_INVALID)


@given(st.binary(max_size=60), st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80)), max_size=4))
def test_envelopes_go_round(payload: bytes, signatures: list[tuple[bytes, bytes]]) -> None:
    assert parse(dsse.build(POLICY, payload, signatures)) == (payload, signatures)


def test_the_field_names_are_those_of_dsse() -> None:
    envelope = json.loads(dsse.build(POLICY, b"p", [(b"\xab", b"s")]))
    assert envelope == {"payloadType": POLICY, "payload": "cA==", "signatures": [{"keyid": "ab", "sig": "cw=="}]}


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("payloadType",), REQUEST, "$.payloadType"),
        (("payloadType",), POLICY + " ", "$.payloadType"),
        (("payload",), "c", "$.payload"),
        (("payload",), "cA", "$.payload"),
        (("payload",), "cA==\n", "$.payload"),
        (("payload",), "c_A=", "$.payload"),
        (("payload",), "é", "$.payload"),
        (("signatures", 0, "sig"), "!", "$.signatures[...].sig"),
        (("signatures", 0, "keyid"), "AB", "$.signatures[0].keyid"),
        (("signatures", 0, "keyid"), "a", "$.signatures[0].keyid"),
        (("signatures", 0, "extra"), "", "$.signatures[0]"),
        (("signatures",), [{"keyid": "", "sig": ""}] * 65, "$.signatures"),
        (("extra",), 1, "$"),
    ],
)
def test_malformed_envelopes(path: tuple[Any, ...], value: Any, field: str) -> None:
    envelope = json.loads(dsse.build(POLICY, b"p", [(b"\xab", b"s")]))
    target = envelope
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(AdytumError) as caught:
        parse(json.dumps(envelope).encode())
    assert (caught.value.code, caught.value.field) == (Code.POLICY_INVALID, field)


@given(st.binary(max_size=120))
def test_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        parse(data)
    assert caught.value.code is Code.POLICY_INVALID
