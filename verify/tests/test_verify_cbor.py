"""The CBOR subset: RFC 8949 appendix A, everything outside the subset refused, and round trips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adytum_verify.cbor import MAX_DEPTH, CborError, Reader, read_all

# RFC 8949, appendix A, as far as it lies in the subset
APPENDIX_A: list[tuple[str, Any]] = [
    ("00", 0),
    ("01", 1),
    ("0a", 10),
    ("17", 23),
    ("1818", 24),
    ("1819", 25),
    ("1864", 100),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1b000000e8d4a51000", 1000000000000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\1\2\3\4"),
    ("60", ""),
    ("6161", "a"),
    ("6449455446", "IETF"),
    ("62225c", '"\\'),
    ("62c3bc", "\u00fc"),
    ("63e6b0b4", "\u6c34"),
    ("64f0908591", "\U00010151"),
    ("80", []),
    ("83010203", [1, 2, 3]),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26))),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("826161a161626163", ["a", {"b": "c"}]),
]
# RFC 8949, appendix A and F, outside the subset
REFUSED = [
    ("20", "negative"),
    ("3903e7", "negative"),
    ("c249010000000000000000", "bignum"),
    ("c074323031332d30332d32315432303a30343a30305a", "tag 0"),
    ("d818456449455446", "tag 24"),
    ("f4", "false"),
    ("f5", "true"),
    ("f7", "undefined"),
    ("f90000", "half float"),
    ("fa47c35000", "float"),
    ("fb3ff199999999999a", "double"),
    ("f0", "simple 16"),
    ("f8ff", "simple 255"),
    ("5f42010243030405ff", "indefinite bytes"),
    ("7f657374726561646d696e67ff", "indefinite text"),
    ("9fff", "indefinite array"),
    ("bfff", "indefinite map where none is allowed"),
    ("1817", "23 in two bytes"),
    ("190018", "24 in three bytes"),
    ("1a0000ffff", "65535 in five bytes"),
    ("1b00000000ffffffff", "2^32 - 1 in nine bytes"),
    ("5801ff", "length 1 in two bytes"),
    ("1c", "reserved 28"),
    ("1d", "reserved 29"),
    ("1e", "reserved 30"),
    ("1f", "reserved 31"),
    ("ff", "break"),
    ("", "nothing"),
    ("18", "truncated argument"),
    ("4401020", "truncated"),
    ("61", "truncated text"),
    ("8201", "truncated array"),
    ("a101", "truncated map"),
    ("0000", "trailing byte"),
    ("f6f6", "two items"),
    ("62c328", "not UTF-8"),
    ("63eda080", "a surrogate"),
    ("a201020103", "duplicate integer key"),
    ("a2616101616102", "duplicate text key"),
    ("a1410001", "byte string as key"),
    ("a1f601", "null as key"),
    ("a1800001", "array as key"),
    ("a12001", "negative key"),
    ("5b7fffffffffffffff", "2^63 bytes"),
    ("9bffffffffffffffff", "2^64 elements"),
    ("bbffffffffffffffff", "2^64 pairs"),
]


@pytest.mark.parametrize(("encoded", "value"), APPENDIX_A)
def test_rfc_8949_appendix_a(encoded: str, value: Any) -> None:
    found = read_all(bytes.fromhex(encoded))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("encoded", "why"), REFUSED)
def test_outside_the_subset_is_refused(encoded: str, why: str) -> None:
    with pytest.raises(CborError):
        read_all(bytes.fromhex(encoded + "0" * (len(encoded) % 2)))


def test_indefinite_length_only_for_the_outermost_map() -> None:
    assert read_all(bytes.fromhex("bf616101616202ff"), indefinite_map=True) == {"a": 1, "b": 2}
    assert read_all(bytes.fromhex("bfff"), indefinite_map=True) == {}
    for inner in ("bf6161bfffff", "a16161bfff", "81bfff"):
        with pytest.raises(CborError):
            read_all(bytes.fromhex(inner), indefinite_map=True)
    for broken in ("bf", "bf6161", "bf616101", "bf61616161ffff", "bf6161ff", "bf616101616102ff"):
        with pytest.raises(CborError):
            read_all(bytes.fromhex(broken), indefinite_map=True)


def test_depth_is_bounded() -> None:
    read_all(b"\x81" * MAX_DEPTH + b"\x00")
    with pytest.raises(CborError):
        read_all(b"\x81" * (MAX_DEPTH + 1) + b"\x00")
    with pytest.raises(CborError):
        read_all(b"\x81" * 10_000 + b"\x00")


def test_reader_checks_types() -> None:
    with pytest.raises(CborError):
        Reader(b"\x61a").byte_string()
    with pytest.raises(CborError):
        Reader(b"").peek()


def encoder(pki: Any) -> Callable[..., bytes]:
    return type(pki).document.__globals__["cbor"]  # type: ignore[no-any-return]


leaves = st.none() | st.integers(0, 2**64 - 1) | st.binary(max_size=70) | st.text(max_size=30)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 300) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


@given(value=values)
def test_what_another_encoder_writes_reads_back(pki: Any, value: Any) -> None:
    encoded = encoder(pki)(value)
    if depth(value) > MAX_DEPTH:
        return
    assert read_all(encoded) == value


@given(data=st.binary(max_size=80))
@example(data=b"\xbf\x61a\xf6\xff")
def test_garbage_reads_canonically_or_is_refused(pki: Any, data: bytes) -> None:
    """One reading: whatever reads is what our other encoder would have written."""
    try:
        value = read_all(data)
    except CborError:
        return
    assert encoder(pki)(value) == data
