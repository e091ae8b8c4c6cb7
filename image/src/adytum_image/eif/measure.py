"""PCR0, PCR1, PCR2 and PCR8 of an image, computed from the file as the hypervisor computes them.

X(d) = SHA384(0^48 || SHA384(d)); PCR0 = X(kernel || cmdline || ramdisks), PCR1 = X(kernel || cmdline || ramdisk 0),
PCR2 = X(ramdisk 1 ..), PCR8 = X(DER of the signing certificate), zero where there is none. The header, the metadata and
the signature are in none of them. Source: aws/aws-nitro-enclaves-image-format, src/utils/eif_reader.rs; checked against
what a guest's NSM reports (tests/test_rig_measurements.py).

    measure(read(data)).pcr0.hex()
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from adytum_image.eif.layout import Eif
from adytum_image.eif.signature import certificate_der

PCR_LENGTH: Final = 48  # bytes
ZERO: Final = bytes(PCR_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Each value 48 bytes. `pcr8` is zero for an unsigned image."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes

    def as_hex(self) -> dict[str, str]:
        """`{"PCR0": "<96 hex>", ...}`, PCR8 only where the image is signed."""
        values = {"PCR0": self.pcr0.hex(), "PCR1": self.pcr1.hex(), "PCR2": self.pcr2.hex()}
        if self.pcr8 != ZERO:
            values["PCR8"] = self.pcr8.hex()
        return values

    def as_release(self) -> dict[str, dict[str, str]]:
        """What `nitro-cli build-enclave` prints, which `adytum_verify.parse_release` reads."""
        return {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **self.as_hex()}}


def extend_from_zero(parts: Iterable[bytes]) -> bytes:
    """X of the concatenation of `parts`: 48 bytes."""
    inner = hashlib.sha384()
    for part in parts:
        inner.update(part)
    return hashlib.sha384(ZERO + inner.digest()).digest()


def measure(eif: Eif) -> Measurements:
    """Errors: EifError(SIGNATURE_FORMAT, SIGNATURE_CERTIFICATE) where there is a signature section that is none."""
    boot = (eif.kernel, eif.cmdline)
    signature = eif.signature
    return Measurements(
        pcr0=extend_from_zero((*boot, *eif.ramdisks)),
        pcr1=extend_from_zero((*boot, eif.ramdisks[0])),
        pcr2=extend_from_zero(eif.ramdisks[1:]),
        pcr8=ZERO if signature is None else extend_from_zero((certificate_der(signature),)),
    )
