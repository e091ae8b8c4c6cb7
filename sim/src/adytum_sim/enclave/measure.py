"""PCRs for the stand-in: a measurement of the trusted Python files that it really runs.

So in development too a one-byte change of the trusted code is another PCR0, and the KMS stand-in refuses it. It says
nothing about the interpreter or the machine, which only an image build measures.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

TRUSTED = ("adytum_wire", "adytum_policy", "adytum_enclave")


def trusted_files() -> list[tuple[str, Path]]:
    """(name, path) of every trusted source file, sorted by name."""
    found = []
    for package in TRUSTED:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(package)
        root = Path(spec.origin).parent
        found += [(f"{package}/{path.relative_to(root)}", path) for path in root.rglob("*.py")]
    return sorted(found)


def source_pcrs(variant: str = "") -> dict[int, bytes]:
    """PCR 0, 1 and 2. `variant` stands for another image of the same source (tests of releases and of old images)."""
    digest = hashlib.sha384(variant.encode())
    for name, path in trusted_files():
        digest.update(hashlib.sha384(name.encode() + b"\0" + path.read_bytes()).digest())
    return {
        0: _extend(digest.digest()),
        1: _extend(hashlib.sha384(b"adytum stand-in: no kernel").digest()),
        2: _extend(hashlib.sha384(b"application" + digest.digest()).digest()),
    }


def _extend(data: bytes) -> bytes:
    return hashlib.sha384(bytes(48) + data).digest()
