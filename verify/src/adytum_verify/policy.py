"""Which images are expected: PCRs by their index. What is not written down here is not allowed.

PCR0 measures the whole image, PCR1 kernel and boot ramdisk, PCR2 the application; all three are mandatory, because
each alone can be shared by unrelated images. PCR3 (the parent's role), PCR4 (the parent's instance), PCR8 (who signed
the image) and PCR16 (our manifest) may be added. A PCR is only ever compared with the expectation for its own index:
any enclave may extend PCR16 until it equals another image's PCR0.

    AllowList.parse(["PCR0=61...,PCR1=4b...,PCR2=a5...", "file:release-1.2.json"])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from adytum_verify.codes import AttestationCode, AttestationError
from adytum_verify.document import PCR_COUNT, PCR_SIZE
from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code

MANDATORY: Final = (0, 1, 2)
ZERO_PCR: Final = bytes(PCR_SIZE)
_ENTRY: Final = re.compile(r"\s*PCR([0-9]|[12][0-9]|3[01])\s*=\s*([0-9A-Fa-f]{96})\s*")
_SHA256_FORM: Final = re.compile(r"\s*(sha256[:-])?[0-9A-Fa-f]{64}\s*", re.IGNORECASE)
_SHA256_VALUE: Final = re.compile(r"\s*PCR[0-9]{1,2}\s*=\s*[0-9A-Fa-f]{64}\s*")
_FILE: Final = "file:"
_MAX_RELEASE_FILE: Final = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class PcrPolicy:
    """One expected image: PCR index -> 48 bytes. A document must match every entry.

    Errors on construction: POLICY_EMPTY, POLICY_INCOMPLETE (0, 1 or 2 missing), POLICY_DEBUG (0, 1 or 2 zero),
    POLICY_INVALID (an index outside 0..31, a value that is not 48 bytes).
    """

    pcrs: Mapping[int, bytes]

    def __post_init__(self) -> None:
        if not self.pcrs:
            raise AttestationError(AttestationCode.POLICY_EMPTY)
        for index, pcr in self.pcrs.items():
            if type(index) is not int or not 0 <= index < PCR_COUNT:
                raise AttestationError(AttestationCode.POLICY_INVALID)
            if not isinstance(pcr, bytes) or len(pcr) != PCR_SIZE:
                raise AttestationError(AttestationCode.POLICY_INVALID, f"PCR{index}")
        for index in MANDATORY:
            if index not in self.pcrs:
                raise AttestationError(AttestationCode.POLICY_INCOMPLETE, f"PCR{index}")
            if self.pcrs[index] == ZERO_PCR:
                raise AttestationError(AttestationCode.POLICY_DEBUG, f"PCR{index}")
        object.__setattr__(self, "pcrs", MappingProxyType(dict(self.pcrs)))  # no later change through the caller's dict

    @classmethod
    def parse(cls, entries: Iterable[str]) -> PcrPolicy:
        """One image from entries like "PCR0=<96 hex>"; an entry may hold several, separated by commas.

        Errors: as on construction; POLICY_HASHED for the bare SHA-256 form; POLICY_INVALID for a repeated index.
        """
        pcrs: dict[int, bytes] = {}
        for entry in entries:
            for index, pcr in _pairs(entry):
                if index in pcrs:
                    raise AttestationError(AttestationCode.POLICY_INVALID, f"PCR{index}")
                pcrs[index] = pcr
        return cls(pcrs)

    def first_mismatch(self, pcrs: Mapping[int, bytes]) -> int | None:
        """The lowest index at which `pcrs` differs or is absent, or None when every entry matches."""
        return next((index for index in sorted(self.pcrs) if pcrs.get(index) != self.pcrs[index]), None)


@dataclass(frozen=True, slots=True)
class AllowList:
    """Several allowed images; a document must match one of them completely. Errors when empty: POLICY_EMPTY."""

    images: tuple[PcrPolicy, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise AttestationError(AttestationCode.POLICY_EMPTY)

    @classmethod
    def parse(cls, entries: Iterable[str], *, read_file: Callable[[str], bytes] | None = None) -> AllowList:
        """The images of `tee.allowedPCRs`.

        Each entry is one of: "PCR0=..,PCR1=..,PCR2=..[,PCR16=..]", one image; "PCR0=..", one of consecutive entries
        that form an image together (an index that comes again begins the next image); "file:PATH", a release file
        (`parse_release`). `read_file`: path -> bytes; the default reads at most 64 KiB from the file system.
        Errors: as `PcrPolicy`, POLICY_HASHED, and POLICY_INVALID for a file that cannot be read. Nothing is skipped.
        """
        images: list[PcrPolicy] = []
        group: dict[int, bytes] = {}

        def close_group() -> None:
            if group:
                images.append(PcrPolicy(dict(group)))
                group.clear()

        for entry in entries:
            if entry.startswith(_FILE):
                close_group()
                images.append(parse_release((read_file or _read_file)(entry.removeprefix(_FILE))))
            elif "," in entry:
                close_group()
                images.append(PcrPolicy.parse([entry]))
            else:
                [(index, pcr)] = _pairs(entry)
                if index in group:
                    close_group()
                group[index] = pcr
        close_group()
        return cls(tuple(images))


def parse_release(data: bytes) -> PcrPolicy:
    """One image from the JSON that `nitro-cli build-enclave` and `describe-eif` print, or its "Measurements" alone.

    Every PCR it names is expected. Errors: POLICY_INVALID, and those of `PcrPolicy`.
    """
    try:
        found = strict_json.decode(data, dict[str, Any], limit=_MAX_RELEASE_FILE, code=Code.ATTESTATION_FAILED)
    except AdytumError:
        raise AttestationError(AttestationCode.POLICY_INVALID, "file") from None
    measurements = found.get("Measurements", found)
    if not isinstance(measurements, dict):
        raise AttestationError(AttestationCode.POLICY_INVALID, "Measurements")
    algorithm = measurements.get("HashAlgorithm", "Sha384")
    if not isinstance(algorithm, str) or not algorithm.lower().startswith("sha384"):
        raise AttestationError(AttestationCode.POLICY_INVALID, "HashAlgorithm")
    return PcrPolicy.parse(f"{name}={value}" for name, value in measurements.items() if name != "HashAlgorithm")


def _pairs(entry: str) -> list[tuple[int, bytes]]:
    pairs: list[tuple[int, bytes]] = []
    for part in entry.split(","):
        match = _ENTRY.fullmatch(part)
        if match is None:
            if _SHA256_FORM.fullmatch(part) or _SHA256_VALUE.fullmatch(part):
                raise AttestationError(AttestationCode.POLICY_HASHED)
            raise AttestationError(AttestationCode.POLICY_INVALID)
        pairs.append((int(match[1]), bytes.fromhex(match[2])))
    return pairs


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_RELEASE_FILE + 1)
    except OSError:
        raise AttestationError(AttestationCode.POLICY_INVALID, "file") from None
