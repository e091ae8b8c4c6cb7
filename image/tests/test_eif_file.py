"""The EIF reader and writer: one reading or one typed error, and the offsets of the format itself."""

from __future__ import annotations

import json
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_image.eif import SectionType, read, write
from adytum_image.errors import EifCode, EifError

PARTS = [
    (SectionType.KERNEL, b"kernel bytes"),
    (SectionType.CMDLINE, b"console=ttyS0"),
    (SectionType.METADATA, b'{"ImageName":"x"}'),
    (SectionType.RAMDISK, b"first"),
    (SectionType.RAMDISK, b"second"),
]


def image(parts=PARTS) -> bytes:
    return write(parts)


def with_crc(data: bytes) -> bytes:
    """The file with a CRC that fits, so that only the check under test can refuse it."""
    crc = zlib.crc32(data[548:], zlib.crc32(data[:544]))
    return data[:544] + struct.pack(">I", crc) + data[548:]


def refused(data: bytes) -> EifCode:
    with pytest.raises(EifError) as caught:
        read(data)
    return caught.value.code


def test_header_is_laid_out_as_aws_documents_it() -> None:
    """By hand, from the offsets in aws-nitro-enclaves-image-format (defs/mod.rs), not through our Struct."""
    data = image()
    assert data[:4] == b".eif"
    assert int.from_bytes(data[4:6], "big") == 4
    assert int.from_bytes(data[6:8], "big") == 0
    assert int.from_bytes(data[8:16], "big") == 1 << 30
    assert int.from_bytes(data[16:24], "big") == 2
    assert int.from_bytes(data[0x1A:0x1C], "big") == 5
    assert int.from_bytes(data[0x1C:0x24], "big") == 548
    assert int.from_bytes(data[0x11C:0x124], "big") == len(b"kernel bytes")
    assert data[548:560] == bytes.fromhex("0001 0000 000000000000000c")
    assert data[560:572] == b"kernel bytes"


def test_writing_is_deterministic_and_reading_inverts_it() -> None:
    eif = read(image())
    assert image() == image()
    assert [(section.type, section.data) for section in eif.sections] == PARTS
    assert eif.kernel == b"kernel bytes"
    assert eif.ramdisks == (b"first", b"second")
    assert eif.signature is None


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.binary(min_size=1, max_size=64),
    cmdline=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40),
    ramdisks=st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=6),
    metadata=st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    late=st.booleans(),
)
def test_what_is_written_reads_back(kernel, cmdline, ramdisks, metadata, late) -> None:
    parts = [(SectionType.KERNEL, kernel), (SectionType.CMDLINE, cmdline.encode())]
    parts += [(SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks]
    parts.insert(len(parts) if late else 2, (SectionType.METADATA, json.dumps(metadata).encode()))
    eif = read(write(parts))
    assert [(section.type, section.data) for section in eif.sections] == parts


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 60),
    fix=st.booleans(),
)
def test_fuzz_a_damaged_image_reads_or_refuses_and_nothing_else(changes, cut, fix) -> None:
    data = bytearray(image())
    for at, value in changes:
        data[at % len(data)] = value
    damaged = bytes(data[: len(data) - cut]) if cut % 3 == 0 else bytes(data)
    if fix and len(damaged) >= 548:
        damaged = with_crc(damaged)
    try:
        eif = read(damaged)
    except EifError:
        return
    again = write(
        [(section.type, section.data) for section in eif.sections],
        aarch64=eif.aarch64,
        default_memory=eif.default_memory,
        default_cpus=eif.default_cpus,
    )
    assert again == damaged


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1200))
def test_fuzz_arbitrary_bytes_are_refused(data) -> None:
    with pytest.raises(EifError):
        read(data)


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (0, b"X", EifCode.MAGIC),
        (4, b"\0\3", EifCode.VERSION),
        (6, b"\0\2", EifCode.FLAGS),
        (24, b"\0\1", EifCode.RESERVED),
        (0x21C, b"\0\0\0\1", EifCode.RESERVED),
        (26, b"\0\1", EifCode.SECTION_COUNT),
        (26, b"\0\x21", EifCode.SECTION_COUNT),
        (26, b"\0\4", EifCode.SECTION_TABLE),
        (0x1C, b"\0\0\0\0\0\0\2\x25", EifCode.SECTION_TABLE),
        (0x11C, b"\xff" * 8, EifCode.SECTION_TABLE),
        (0x11C, b"\0\0\0\0\0\0\0\x0b", EifCode.SECTION_HEADER),
        (548, b"\0\0", EifCode.SECTION_TYPE),
        (548, b"\0\6", EifCode.SECTION_TYPE),
        (550, b"\0\1", EifCode.SECTION_HEADER),
        (548, b"\0\2", EifCode.SECTION_MISSING),
    ],
)
def test_each_field_has_its_own_refusal(at: int, value: bytes, code: EifCode) -> None:
    data = image()
    assert refused(with_crc(data[:at] + value + data[at + len(value) :])) is code


