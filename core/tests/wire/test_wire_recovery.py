"""Recovery envelopes on the wire: what parses re-encodes to the same bytes, and sizes fit together."""

from __future__ import annotations

import math
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_wire.errors import AdytumError, Code
from adytum_wire.recovery import (
    RecoveryEnvelope,
    encode_recovery,
    is_small_enough,
    layer_info,
    parse_recovery,
    share_size,
    subsets,
)


def envelope(holders: int = 3, threshold: int = 2) -> RecoveryEnvelope:
    return RecoveryEnvelope(
        header=b'{"v":1}',
        threshold=threshold,
        keys=tuple(os.urandom(32) for _ in range(holders)),
        sealed=os.urandom(92),
        shares=tuple(os.urandom(share_size(threshold)) for _ in subsets(holders, threshold)),
    )


def test_what_is_written_is_read() -> None:
    for holders, threshold in ((2, 2), (5, 3), (10, 7), (16, 2)):
        made = envelope(holders, threshold)
        assert parse_recovery(encode_recovery(made)) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 3},
        {"threshold": 1},
        {"keys": ()},
        {"shares": ()},
        {"shares": (b"x",) * 3},
        {"header": b""},
        {"keys": (b"\1" * 32,) * 3},
        {"keys": (b"\1" * 31, b"\2" * 32, b"\3" * 32)},
        {"sealed": bytes(17_000)},
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, object]) -> None:
    with pytest.raises(AdytumError) as caught:
        parse_recovery(encode_recovery(msgspec.structs.replace(envelope(), **changes)))
    assert caught.value.code is Code.RECORD_INVALID


def test_another_encoding_of_the_same_is_refused() -> None:
    fields = msgspec.msgpack.decode(encode_recovery(envelope()))
    for other in (dict(reversed(fields.items())), fields | {"more": 1}, {k: v for k, v in fields.items() if k != "v"}):
        with pytest.raises(AdytumError):
            parse_recovery(msgspec.msgpack.encode(other))


@given(st.binary(max_size=400))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        parse_recovery(data)
    except AdytumError as error:
        assert error.code is Code.RECORD_INVALID


@given(st.integers(2, 16), st.integers(2, 16))
def test_what_is_small_enough_is_bounded(holders: int, threshold: int) -> None:
    if threshold > holders:
        return
    if is_small_enough(holders, threshold):
        assert math.comb(holders, threshold) <= 120
        assert len(subsets(holders, threshold)) * share_size(threshold) <= 48 * 1024


def test_no_two_layers_have_the_same_info() -> None:
    header = b"header"
    infos = [layer_info(header, holders, layer) for holders in subsets(5, 3) for layer in range(3)]
    assert len(set(infos)) == len(infos)
    assert layer_info(b"other", (0, 1), 0) != layer_info(header, (0, 1), 0)
