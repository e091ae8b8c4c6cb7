"""The Enclave Image Format, version 4, as data (all integers big-endian).

    header   548 bytes: ".eif" | u16 version | u16 flags | u64 memory | u64 cpus | u16 reserved | u16 sections
             | u64 offsets[32] | u64 sizes[32] | u32 unused | u32 crc32
    section  u16 type | u16 flags | u64 size | data

Source: aws/aws-nitro-enclaves-image-format, src/defs/mod.rs; QEMU hw/core/eif.c. The CRC is over the header without its
last four bytes and then over every section's header and data; it protects against accidents and against nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAGIC: Final = b".eif"
VERSION: Final = 4
MAX_SECTIONS: Final = 32
HEADER: Final = struct.Struct(">4sHHQQHH32Q32QII")
SECTION: Final = struct.Struct(">HHQ")
FLAG_AARCH64: Final = 1
MAX_SIGNATURE: Final = 32768  # bytes
MAX_FILE: Final = 1 << 30  # bytes: far more than any image of ours, less than what a reader should hold
MAX_METADATA: Final = 1 << 20  # bytes
MAX_CMDLINE: Final = 2048  # bytes, COMMAND_LINE_SIZE of Linux on x86
DEFAULT_MEMORY: Final = 1 << 30  # bytes
DEFAULT_CPUS: Final = 2


class SectionType(IntEnum):
    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section: `data` without the 12-byte section header; `offset` is where that header begins in the file."""

    type: SectionType
    data: bytes
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eif:
    """A parsed image. The sections stand in file order, which is the order in which they are measured."""

    sections: tuple[Section, ...]
    aarch64: bool
    default_memory: int
    default_cpus: int
    crc32: int

    def all(self, kind: SectionType) -> tuple[bytes, ...]:
        return tuple(section.data for section in self.sections if section.type is kind)

    @property
    def kernel(self) -> bytes:
        return self.all(SectionType.KERNEL)[0]

    @property
    def cmdline(self) -> bytes:
        return self.all(SectionType.CMDLINE)[0]

    @property
    def ramdisks(self) -> tuple[bytes, ...]:
        return self.all(SectionType.RAMDISK)

    @property
    def metadata(self) -> bytes:
        return self.all(SectionType.METADATA)[0]

    @property
    def signature(self) -> bytes | None:
        found = self.all(SectionType.SIGNATURE)
        return found[0] if found else None
