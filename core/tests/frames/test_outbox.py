"""The outbox: order and bytes are kept, no send() is too large, small frames leave together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_wire import limits
from adytum_wire.outbox import Outbox


@given(st.lists(st.one_of(st.integers(0, 100), st.integers(0, 100_000)), max_size=8), st.data())
@settings(max_examples=100)
def test_any_socket_gets_the_bytes_in_order_in_slices(sizes: list[int], data: st.DataObject) -> None:
    outbox, got, want = Outbox(), bytearray(), bytearray()
    takes = st.one_of(st.just(-1), st.integers(0, limits.SLICE))  # -1: would block

    def send(piece: memoryview) -> int:
        assert 0 < len(piece) <= limits.SLICE
        take = data.draw(takes)
        if take < 0:
            raise BlockingIOError
        got.extend(piece[:take])
        return min(take, len(piece))

    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        want += piece
        outbox.put(piece)
        done = outbox.flush(send)
        assert done == (outbox.unsent == 0)
        assert len(got) + outbox.unsent == len(want)
        assert outbox.sent == len(got)
    while not outbox.flush(lambda piece: got.extend(piece) or len(piece)):
        pass
    assert got == want


def test_small_frames_leave_in_one_send() -> None:
    outbox, sizes = Outbox(), []
    for _ in range(100):
        outbox.put(b"x" * 50)
    assert outbox.flush(lambda piece: sizes.append(len(piece)) or len(piece))
    assert sizes == [5000]


def test_a_lost_connection_is_reported() -> None:
    outbox = Outbox()
    outbox.put(b"x")

    def send(_piece: memoryview) -> int:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        outbox.flush(send)


def test_nothing_to_send_calls_nothing() -> None:
    assert Outbox().flush(lambda _piece: pytest.fail("called"))
