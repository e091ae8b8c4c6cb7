"""Fuzz the attestation verifier with atheris; run by hand, from the root of the repository:

    .venv/bin/python verify/fuzz/fuzz_attestation.py CORPUS ../shared/vectors/attestation -max_len=6000

Each input is read three ways: as a document, as a payload inside a sound envelope, and as edits of a genuine document.
Contract: nothing but `AttestationError` leaves the library, and only a payload that AWS signed ever verifies.
"""

import contextlib
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adytum_verify"]):
    from adytum_verify import AWS_ANCHOR, AttestationError, authenticate_document, parse_unverified
    from adytum_verify.cose import split
    from adytum_verify.render import inspected, to_text

VECTORS = Path(
    os.environ.get("ADYTUM_VECTORS", Path(__file__).resolve().parents[3] / "shared" / "vectors" / "attestation")
)
GENUINE = [path.read_bytes() for path in sorted(VECTORS.glob("*.bin"))]
SIGNED = {split(document).payload for document in GENUINE}
TIMES = [parse_unverified(document).timestamp_ms for document in GENUINE]
if not GENUINE:
    sys.exit(f"no documents in {VECTORS}")


def check(document: bytes, now_ms: int) -> None:
    """`document` may come through only with a payload that is genuine."""
    with contextlib.suppress(AttestationError):
        authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=now_ms)
        if split(document).payload not in SIGNED:
            raise RuntimeError("a document that AWS never signed was accepted")


def shape(document: bytes) -> None:
    for allow in (False, True):
        with contextlib.suppress(AttestationError):
            found = parse_unverified(document, allow_unsigned_shape=allow)
            text = to_text(inspected(found, signed=not allow))
            if not text.isascii() or not all(line.isprintable() for line in text.splitlines()):
                raise RuntimeError("unprintable output")
            check(document, found.timestamp_ms)


def wrap(payload: bytes) -> bytes:
    size = b"\x59" + len(payload).to_bytes(2, "big") if len(payload) > 255 else b"\x58" + bytes([len(payload)])
    return bytes.fromhex("8444a1013822a0") + size + payload + b"\x58\x60" + GENUINE[0][-96:]


def one_input(data: bytes) -> None:
    shape(data)
    if len(data) < 65536:
        shape(wrap(data))
    provider = atheris.FuzzedDataProvider(data)
    which = provider.ConsumeIntInRange(0, len(GENUINE) - 1)
    edited = bytearray(GENUINE[which])
    for _ in range(provider.ConsumeIntInRange(1, 4)):
        at = provider.ConsumeIntInRange(0, len(edited) - 1)
        new = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 8))
        edited[at : at + len(new)] = new
    check(bytes(edited), TIMES[which])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
