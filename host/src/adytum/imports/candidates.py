"""Files that others wrote, before they are sealed to the enclave: which form they have, and what can be said about
them without a password.

    found = examine(Path("UTC--2026-01-02--7099...79c8"))
    found.format, found.expected    # "keystore-v3", "0x7099...79C8"

The enclave decides; this is for dry runs and clear messages. Contents are not kept: a file is read when it is looked at
and again when it is sent (`read`), and must be the same then.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from adytum.client.imports import MAX_PACKED
from adytum.imports import keystores, raw_keys
from adytum_policy.content.address import to_checksum
from adytum_wire import limits
from adytum_wire.types import Algorithm

_WORDS: Final = (12, 15, 18, 21, 24)
_HEX_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_ADDRESS: Final = re.compile(r"(?:^|[^0-9a-zA-Z])(?:0x)?([0-9a-fA-F]{40})(?![0-9a-zA-Z])")
_EXPECTED: Final = re.compile(r"0x[0-9a-fA-F]{40}|[0-9a-fA-F]{64}|0[23][0-9a-fA-F]{64}")
_MPCENC: Final = b"MPCENC\0"
# What is left to the enclave, by form.
_UNCHECKED: Final = {
    "keystore-v3": "the password, and the key inside",
    "bip39": "the words and their checksum",
    "mpcenc-v1": "the password, and the share inside",
    "mpc-legacy": "the password, and the share inside",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`format` is "" for what is none of ours. `expected`: an EIP-55 address or a public key in hex, or "". `problem`:
    why the enclave would refuse it, as far as that shows without a password. `algorithm`, `public_key`: of a key in
    hex. `digest`: SHA-256 of what is sent."""

    path: Path
    format: str = ""
    size: int = 0
    expected: str = ""
    problem: str = ""
    algorithm: Algorithm = Algorithm.NONE
    public_key: str = ""
    digest: bytes = field(default=b"", repr=False)

    @property
    def needs_password(self) -> bool:
        return self.format in ("keystore-v3", "mpcenc-v1", "mpc-legacy")

    @property
    def unchecked(self) -> str:
        """What only the enclave can see, for people."""
        return "" if self.problem else _UNCHECKED.get(self.format, "")


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those below the folders named, in order; hidden and half-written ones, and recovery
    envelopes, left out. What cannot be looked into is among them, so that it is not passed over in silence."""
    for path in paths:
        if path.is_dir():
            yield from sorted(_below(path))
        else:
            yield path


def _below(folder: Path) -> Iterator[Path]:
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        for path in (Path(place, name) for name in names):
            if not path.name.startswith(".") and path.suffix not in (".tmp", raw_keys.SUFFIX) and _is_file(path):
                yield path
    yield from (Path(error.filename) for error in closed)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot even be looked at: `examine` will say so


def examine(
    path: Path,
    kind: str = "auto",
    *,
    expect_name: bool = False,
    expected: str = "",
    algorithm: Algorithm = Algorithm.NONE,
) -> Candidate:
    """Read a file and say what it is.

    `kind`: one of FORMATS, or "auto". `expect_name`: an address in the file's name is what the key must have.
    `expected`: the address or public key (hex) that it must have. `algorithm`: of keys in hex. A file that cannot be
    read is no error but a candidate with a problem.
    """
    try:
        form, data = _content(path, kind)
    except OSError as error:
        return Candidate(path=path, problem=f"cannot be read: {error.strerror or type(error).__name__}")
    named = _ADDRESS.search(path.stem) if expect_name else None
    wanted = expected or (to_checksum(bytes.fromhex(named.group(1))) if named else "")
    known, problem = raw_keys.Known(), ""
    if not form:
        problem = "none of the known forms"
    elif len(data) > MAX_PACKED - 4 - limits.MAX_PASSWORD:
        problem = "too large for one request"
    elif form == "keystore-v3":
        claimed, problem = keystores.look(data)
        if wanted.startswith("0x") and claimed and wanted.lower() != claimed.lower():
            problem = "its address is not the expected one" if expected else "the file's name and its address differ"
        wanted = wanted or claimed
    elif form == "mpcenc-v1":
        problem = _mpcenc(data)
    elif form == "bip39":
        problem = "" if len(data.split()) in _WORDS and data.isascii() else "not a mnemonic of 12 to 24 English words"
    elif form == "raw-hex" and _HEX_KEY.fullmatch(_text(data)) is None:
        problem = "not 32 bytes in hex"
    elif form == "raw-hex":
        known = raw_keys.identify(path, bytes.fromhex(data.decode()), algorithm=algorithm, expected=wanted)
        problem = known.problem
    if form.startswith("mpc"):
        problem = problem or ("a share says nothing about itself: expect nothing of it" if expected else "")
        wanted = ""
    return Candidate(
        path=path,
        format=form,
        size=len(data),
        expected=wanted,
        problem=problem,
        algorithm=known.algorithm,
        public_key=known.public_key,
        digest=hashlib.sha256(data).digest(),
    )


def read(candidate: Candidate) -> bytes:
    """What is sent: of a key in hex its digits, else the file. Errors: ValueError when it is another file by now,
    OSError."""
    _, data = _content(candidate.path, candidate.format)
    if hashlib.sha256(data).digest() != candidate.digest:
        raise ValueError("the file has changed since it was looked at")
    return data


def is_expectation(text: str) -> bool:
    """An address, or a public key as records have them: 33 or 32 bytes in hex."""
    return _EXPECTED.fullmatch(text) is not None


def detect(path: Path, data: bytes) -> str:
    """The form of a file, or "". Only a legacy share file has nothing to know it by but its name."""
    if data.startswith(_MPCENC):
        return "mpcenc-v1"
    text = _text(data).strip()
    if text.startswith("{"):
        return "keystore-v3"
    if _HEX_KEY.fullmatch(text):
        return "raw-hex"
    words = text.split()
    if len(words) in _WORDS and all(word.isascii() and word.isalpha() for word in words):
        return "bip39"
    return "mpc-legacy" if path.suffix == ".enc" else ""


def request_id(tenant: str, candidate: Candidate, labels: Sequence[str], password: bytes) -> str:
    """The same for the same content under the same labels, so that a second run finds what the first one did.

    Of a mnemonic, its passphrase counts too. Of the others the password does not: a digest of file and password would
    let anybody who has the file try passwords faster than its KDF allows.
    """
    digest = hashlib.sha256(b"adytum/import-request/v2\0")
    secret = password if candidate.format == "bip39" else b""
    form = (candidate.format.encode(), candidate.algorithm.value.encode())
    for part in (tenant.encode(), *form, *(label.encode() for label in sorted(labels)), secret, candidate.digest):
        digest.update(len(part).to_bytes(4, "big") + part)
    return "import-" + digest.hexdigest()[:48]


def _content(path: Path, kind: str) -> tuple[str, bytes]:
    """(form, the file in the one spelling that is sent). Errors: OSError."""
    with path.open("rb") as opened:
        data = opened.read(limits.MAX_FILE + 1)
    form = detect(path, data) if kind == "auto" else kind
    if form == "bip39":
        data = b" ".join(data.lower().split())
    if form == "raw-hex" and _HEX_KEY.fullmatch(_text(data).strip()):
        data = _text(data).strip().lower().removeprefix("0x").encode()
    return form, data


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _mpcenc(data: bytes) -> str:
    """The mode stands behind the salt: see spec/imports.md."""
    salt_at = 8 + 5 + 13
    size = int.from_bytes(data[salt_at : salt_at + 2], "big")
    mode = data[salt_at + 2 + size : salt_at + 3 + size]
    if mode == b"\x01":
        return "its data key is wrapped by KMS (KMS_KEK): write it anew in password mode"
    return "" if mode == b"\x02" else "not a header that is known"
