"""Look into an image: what it says, what is in it, and why two of them measure differently.

    image = open_image(data, interpreter)
    for difference in compare(first, second): print(difference.text())

What is read here was not trusted: the EIF reader and the archive reader are strict, and the decompressor runs in a
process of its own with a bound. An archive of another builder is compared as one block of bytes.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any, Final, Protocol

from adytum_image.eif import Eif, Measurements, SectionType, measure, parse_metadata, read
from adytum_image.eif.signature import verify
from adytum_image.errors import BuildError, CpioError, EifError
from adytum_image.records import CONTENTS_PATH, parse_contents
from adytum_image.rootfs import cpio
from adytum_image.rootfs.interpreter import MAX_PLAIN
from adytum_image.rootfs.tree import Tree

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_GZIP: Final = b"\x1f\x8b"
# which PCRs a section takes part in
_FIRST: Final = "PCR0, PCR1"
_LATER: Final = "PCR0, PCR2"


class Decompressor(Protocol):
    def unzstd(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`ramdisks`: the files of each, None where it is not an archive that we write."""

    eif: Eif
    measurements: Measurements
    ramdisks: tuple[Tree | None, ...]

    def contents(self) -> dict[str, Any]:
        """What the image is made of. Errors: BuildError(CONTENTS_UNKNOWN) for an image of another builder."""
        for tree in self.ramdisks:
            for path in (CONTENTS_PATH, "rootfs/" + CONTENTS_PATH):
                if tree is not None and path in tree:
                    return parse_contents(tree.nodes[path].data)
        raise BuildError("CONTENTS_UNKNOWN", "this image says nothing about what it is made of")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`path`: a file in the section, or "". `at`: offset in bytes of the first difference, -1 where one is missing."""

    section: str
    path: str
    at: int
    what: str
    pcrs: str

    def text(self) -> str:
        where = f"{self.section}: {self.path}" if self.path else self.section
        place = f" at byte {self.at}" if self.at >= 0 else ""
        return f"{where}: {self.what}{place} ({self.pcrs})"


def open_image(data: bytes, decompressor: Decompressor) -> Image:
    """Errors: EifError. A ramdisk that cannot be read as ours is None."""
    eif = read(data)
    return Image(
        eif=eif,
        measurements=measure(eif),
        ramdisks=tuple(_tree(section, decompressor) for section in eif.ramdisks),
    )


def _tree(section: bytes, decompressor: Decompressor) -> Tree | None:
    try:
        if section.startswith(_ZSTD):
            return cpio.read(decompressor.unzstd(section))
        if section.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(section)) as stream:
                return cpio.read(stream.read(MAX_PLAIN))
        return cpio.read(section)
    except (BuildError, CpioError, OSError, EOFError, zlib.error):
        return None


def describe(image: Image) -> dict[str, Any]:
    """What `adytum image describe` prints. The metadata is not measured: whoever wrote the file wrote it."""
    signature: dict[str, Any] | None = None
    if image.eif.signature is not None:
        try:
            certificate = verify(image.eif.signature, image.measurements.pcr0).certificate
            signature = {
                "subject": certificate.subject.rfc4514_string(),
                "not_before": certificate.not_valid_before_utc.isoformat(),
                "not_after": certificate.not_valid_after_utc.isoformat(),
                "valid": True,
            }
        except EifError as error:
            signature = {"valid": False, "code": error.code.value}
    trees = iter(image.ramdisks)
    sections = []
    for section in image.eif.sections:
        entry: dict[str, Any] = {"type": section.type.name.lower(), "offset": section.offset, "size": len(section.data)}
        if section.type is SectionType.RAMDISK:
            tree = next(trees)
            if tree is not None:
                entry["files"] = sum(1 for _ in tree.files())
                entry["bytes"] = sum(len(data) for _, data in tree.files())
        sections.append(entry)
    return {
        "measurements": image.measurements.as_hex(),
        "architecture": "aarch64" if image.eif.aarch64 else "x86_64",
        "cmdline": image.eif.cmdline.decode("ascii"),
        "sections": sections,
        "signature": signature,
        "unmeasured_metadata": parse_metadata(image.eif.metadata),
    }


def compare(first: Image, second: Image) -> list[Difference]:
    """Every difference that is measured or signed, the smallest place first; empty where the PCRs are equal."""
    found: list[Difference] = []
    for name, one, other in (
        ("kernel", first.eif.kernel, second.eif.kernel),
        ("cmdline", first.eif.cmdline, second.eif.cmdline),
    ):
        found += _bytes(name, "", one, other, "PCR0, PCR1")
    count = max(len(first.ramdisks), len(second.ramdisks))
    for index in range(count):
        name, pcrs = f"ramdisk {index}", _LATER if index else _FIRST
        if index >= len(first.ramdisks) or index >= len(second.ramdisks):
            which = "second" if index >= len(first.ramdisks) else "first"
            found.append(Difference(section=name, path="", at=-1, what=f"only in the {which} image", pcrs=pcrs))
            continue
        one_tree, other_tree = first.ramdisks[index], second.ramdisks[index]
        inside = [] if one_tree is None or other_tree is None else _trees(name, one_tree, other_tree, pcrs)
        # equal files, unequal bytes: the compression differs, or the archive is not ours
        found += inside or _bytes(name, "", first.eif.ramdisks[index], second.eif.ramdisks[index], pcrs)
    if first.measurements.pcr8 != second.measurements.pcr8:
        found.append(Difference(section="signature", path="", at=-1, what="another certificate, or none", pcrs="PCR8"))
    return found


def _trees(name: str, one: Tree, other: Tree, pcrs: str) -> list[Difference]:
    found = []
    for path in sorted(one.nodes.keys() | other.nodes.keys()):
        if path not in one or path not in other:
            which = "first" if path in one else "second"
            found.append(Difference(section=name, path=path, at=-1, what=f"only in the {which} image", pcrs=pcrs))
        elif one.nodes[path].mode != other.nodes[path].mode:
            found.append(Difference(section=name, path=path, at=-1, what="mode differs", pcrs=pcrs))
        else:
            found += _bytes(name, path, one.nodes[path].data, other.nodes[path].data, pcrs)
    return found


def _bytes(section: str, path: str, one: bytes, other: bytes, pcrs: str) -> list[Difference]:
    if one == other:
        return []
    length = min(len(one), len(other))
    low, high = 0, length  # the longest common prefix, by halves
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    what = f"differs ({len(one)} and {len(other)} bytes)" if len(one) != len(other) else "differs"
    return [Difference(section=section, path=path, at=low, what=what, pcrs=pcrs)]
