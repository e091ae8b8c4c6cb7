"""Coverage-guided fuzzing of the frame reader: `python core/fuzz/fuzz_frames.py [-max_total_time=60]`.

Whatever the bytes and however they are split: frames come out, or FRAME_INVALID, and nothing else; the outcome does not
depend on the split; a frame that comes out encodes to the bytes that went in.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from adytum_wire.errors import AdytumError, Code
    from adytum_wire.frames import Frame, FrameReader, Kind, encode_frame


def read(kind: Kind, pieces: list[bytes]) -> tuple[list[Frame], str | None]:
    reader = FrameReader(kind)
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames += reader.feed(piece)
        if reader.error is not None:
            reader.feed(b"")
    except AdytumError as error:
        if error.code is not Code.FRAME_INVALID:
            raise
        return frames, error.field
    return frames, None


def test_one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    kind = Kind.REQUEST if provider.ConsumeBool() else Kind.REPLY
    step = provider.ConsumeIntInRange(1, 64)
    repair = provider.ConsumeBool()  # a random CRC never holds: let the fuzzer past it
    payload = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 300))
    request_id, deadline_ms = provider.ConsumeIntInRange(1, 2**64 - 1), provider.ConsumeIntInRange(0, 2**32 - 1)
    stream = provider.ConsumeBytes(provider.remaining_bytes())
    if repair:
        stream = encode_frame(kind, request_id, deadline_ms if kind is Kind.REQUEST else 0, payload) + stream
    whole = read(kind, [stream])
    split = read(kind, [stream[i : i + step] for i in range(0, len(stream), step)])
    if whole != split:
        raise RuntimeError("the outcome depends on the split")
    again = b"".join(encode_frame(kind, frame.request_id, frame.deadline_ms, frame.payload) for frame in whole[0])
    if not stream.startswith(again):
        raise RuntimeError("a frame does not encode to what it came from")


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