def test_length_is_checked_before_anything_is_read() -> None:
    assert refused(b"") is EifCode.TOO_SHORT
    assert refused(image()[:547]) is EifCode.TOO_SHORT
    assert refused(with_crc(image() + b"\0")) is EifCode.SECTION_TABLE


def test_a_flipped_bit_without_a_new_crc_is_refused() -> None:
    data = bytearray(image())
    data[-1] ^= 1
    assert refused(bytes(data)) is EifCode.CRC


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (PARTS[1:], EifCode.SECTION_MISSING),
        (PARTS[:2] + PARTS[3:], EifCode.SECTION_MISSING),
        (PARTS[:3], EifCode.SECTION_MISSING),
        ([*PARTS, PARTS[0]], EifCode.SECTION_ORDER),
        ([*PARTS, PARTS[2]], EifCode.SECTION_ORDER),
        ([PARTS[1], PARTS[0], *PARTS[2:]], EifCode.SECTION_ORDER),
        ([PARTS[3], *PARTS[:3]], EifCode.SECTION_ORDER),
        ([*PARTS[:3], (SectionType.SIGNATURE, b"s"), *PARTS[3:]], EifCode.SECTION_ORDER),
        ([(SectionType.KERNEL, b""), *PARTS[1:]], EifCode.SECTION_EMPTY),
        ([PARTS[0], (SectionType.CMDLINE, b"a\0"), *PARTS[2:]], EifCode.CMDLINE),
        ([PARTS[0], (SectionType.CMDLINE, b"a" * 2048), *PARTS[2:]], EifCode.CMDLINE),
        ([*PARTS[:2], (SectionType.METADATA, b"[]"), *PARTS[3:]], EifCode.METADATA),
        ([*PARTS[:2], (SectionType.METADATA, b'{"a":1,"a":2}'), *PARTS[3:]], EifCode.METADATA),
        ([*PARTS[:2], (SectionType.METADATA, b'{"a":NaN}'), *PARTS[3:]], EifCode.METADATA),
        ([*PARTS[:2], (SectionType.METADATA, b"{" * 100_000), *PARTS[3:]], EifCode.METADATA),
        ([*PARTS, (SectionType.SIGNATURE, b"s" * 32769)], EifCode.SIGNATURE_FORMAT),
        ([*PARTS, *[PARTS[4]] * 28], EifCode.SECTION_COUNT),
    ],
)
def test_writer_and_reader_refuse_the_same_contents(parts, code: EifCode) -> None:
    with pytest.raises(EifError) as caught:
        write(parts)
    assert caught.value.code is code
    assert refused(unchecked(parts)) is code


def unchecked(parts) -> bytes:
    """A file with these sections that no writer of ours would make, with a CRC that fits."""
    offsets, sizes, body, at = [0] * 40, [0] * 40, b"", 548
    for index, (kind, data) in enumerate(parts):
        offsets[index], sizes[index] = at, len(data)
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
        at += 12 + len(data)
    head = struct.pack(">4sHHQQHH", b".eif", 4, 0, 1 << 30, 2, 0, len(parts))
    head += struct.pack(">32Q32QI", *offsets[:32], *sizes[:32], 0)
    return with_crc(head + bytes(4) + body)
