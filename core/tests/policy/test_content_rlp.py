"""RLP against pyrlp (`rlp` on PyPI), and the strictness that signing needs."""

from __future__ import annotations

import pytest
import rlp as oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adytum_policy.content import rlp

ITEMS = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=6), max_leaves=12).filter(
    lambda item: _depth(item) <= rlp.MAX_DEPTH
)


def _depth(item: rlp.Item) -> int:
    return 0 if isinstance(item, bytes) else 1 + max(map(_depth, item), default=0)


@given(ITEMS)
def test_encoding_agrees_with_pyrlp_and_decodes_to_the_same(item: rlp.Item) -> None:
    encoded = rlp.encode(item)
    assert encoded == oracle.encode(item)
    assert rlp.decode(encoded) == item


@settings(max_examples=400)
@example(b"\x81\x7f")
@example(b"\xb8\x01\x00")
@example(b"\xc1")
@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from(b"\x00\x01\x7f\x80\x81\xb7\xb8\xbf\xc0\xc1\xf7\xf8\xff"), max_size=80).map(bytes)
)
def test_what_decodes_is_canonical_and_what_pyrlp_refuses_we_refuse(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except rlp.RlpError:
        item = None
    try:
        theirs = _plain(oracle.decode(data, strict=True))
    except (oracle.DecodingError, RecursionError):
        theirs = None
    if item is None:
        assert theirs is None or _depth(theirs) > rlp.MAX_DEPTH
    else:
        assert item == theirs
        assert rlp.encode(item) == data


def _plain(item: object) -> rlp.Item:
    return bytes(item) if isinstance(item, (bytes, bytearray)) else [_plain(part) for part in item]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "",  # nothing
        "8100",  # a small byte with a prefix
        "817f",
        "b800",  # long form of an empty string
        "b837" + "00" * 55,  # long form of 55 bytes
        "b90038" + "00" * 56,  # length with a leading zero
        "b8",  # length cut off
        "b9ff",
        "b838" + "00" * 55,  # payload cut off
        "bfffffffffffffffff",  # length of 2**64 - 1
        "c100c0"[:2],  # list cut off
        "c0c0",  # trailing item
        "0000",
        "c281",  # an item that reaches out of its list
        "c28100",  # non-canonical inside a list
        "f800",
        "f837" + "00" * 55,
        "c5c4c3c2c1c0",  # five deep
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(rlp.RlpError):
        rlp.decode(bytes.fromhex(text))


def test_an_item_may_not_reach_out_of_its_list() -> None:
    """Enough bytes follow, but they belong to the next item."""
    with pytest.raises(rlp.RlpError):
        rlp.decode(bytes.fromhex("c6c283616263c0"[:14]))


def test_depth_is_bounded_before_recursion_is_a_problem() -> None:
    with pytest.raises(rlp.RlpError):
        rlp.decode(b"\xc1" * 20_000 + b"\xc0")
    nested: rlp.Item = b""
    for _ in range(200):
        nested = [nested]
    with pytest.raises(rlp.RlpError):
        rlp.decode(oracle.encode(nested))


@given(st.integers(0, 2**300))
def test_integers(value: int) -> None:
    assert rlp.encode(rlp.encode_int(value)) == oracle.encode(value)
