"""A key in hex: of which algorithm it is, and whether it is the key that somebody thinks it is.

32 bytes do not say of which algorithm they are, and nearly any 32 bytes are a key of each: what was an Ed25519 key
would go in as a secp256k1 key without complaint. So something else has to say it, and whatever says it is compared:

    the header of the recovery envelope that lies beside the file (KEY.recovery for KEY.hex): algorithm and public key
    an Ethereum address that is expected: secp256k1
    --algorithm

Not left to the enclave: it is told algorithm and public key, and would only see that they belong together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum import recovery
from adytum_policy.content.address import address_of
from adytum_wire import limits
from adytum_wire.errors import AdytumError
from adytum_wire.record import Header, parse_header
from adytum_wire.recovery import parse_recovery
from adytum_wire.types import Algorithm, RecordKind

SUFFIX: Final = ".recovery"
NAME_IT: Final = "32 bytes do not say of which algorithm they are a key: give --algorithm"
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_MAX_ENVELOPE: Final = limits.MAX_RECOVERY_BYTES + limits.MAX_SECRET + limits.MAX_RECORD_HEADER + 4 * limits.KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """`public_key`: hex. `problem`: why it must not be sent, or ""."""

    algorithm: Algorithm = Algorithm.NONE
    public_key: str = ""
    problem: str = ""


def identify(path: Path, secret: bytes, *, algorithm: Algorithm = Algorithm.NONE, expected: str = "") -> Known:
    """`algorithm`: what the user says, NONE when he says nothing. `expected`: an Ethereum address or a public key in
    hex that it must have, or ""."""
    header, problem = header_beside(path)
    if problem:
        return Known(problem=problem)
    found = algorithm
    if header is not None:
        if algorithm not in (Algorithm.NONE, header.algorithm):
            return Known(problem=f"the recovery envelope beside it says that it is a key of {header.algorithm.value}")
        found = header.algorithm
    elif algorithm is Algorithm.NONE and _ADDRESS.fullmatch(expected):
        found = Algorithm.SECP256K1
    if found is Algorithm.NONE:
        return Known(problem=NAME_IT)
    try:
        public = recovery.public_key(found, secret)
    except ValueError:
        return Known(algorithm=found, problem=f"not a private key of {found.value}")
    if header is not None and public.hex() != header.public_key:
        problem = "its public key is not the one that the recovery envelope beside it names"
    elif expected and not is_expected(found, public.hex(), expected):
        problem = "it is not the expected key"
    return Known(algorithm=found, public_key=public.hex(), problem=problem)


def address(algorithm: Algorithm, public_key: str) -> str:
    """EIP-55, or "" for what has none."""
    return address_of(bytes.fromhex(public_key)) if algorithm is Algorithm.SECP256K1 and public_key else ""


def is_expected(algorithm: Algorithm, public_key: str, expected: str) -> bool:
    """An address counts with its EIP-55 capitals; without any capital it is the same address, written without check."""
    if not _ADDRESS.fullmatch(expected):
        return expected.lower() == public_key
    own = address(algorithm, public_key)
    return bool(own) and expected in (own, own.lower())


def header_beside(path: Path) -> tuple[Header | None, str]:
    """(the header of the recovery envelope beside `path` or None, what is wrong with it or "")."""
    for place in (path.with_name(path.name + SUFFIX), path.with_suffix(SUFFIX)):
        if place == path or not place.is_file():
            continue
        try:
            with place.open("rb") as file:
                header = parse_header(parse_recovery(file.read(_MAX_ENVELOPE)).header)
        except (AdytumError, OSError):
            return None, f"{place.name} lies beside it and is no recovery envelope that can be read"
        if header.kind is not RecordKind.SIGNING_KEY:
            return None, f"the recovery envelope beside it is of kind {header.kind.value}: that cannot go back in"
        return header, ""
    return None, ""
