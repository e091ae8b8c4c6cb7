"""The frame codec: the layout byte by byte, every fault by its name, and properties over any split of any stream."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_wire import frames as frames_module
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.frames import HEADER_SIZE, Frame, FrameReader, Kind, encode_frame


def by_hand(
    payload: bytes = b"",
    *,
    magic: int = 0xAD70,
    version: int = 1,
    kind: int = 1,
    flags: int = 0,
    request_id: int = 7,
    deadline_ms: int = 500,
    length: int | None = None,
    crc: int | None = None,
) -> bytes:
    """A frame by the table in spec/wire.md, written without the code under test."""
    length = len(payload) if length is None else length
    head = (
        magic.to_bytes(2, "big")
        + bytes([version, kind])
        + flags.to_bytes(2, "big")
        + request_id.to_bytes(8, "big")
        + deadline_ms.to_bytes(4, "big")
        + length.to_bytes(4, "big")
    )
    crc = zlib.crc32(head + payload) if crc is None else crc
    return head + crc.to_bytes(4, "big") + payload


def outcome(pieces: list[bytes], expect: Kind = Kind.REQUEST) -> tuple[list[Frame], str | None, bool]:
    """What a reader makes of the pieces: frames, the field of the fault, and whether a frame is left incomplete."""
    reader = FrameReader(expect)
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames += reader.feed(piece)
        if reader.error is not None:
            reader.feed(b"")
    except AdytumError as error:
        assert error.code is Code.FRAME_INVALID
        return frames, error.field, reader.mid_frame
    return frames, None, reader.mid_frame


def test_the_layout_is_the_one_of_the_specification() -> None:
    assert HEADER_SIZE == 26
    assert encode_frame(Kind.REQUEST, 7, 500, b"hello") == by_hand(b"hello")
    assert encode_frame(Kind.REPLY, 2**64 - 1, 0, b"") == by_hand(kind=2, request_id=2**64 - 1, deadline_ms=0)


def test_a_known_frame() -> None:
    """Written down once, so that neither the code nor the other tests can drift together."""
    known = "ad70010100000000000000000001000003e800000006df89174561647974756d"
    assert encode_frame(Kind.REQUEST, 1, 1000, b"adytum").hex() == known


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (by_hand(magic=0xAD71), "magic"),
        (by_hand(version=2), "version"),
        (by_hand(version=0), "version"),
        (by_hand(kind=2, deadline_ms=0), "kind"),
        (by_hand(kind=3), "kind"),
        (by_hand(kind=0), "kind"),
        (by_hand(flags=1), "flags"),
        (by_hand(flags=0x8000), "flags"),
        (by_hand(request_id=0), "request_id"),
        (by_hand(length=limits.MAX_PAYLOAD + 1), "payload_length"),
        (by_hand(length=2**32 - 1), "payload_length"),
        (by_hand(b"x", crc=0), "crc32"),
    ],
)
def test_each_fault_of_a_request_has_its_name(frame: bytes, field: str) -> None:
    assert outcome([frame]) == ([], field, False)


def test_a_reply_with_a_deadline_is_refused_and_one_with_id_0_is_not() -> None:
    assert outcome([by_hand(kind=2, deadline_ms=1)], Kind.REPLY) == ([], "deadline_ms", False)
    assert outcome([by_hand(kind=2, deadline_ms=0, request_id=0)], Kind.REPLY)[0] == [Frame(0, 0, b"")]
    assert outcome([by_hand(kind=1, deadline_ms=0)], Kind.REPLY) == ([], "kind", False)


def test_a_length_over_the_limit_is_refused_from_the_header_alone() -> None:
    reader = FrameReader(Kind.REQUEST)
    with pytest.raises(AdytumError):
        reader.feed(by_hand(length=limits.MAX_PAYLOAD + 1)[:HEADER_SIZE])
    assert not reader.mid_frame  # nothing is held


def test_the_largest_payload_passes() -> None:
    frames, field, mid = outcome([encode_frame(Kind.REQUEST, 1, 1, bytes(limits.MAX_PAYLOAD))])
    assert (len(frames), field, mid) == (1, None, False)


def test_a_broken_stream_stays_broken() -> None:
    reader = FrameReader(Kind.REQUEST)
    for data in (by_hand(version=9), by_hand(), b""):
        with pytest.raises(AdytumError) as caught:
            reader.feed(data)
        assert (caught.value.code, caught.value.field) == (Code.FRAME_INVALID, "version")


def test_whole_frames_before_a_broken_one_are_not_lost() -> None:
    reader = FrameReader(Kind.REQUEST)
    frames = reader.feed(by_hand(b"good") + by_hand(b"bad", crc=1) + by_hand(b"never"))
    assert [frame.payload for frame in frames] == [b"good"]
    assert reader.error is not None
    with pytest.raises(AdytumError, match="crc32"):
        reader.feed(by_hand(b"never"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((Kind.REQUEST, 1, 1, bytes(limits.MAX_PAYLOAD + 1)), "payload_length"),
        ((Kind.REQUEST, 0, 1, b""), "request_id"),
        ((Kind.REPLY, 1, 1, b""), "deadline_ms"),
        ((Kind.REQUEST, 2**64, 1, b""), "request_id or deadline_ms"),
        ((Kind.REQUEST, -1, 1, b""), "request_id or deadline_ms"),
        ((Kind.REQUEST, 1, 2**32, b""), "request_id or deadline_ms"),
    ],
)
def test_what_the_peer_would_refuse_is_not_encoded(arguments: tuple[Kind, int, int, bytes], field: str) -> None:
    with pytest.raises(AdytumError) as caught:
        encode_frame(*arguments)
    assert (caught.value.code, caught.value.field) == (Code.FRAME_INVALID, field)


FRAMES = st.lists(
    st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=300)), min_size=1, max_size=12
)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(FRAMES, st.lists(st.integers(0, 2**16), max_size=40))
@settings(max_examples=150)
def test_any_split_gives_the_same_frames(frames: list[tuple[int, int, bytes]], places: list[int]) -> None:
    stream = b"".join(encode_frame(Kind.REQUEST, *frame) for frame in frames)
    assert outcome(cut(stream, places)) == ([Frame(*frame) for frame in frames], None, False)
    assert outcome([bytes([byte]) for byte in stream])[0] == [Frame(*frame) for frame in frames]


@given(FRAMES, st.lists(st.integers(0, 2**16), max_size=20), st.data())
@settings(max_examples=150)
def test_any_split_of_a_damaged_stream_gives_the_same_outcome(
    frames: list[tuple[int, int, bytes]], places: list[int], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(encode_frame(Kind.REQUEST, *frame) for frame in frames))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    assert outcome(cut(bytes(stream), places)) == outcome([bytes(stream)])


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=40))
@settings(max_examples=40)
def test_no_single_bit_flip_gives_a_frame(request_id: int, deadline_ms: int, payload: bytes) -> None:
    stream = encode_frame(Kind.REQUEST, request_id, deadline_ms, payload)
    for bit in range(8 * len(stream)):
        flipped = bytearray(stream)
        flipped[bit // 8] ^= 1 << bit % 8
        frames, field, mid = outcome([bytes(flipped)])
        assert frames == []
        # A length that grew makes the reader wait; the owner of the socket bounds that time.
        assert field is not None or (mid and 18 <= bit // 8 < 22)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_garbage_raises_the_one_error_or_waits(garbage: bytes) -> None:
    frames, _, _ = outcome([garbage])
    assert frames == []


def test_truncation_attack_gives_no_frame() -> None:
    stream = encode_frame(Kind.REQUEST, 1, 1, b"payload")
    for end in range(1, len(stream)):
        assert outcome([stream[:end]]) == ([], None, True)


@pytest.mark.parametrize("view", [memoryview, bytearray])
def test_other_buffers_are_read_and_not_kept(view: type) -> None:
    data = bytearray(by_hand(b"abc"))
    reader = FrameReader(Kind.REQUEST)
    frames = reader.feed(memoryview(data)[:-1]) + reader.feed(view(data[-1:]))
    data[:] = bytes(len(data))
    assert [frame.payload for frame in frames] == [b"abc"]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_slow_drip_attack_does_not_make_the_reader_look_again_and_again(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each look at held bytes copies them: a frame that drips must be looked at twice, not once a byte."""

    class Counting:
        looks = 0

        def unpack_from(self, data: bytes, position: int) -> tuple[object, ...]:
            self.looks += 1
            return struct.unpack_from(">6sQIII", data, position)

    monkeypatch.setattr(frames_module, "_HEADER", counting := Counting())
    stream = b"".join(encode_frame(Kind.REQUEST, number, 1, bytes(20_000)) for number in range(1, 4))
    frames, _, _ = outcome([stream[position : position + step] for position in range(0, len(stream), step)])
    assert len(frames) == 3
    assert counting.looks <= 2 * 3


def test_the_header_struct_has_no_padding() -> None:
    assert struct.calcsize(">6sQIII") == HEADER_SIZE
