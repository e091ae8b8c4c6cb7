"""Write an EIF: the same parts give the same bytes, and `reader.read` takes every file that this module returns.

data = write([(SectionType.KERNEL, kernel), (SectionType.CMDLINE, b"..."), (SectionType.METADATA, b"{}"),
              (SectionType.RAMDISK, first), (SectionType.RAMDISK, second)])
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from adytum_image.eif.layout import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    FLAG_AARCH64,
    HEADER,
    MAGIC,
    MAX_FILE,
    MAX_SECTIONS,
    SECTION,
    VERSION,
    Eif,
    SectionType,
)
from adytum_image.eif.reader import check_content, check_order
from adytum_image.errors import EifCode, EifError


def write(
    sections: Sequence[tuple[SectionType, bytes]],
    *,
    aarch64: bool = False,
    default_memory: int = DEFAULT_MEMORY,
    default_cpus: int = DEFAULT_CPUS,
) -> bytes:
    """The bytes of an image with these sections in this order; `default_memory` in bytes.

    Errors: EifError for everything that the reader would refuse.
    """
    if not 2 <= len(sections) <= MAX_SECTIONS:
        raise EifError(EifCode.SECTION_COUNT)
    check_order(tuple(kind for kind, _ in sections))
    for index, (kind, data) in enumerate(sections):
        check_content(kind, data, index)
    offsets, sizes, body = [], [], []
    at = HEADER.size
    for kind, data in sections:
        offsets.append(at)
        sizes.append(len(data))
        body += [SECTION.pack(kind, 0, len(data)), data]
        at += SECTION.size + len(data)
    if at > MAX_FILE:
        raise EifError(EifCode.TOO_LARGE)
    pad = [0] * (MAX_SECTIONS - len(sections))
    flags = FLAG_AARCH64 if aarch64 else 0
    head = HEADER.pack(
        MAGIC, VERSION, flags, default_memory, default_cpus, 0, len(sections), *offsets, *pad, *sizes, *pad, 0, 0
    )[:-4]
    crc = zlib.crc32(head)
    for part in body:
        crc = zlib.crc32(part, crc)
    return b"".join([head, crc.to_bytes(4, "big"), *body])


def rewrite(eif: Eif, *, signature: bytes | None) -> bytes:
    """The same image with this signature section, or with none."""
    sections: list[tuple[SectionType, bytes]] = [
        (section.type, section.data) for section in eif.sections if section.type is not SectionType.SIGNATURE
    ]
    if signature is not None:
        sections.append((SectionType.SIGNATURE, signature))
    return write(sections, aarch64=eif.aarch64, default_memory=eif.default_memory, default_cpus=eif.default_cpus)
