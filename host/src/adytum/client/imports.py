"""Files that others wrote, before they are sealed to the enclave: which form they have, and what can be said about
them without a secret.

    found = examine(Path("UTC--2026-01-02--7099...79c8"))
    found.format, found.expected    # "keystore-v3", "0x7099...79C8"

The enclave decides; this is for dry runs and clear messages. What a file holds is in this process's memory, as it was
on its disk: import on a machine that you would let hold the keys.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum_policy.content.address import to_checksum
from adytum_wire import limits
from adytum_wire.requests import unseal_info
from adytum_wire.results import ExportResult

FileFormat = Literal["keystore-v3", "bip39", "mpcenc-v1", "mpc-legacy"]
FORMATS: Final = ("keystore-v3", "bip39", "mpcenc-v1", "mpc-legacy", "raw-hex")
# A body is at most limits.MAX_BODY, in which a sealed byte takes two digits; labels and the rest take up to 2 KiB.
MAX_PACKED: Final = (limits.MAX_BODY - 2 * limits.KIB) // 2 - 16  # bytes of password and file together
_WORDS: Final = (12, 15, 18, 21, 24)
_HEX_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_ADDRESS: Final = re.compile(r"(?:^|[^0-9a-zA-Z])(?:0x)?([0-9a-fA-F]{40})(?![0-9a-zA-Z])")
_MPCENC: Final = b"MPCENC\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`format` is "" for what is none of ours. `expected`: an EIP-55 address, or "". `problem`: why the enclave would
    refuse it, as far as that shows without a password."""

    path: Path
    format: str
    expected: str
    problem: str
    file: bytes = field(repr=False)

    @property
    def needs_password(self) -> bool:
        return self.format in ("keystore-v3", "mpcenc-v1", "mpc-legacy")


def pack_file(password: bytes, file: bytes) -> bytes:
    """What is sealed for `import_file`. Errors: ValueError when the request would be too large."""
    packed = len(password).to_bytes(4, "big") + password + file
    if len(packed) > MAX_PACKED:
        raise ValueError(f"password and file together have more than {MAX_PACKED - 4} bytes")
    return packed


def passphrase(text: str) -> bytes:
    """A BIP-39 passphrase as it enters the derivation: NFKD, UTF-8."""
    return unicodedata.normalize("NFKD", text).encode()


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those below the folders named, in order; hidden and half-written ones left out."""
    for path in paths:
        if path.is_dir():
            below = (p for p in sorted(path.rglob("*")) if p.is_file())
            yield from (p for p in below if not p.name.startswith(".") and p.suffix != ".tmp")
        else:
            yield path


def examine(path: Path, kind: str = "auto", *, expect_name: bool = False) -> Candidate:
    """Read a file and say what it is. `kind`: one of FORMATS, or "auto". `expect_name`: an address in the file's name
    is what the key must have. Errors: OSError."""
    with path.open("rb") as opened:
        data = opened.read(limits.MAX_FILE + 1)
    form = detect(path, data) if kind == "auto" else kind
    named = _ADDRESS.search(path.stem) if expect_name else None
    expected = to_checksum(bytes.fromhex(named.group(1))) if named else ""
    problem = ""
    if not form:
        problem = "none of the known forms"
    elif len(data) > MAX_PACKED - 4 - limits.MAX_PASSWORD:
        problem = "too large for one request"
    elif form == "keystore-v3":
        claimed, problem = _keystore(data)
        if expected and claimed and expected != claimed:
            problem = "the file's name and its address differ"
        expected = expected or claimed
    elif form == "mpcenc-v1":
        problem = _mpcenc(data)
    elif form == "bip39":
        data = b" ".join(data.lower().split())
        problem = "" if len(data.split()) in _WORDS and data.isascii() else "not a mnemonic of 12 to 24 English words"
    elif form == "raw-hex":
        problem = "" if _HEX_KEY.fullmatch(_text(data).strip()) else "not 32 bytes in hex"
    if form.startswith("mpc"):
        expected = ""  # a share says nothing about itself
    return Candidate(path=path, format=form, expected=expected, problem=problem, file=data)


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
    """The same for the same file under the same labels, so that a second run finds what the first one did.

    Of a mnemonic, its passphrase counts too. Of the others the password does not: a digest of file and password would
    let anybody who has the file try passwords faster than its KDF allows.
    """
    digest = hashlib.sha256(b"adytum/import-request/v1\0")
    secret = password if candidate.format == "bip39" else b""
    for part in (tenant.encode(), candidate.format.encode(), *(label.encode() for label in sorted(labels)), secret):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(candidate.file)
    return "import-" + digest.hexdigest()[:48]


def raw_key(candidate: Candidate) -> bytes:
    """The 32 bytes of a `raw-hex` file."""
    return bytes.fromhex(_text(candidate.file).strip().removeprefix("0x"))


def open_export(result: ExportResult, private: X25519PrivateKey) -> bytes:
    """What an export carries, opened by its recipient. Errors: ValueError."""
    info = unseal_info(result.tenant, result.request_id)
    return hpke.unseal(private, bytes.fromhex(result.enc), bytes.fromhex(result.ciphertext), info=info)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _keystore(data: bytes) -> tuple[str, str]:
    """(the address that it claims, what is wrong with it)."""
    try:
        value = json.loads(data)
        crypto = value.get("crypto", value.get("Crypto"))
        address = value.get("address") or ""
        claimed = to_checksum(bytes.fromhex(address.removeprefix("0x"))) if address else ""
        params = crypto["kdfparams"]
        if value["version"] != 3:
            return claimed, "not version 3"
        if crypto["kdf"] == "scrypt" and 128 * params["n"] * params["r"] > limits.MAX_SCRYPT_MEMORY:
            return claimed, "its scrypt needs more memory than the enclave gives"
        if crypto["kdf"] == "pbkdf2" and params["c"] > limits.MAX_PBKDF2_ROUNDS:
            return claimed, "its PBKDF2 has more rounds than the enclave does"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", "not a keystore of version 3"
    return claimed, ""


def _mpcenc(data: bytes) -> str:
    """The mode stands behind the salt: see spec/imports.md."""
    salt_at = 8 + 5 + 13
    size = int.from_bytes(data[salt_at : salt_at + 2], "big")
    mode = data[salt_at + 2 + size : salt_at + 3 + size]
    if mode == b"\x01":
        return "its data key is wrapped by KMS (KMS_KEK): write it anew in password mode"
    return "" if mode == b"\x02" else "not a header that is known"
