"""What shows of a keystore (version 3) without its password: its address, and why the enclave would refuse it.

The enclave decides (spec/imports.md, I-5); this says it before anything is sent. Left out: all that needs the password,
which is whether it opens, whether the address is the key's, and whether the key is one at all.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from adytum_policy.content.address import to_checksum
from adytum_wire import limits

_HEX: Final = re.compile(r"(0x)?([0-9a-fA-F]{2})*")
_MEMBERS: Final = {"cipher", "cipherparams", "ciphertext", "kdf", "kdfparams", "mac"}
_SCRYPT: Final = {"dklen", "n", "p", "r", "salt"}
_PBKDF2: Final = {"c", "dklen", "prf", "salt"}


class _WrongError(ValueError):
    """`str()` is our sentence."""


def look(data: bytes) -> tuple[str, str]:
    """(the EIP-55 address that it claims or "", what is wrong with it or "")."""
    try:
        value = json.loads(data, object_pairs_hook=_pairs, parse_float=_no_number, parse_constant=_no_number)
        address = value.get("address") or ""
        claimed = to_checksum(bytes.fromhex(address.removeprefix("0x"))) if address else ""
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "", "not a keystore of version 3"
    try:
        _check(value)
    except _WrongError as error:
        return claimed, str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", "not a keystore of version 3"
    return claimed, ""


def _check(value: dict[str, Any]) -> None:
    if value["version"] != 3 or isinstance(value["version"], bool):
        raise _WrongError("not version 3")
    crypto = value["crypto"] if "crypto" in value else value["Crypto"]
    if ("crypto" in value and "Crypto" in value) or set(crypto) != _MEMBERS:
        raise ValueError
    if crypto["cipher"] != "aes-128-ctr":
        raise _WrongError("its cipher is not aes-128-ctr")
    _require_hex(crypto["cipherparams"]["iv"], 16, "its iv has not 16 bytes")
    _require_hex(crypto["ciphertext"], 32, "what it holds has not 32 bytes: it is no private key")
    _require_hex(crypto["mac"], 32, "its mac has not 32 bytes")
    _check_kdf(crypto["kdf"], crypto["kdfparams"])


def _check_kdf(kdf: object, params: dict[str, Any]) -> None:
    if kdf not in ("scrypt", "pbkdf2"):
        raise _WrongError("its kdf is neither scrypt nor pbkdf2")
    if set(params) != (_SCRYPT if kdf == "scrypt" else _PBKDF2) or params["dklen"] != 32:
        raise _WrongError("its kdfparams are not as they should be")
    if kdf == "scrypt":
        n, r, p = params["n"], params["r"], params["p"]
        if min(n, r, p) < 1 or n < 2 or n & (n - 1):
            raise _WrongError("its scrypt parameters are not possible")
        if 128 * n * r > limits.MAX_SCRYPT_MEMORY:
            raise _WrongError("its scrypt needs more memory than the enclave gives")
        if n * r * p > limits.MAX_SCRYPT_WORK or p > limits.MAX_SCRYPT_LANES:
            raise _WrongError("its scrypt takes more work than the enclave does")
    elif params["prf"] != "hmac-sha256":
        raise _WrongError("its prf is not hmac-sha256")
    elif not 1 <= params["c"] <= limits.MAX_PBKDF2_ROUNDS:
        raise _WrongError("its PBKDF2 has more rounds than the enclave does, or none")
    _require_hex(params["salt"], -1, "its salt is not hex")


def _require_hex(text: object, size: int, problem: str) -> None:
    """`size` in bytes, -1 for any up to the longest salt."""
    if not isinstance(text, str) or _HEX.fullmatch(text) is None:
        raise _WrongError(problem)
    found = len(text.removeprefix("0x")) // 2
    if found != size if size >= 0 else found > limits.MAX_SALT:
        raise _WrongError(problem)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_number(_text: str) -> NoReturn:
    raise ValueError
