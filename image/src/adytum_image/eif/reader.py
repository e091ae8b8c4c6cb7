"""Read an EIF strictly: whatever is not exactly what a writer produces is refused, with one error type.

Contract for the fuzzer: `read` returns an `Eif` or raises `EifError`; nothing else leaves it, and what it returns is
written back by `writer.write` as the same bytes.

Left out: versions 2 and 3, and whether the signature is good (`signature.verify`).
"""

from __future__ import annotations

import json
import zlib
from typing import Any, NoReturn

from adytum_image.eif.layout import (
    FLAG_AARCH64,
    HEADER,
    MAGIC,
    MAX_CMDLINE,
    MAX_FILE,
    MAX_METADATA,
    MAX_SECTIONS,
    MAX_SIGNATURE,
    SECTION,
    VERSION,
    Eif,
    Section,
    SectionType,
)
from adytum_image.errors import EifCode, EifError


def read(data: bytes) -> Eif:
    """Parse `data`, a whole file of at most `MAX_FILE` bytes. Errors: EifError, in the order of the checks below."""
    if len(data) < HEADER.size:
        raise EifError(EifCode.TOO_SHORT)
    if len(data) > MAX_FILE:
        raise EifError(EifCode.TOO_LARGE)
    fields = HEADER.unpack_from(data)
    magic, version, flags, memory, cpus, reserved, count = fields[:7]
    offsets, sizes = fields[7 : 7 + MAX_SECTIONS], fields[7 + MAX_SECTIONS : 7 + 2 * MAX_SECTIONS]
    unused, crc = fields[-2:]
    if magic != MAGIC:
        raise EifError(EifCode.MAGIC)
    if version != VERSION:
        raise EifError(EifCode.VERSION)
    if flags & ~FLAG_AARCH64:
        raise EifError(EifCode.FLAGS)
    if reserved or unused:
        raise EifError(EifCode.RESERVED)
    if not 2 <= count <= MAX_SECTIONS:
        raise EifError(EifCode.SECTION_COUNT)
    if any(offsets[count:]) or any(sizes[count:]):
        raise EifError(EifCode.SECTION_TABLE)
    sections = _sections(data, offsets[:count], sizes[:count])
    check_order(tuple(section.type for section in sections))
    if crc != zlib.crc32(data[HEADER.size :], zlib.crc32(data[: HEADER.size - 4])):
        raise EifError(EifCode.CRC)
    for index, section in enumerate(sections):
        check_content(section.type, section.data, index)
    return Eif(
        sections=tuple(sections),
        aarch64=bool(flags & FLAG_AARCH64),
        default_memory=memory,
        default_cpus=cpus,
        crc32=crc,
    )


def _sections(data: bytes, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> list[Section]:
    """The sections must follow each other from the header to the end of the file, with no gap and no overlap."""
    sections = []
    at = HEADER.size
    for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if offset != at or offset + SECTION.size + size > len(data):
            raise EifError(EifCode.SECTION_TABLE, index)
        number, flags, length = SECTION.unpack_from(data, offset)
        if flags or length != size:
            raise EifError(EifCode.SECTION_HEADER, index)
        try:
            kind = SectionType(number)
        except ValueError:
            raise EifError(EifCode.SECTION_TYPE, index) from None
        start = offset + SECTION.size
        at = start + size
        sections.append(Section(type=kind, data=data[start:at], offset=offset))
    if at != len(data):
        raise EifError(EifCode.SECTION_TABLE, len(sections))
    return sections


def check_order(kinds: tuple[SectionType, ...]) -> None:
    """Kernel, then command line, then ramdisks, so that PCR0's order is the file's; metadata once; signature last.

    Errors: SECTION_MISSING, SECTION_ORDER. The format allows more; a reader who takes less has less to explain.
    """
    for kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.METADATA, SectionType.RAMDISK):
        if kind not in kinds:
            raise EifError(EifCode.SECTION_MISSING)
    for kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.METADATA, SectionType.SIGNATURE):
        if kinds.count(kind) > 1:
            raise EifError(EifCode.SECTION_ORDER)
    measured = [kind for kind in kinds if kind not in (SectionType.METADATA, SectionType.SIGNATURE)]
    if measured[:2] != [SectionType.KERNEL, SectionType.CMDLINE]:
        raise EifError(EifCode.SECTION_ORDER)
    if SectionType.SIGNATURE in kinds[:-1]:
        raise EifError(EifCode.SECTION_ORDER)


def check_content(kind: SectionType, data: bytes, index: int) -> None:
    """What a section may hold. Errors: SECTION_EMPTY, CMDLINE, METADATA, SIGNATURE_FORMAT (too long)."""
    if not data:
        raise EifError(EifCode.SECTION_EMPTY, index)
    if kind is SectionType.CMDLINE and (len(data) >= MAX_CMDLINE or any(not 32 <= byte < 127 for byte in data)):
        raise EifError(EifCode.CMDLINE, index)
    if kind is SectionType.METADATA:
        parse_metadata(data, index)
    if kind is SectionType.SIGNATURE and len(data) > MAX_SIGNATURE:
        raise EifError(EifCode.SIGNATURE_FORMAT, index)


def parse_metadata(data: bytes, index: int = -1) -> dict[str, Any]:
    """The metadata section as a JSON object without duplicate keys. It is not measured: display only.

    Errors: EifError(METADATA).
    """
    if len(data) > MAX_METADATA:
        raise EifError(EifCode.METADATA, index)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise EifError(EifCode.METADATA, index) from None
    if not isinstance(value, dict):
        raise EifError(EifCode.METADATA, index)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse(_text: str) -> NoReturn:
    raise ValueError("not JSON")
