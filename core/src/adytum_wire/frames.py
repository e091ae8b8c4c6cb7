"""Frames: how messages travel on one byte stream between host and enclave (spec/wire.md, sections 1 and 2).

A frame is a header of 26 bytes, big-endian, and a payload:

    offset  size  field
    0       2     magic           0xAD70
    2       1     version         1
    3       1     kind            1 request, 2 reply
    4       2     flags           0
    6       8     request id      1 and up; 0 only in a reply, where it speaks of the whole connection
    14      4     deadline        milliseconds that the sender will still wait; 0 in a reply
    18      4     payload length  bytes, at most `limits.MAX_PAYLOAD`
    22      4     CRC-32          zlib.crc32 of bytes 0 to 21 and then the payload

The CRC is no defence against an adversary; it is there because some kernels corrupt large vsock writes silently, and a
corrupted request must be an error, not a wrong signature.

This module does no I/O and keeps no time: the owner of the socket bounds how long a frame may take, by `mid_frame`.

>>> reader = FrameReader(Kind.REQUEST)
>>> [frame.payload for frame in reader.feed(encode_frame(Kind.REQUEST, 1, 500, b"hello"))]
[b'hello']
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final
from zlib import crc32

from msgspec import Struct

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

MAGIC: Final = 0xAD70
VERSION: Final = 1
HEADER_SIZE: Final = 26
_CHECKED_SIZE: Final = 22  # the header without its CRC


class Kind(IntEnum):
    REQUEST = 1
    REPLY = 2


class Frame(Struct, frozen=True, gc=False):
    """One frame whose CRC held. `deadline_ms` is 0 in replies."""

    request_id: int
    deadline_ms: int
    payload: bytes


_PREFIX = struct.Struct(">HBBH")  # magic, version, kind, flags
_CHECKED = struct.Struct(">6sQII")  # prefix, request id, deadline, payload length
_HEADER = struct.Struct(">6sQIII")  # the same and the CRC
_PREFIXES: dict[int, bytes] = {kind: _PREFIX.pack(MAGIC, VERSION, kind, 0) for kind in (1, 2)}


def encode_frame(kind: Kind, request_id: int, deadline_ms: int, payload: bytes) -> bytes:
    """Return the frame's bytes.

    `request_id` is an unsigned 64-bit, `deadline_ms` an unsigned 32-bit number, `payload` at most `limits.MAX_PAYLOAD`
    bytes. Errors: FRAME_INVALID for anything that the other side would refuse.
    """
    if len(payload) > limits.MAX_PAYLOAD:
        raise AdytumError(Code.FRAME_INVALID, "payload_length")
    if request_id == 0 and kind == Kind.REQUEST:
        raise AdytumError(Code.FRAME_INVALID, "request_id")
    if deadline_ms != 0 and kind == Kind.REPLY:
        raise AdytumError(Code.FRAME_INVALID, "deadline_ms")
    try:
        head = _CHECKED.pack(_PREFIXES[kind], request_id, deadline_ms, len(payload))
    except struct.error:
        raise AdytumError(Code.FRAME_INVALID, "request_id or deadline_ms") from None
    return b"".join((head, crc32(payload, crc32(head)).to_bytes(4, "big"), payload))


class FrameReader:
    """Cuts a byte stream into frames of one kind, and stops for good at the first broken one.

    Memory: at most one incomplete frame and the bytes of one `feed`. Work: linear in the bytes, however they are split.
    """

    __slots__ = ("_error_field", "_expect", "_held", "_is_reply", "_need")

    def __init__(self, expect: Kind) -> None:
        self._expect = _PREFIXES[expect]
        self._is_reply = expect == Kind.REPLY
        self._held = bytearray()  # the beginning of a frame that is not complete
        self._need = HEADER_SIZE  # how many bytes must be held before another look is worth it
        self._error_field: str | None = None

    @property
    def mid_frame(self) -> bool:
        """True when a frame has begun and is not complete."""
        return bool(self._held)

    @property
    def error(self) -> AdytumError | None:
        """What broke the stream, or None. A caller that got frames looks here before it reads on."""
        return None if self._error_field is None else AdytumError(Code.FRAME_INVALID, self._error_field)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Take the next bytes of the stream and return the frames that they complete, in order.

        Errors: FRAME_INVALID, whose field names the part of the header, at the first broken frame and at every call
        after it. Whole frames that came in the same bytes before the broken one are not lost: they are returned,
        `error` is set, and the next call raises. Thus the result does not depend on how the stream was split.
        """
        if self._error_field is not None:
            raise AdytumError(Code.FRAME_INVALID, self._error_field)
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return []
            data = bytes(held)
            held.clear()
        elif type(data) is not bytes:
            data = bytes(data)
        frames: list[Frame] = []
        expect, size, position, need = self._expect, len(data), 0, HEADER_SIZE
        while size - position >= HEADER_SIZE:
            prefix, request_id, deadline_ms, length, crc = _HEADER.unpack_from(data, position)
            if (
                prefix != expect
                or length > limits.MAX_PAYLOAD
                or (deadline_ms != 0 if self._is_reply else request_id == 0)
            ):
                return self._break(frames, _first_fault(prefix, expect, length, self._is_reply))
            start = position + HEADER_SIZE
            end = start + length
            if end > size:
                need = HEADER_SIZE + length
                break
            payload = data[start:end]
            if crc32(payload, crc32(data[position : position + _CHECKED_SIZE])) != crc:
                return self._break(frames, "crc32")
            frames.append(Frame(request_id, deadline_ms, payload))
            position = end
        if position < size:
            held += memoryview(data)[position:]
        self._need = need
        return frames

    def _break(self, frames: list[Frame], field: str) -> list[Frame]:
        self._error_field = field
        self._held.clear()
        if not frames:
            raise AdytumError(Code.FRAME_INVALID, field)
        return frames


def _first_fault(prefix: bytes, expect: bytes, length: int, is_reply: bool) -> str:
    if prefix[:2] != expect[:2]:
        return "magic"
    if prefix[2] != expect[2]:
        return "version"
    if prefix[3] != expect[3]:
        return "kind"
    if prefix[4:] != expect[4:]:
        return "flags"
    if length > limits.MAX_PAYLOAD:
        return "payload_length"
    return "deadline_ms" if is_reply else "request_id"
