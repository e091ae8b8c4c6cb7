"""The NSM's CBOR: RFC 8949's own examples, what other decoders let through, and genuine documents."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.shell import cbor

# RFC 8949, appendix A: the rows within our subset
RFC8949 = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1_000_000),
    ("1b000000e8d4a51000", 1_000_000_000_000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\x01\x02\x03\x04"),
    ("60", ""),
    ("62c3bc", "\u00fc"),
    ("80", []),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
]


@pytest.mark.parametrize(("encoded", "value"), RFC8949)
def test_rfc_8949_examples_both_ways(encoded: str, value: object) -> None:
    decoded = cbor.decode(bytes.fromhex(encoded))
    assert decoded == value and type(decoded) is type(value)
    assert cbor.encode(value).hex() == encoded  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "encoded", ["9fff", "9f018202039f0405ffff", "bf61610161629f0203ffff", "bfff", "1817", "1a00000001"]
)
def test_indefinite_containers_and_long_integers_are_read(encoded: str) -> None:
    cbor.decode(bytes.fromhex(encoded))


@pytest.mark.parametrize(
    ("what", "encoded"),
    [
        ("nothing", ""),
        ("trailing bytes", "0000"),
        ("a duplicate key", "a2616101616102"),
        ("a duplicate key in another width", "a200011800 02".replace(" ", "")),
        ("a key that is a boolean", "a1f501"),
        ("a key that is bytes", "a1416101"),
        ("a key that is an array", "a18001"),
        ("a negative integer", "20"),
        ("a tag", "c074323031332d30332d32315432303a30343a30305a"),
        ("a float", "f93c00"),
        ("undefined", "f7"),
        ("a one-byte simple value", "f814"),
        ("an indefinite byte string", "5f42010243030405ff"),
        ("an indefinite text string", "7f657374726561646d696e67ff"),
        ("a break alone", "ff"),
        ("a break for a value", "bf6161ff"),
        ("an array without its break", "9f01"),
        ("a reserved length", "1c"),
        ("a huge byte string", "5bffffffffffffffff"),
        ("a huge array", "9bffffffffffffffff"),
        ("a huge map", "bbffffffffffffffff"),
        ("text that is not UTF-8", "61ff"),
        ("too deep", "81" * 8 + "00"),
        ("too deep, indefinite", "9f" * 3000),
    ],
)
def test_what_other_decoders_let_through_is_refused(what: str, encoded: str) -> None:
    with pytest.raises(cbor.CborError):
        cbor.decode(bytes.fromhex(encoded))


def test_sizes_are_bounded() -> None:
    cbor.decode(cbor.encode(bytes(16 * 1024 - 3)))
    with pytest.raises(cbor.CborError):
        cbor.decode(cbor.encode(bytes(16 * 1024 - 2)))


@pytest.mark.parametrize("value", [-1, 1 << 64, 1.5, object(), bytearray(), {b"k": -1}])
def test_only_its_own_types_are_encoded(value: object) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)  # type: ignore[arg-type]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(2, 99), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES)
def test_what_is_encoded_is_read_back(value: cbor.Value) -> None:
    encoded = cbor.encode(value)
    try:
        assert cbor.decode(encoded) == value
    except cbor.CborError as error:
        assert str(error) == "too deep"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_decodes_or_raises_the_one_error(data: bytes) -> None:
    with contextlib.suppress(cbor.CborError):
        cbor.decode(data)
