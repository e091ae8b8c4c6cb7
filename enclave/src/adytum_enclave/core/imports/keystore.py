"""An Ethereum keystore (Web3 Secret Storage, version 3): JSON with a private key under a password.

Strict where keys depend on it (`crypto`, `version`), indifferent to what wallets add elsewhere (`id`, `x-ethers`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import sha3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from adytum_enclave.core.crypto.stretch import KEY_SIZE, Cost, Pbkdf2Cost, ScryptCost
from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports.parts import Parts, invalid
from adytum_enclave.core.secrets import Arena, Slot, copy, equal
from adytum_wire import strict_json

SECRET_SIZE: Final = 32  # bytes
_AES_KEY: Final = 16
_SPARE: Final = 15  # bytes that update_into wants behind its output
_HEX: Final = re.compile(r"([0-9a-fA-F]{2})*")
_ADDRESS: Final = re.compile(r"(0x)?[0-9a-fA-F]{40}")
_CRYPTO: Final = frozenset({"cipher", "cipherparams", "ciphertext", "kdf", "kdfparams", "mac"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Keystore:
    """`address`: 40 hex digits in lower case, or "" where the file has none."""

    cost: Cost
    iv: bytes  # 16
    ciphertext: bytes = field(repr=False)  # 32
    mac: bytes  # 32
    address: str


class _Refusal(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refusal("duplicate key")
    return result


def _no_number(_text: str) -> NoReturn:
    raise _Refusal("not an integer")


_scanner: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_no_number, parse_constant=_no_number)


def parse(file: bytes) -> Keystore:
    """Read a keystore. Errors: IMPORT_INVALID and nothing else, for whatever bytes."""
    try:
        text = file.decode("utf-8")
        if strict_json.is_too_deep(text):
            raise _Refusal("deep")
        value = _scanner.decode(text.strip())
    except (ValueError, RecursionError):
        raise invalid("JSON") from None
    if not isinstance(value, dict) or value.get("version") != 3 or isinstance(value["version"], bool):
        raise invalid("version")
    given = [name for name in ("crypto", "Crypto") if name in value]  # the second is older geth's
    if len(given) != 1 or not isinstance(value[given[0]], dict) or set(value[given[0]]) != _CRYPTO:
        raise invalid("crypto")
    crypto: dict[str, Any] = value[given[0]]
    if crypto["cipher"] != "aes-128-ctr":
        raise invalid("cipher")
    return Keystore(
        cost=_cost(crypto["kdf"], crypto["kdfparams"]),
        iv=_bytes(_only(crypto["cipherparams"], "iv")["iv"], 16, "cipherparams"),
        ciphertext=_bytes(crypto["ciphertext"], SECRET_SIZE, "ciphertext"),
        mac=_bytes(crypto["mac"], 32, "mac"),
        address=_address(value.get("address", "")),
    )


def unlock(parts: Parts, arena: Arena) -> Generator[Stretch, Any, tuple[Slot, str]]:
    """(the private key, 32 bytes, not yet checked to be one; the address that the file claims). The caller owns it.

    Errors: IMPORT_INVALID, also for a wrong password; RESOURCE_EXHAUSTED. No slot stays taken then.
    """
    file = parse(parts.file())
    with arena.take(KEY_SIZE) as key:
        slot, start, end = parts.slot, parts.password_start, parts.middle
        yield Stretch(work=lambda: file.cost.derive(slot, start, end, key))
        # What is hashed besides the public ciphertext serves for the MAC only, and tells no more than the MAC does.
        with arena.take(_AES_KEY + SECRET_SIZE) as hashed:
            copy(key.view[_AES_KEY:], hashed)
            hashed.view[_AES_KEY:] = file.ciphertext
            mac: bytes = sha3.keccak_256(hashed.view).digest()
        if not equal(mac, file.mac):
            raise invalid("password")
        with arena.take(SECRET_SIZE + _SPARE) as out:
            cipher = Cipher(algorithms.AES(key.view[:_AES_KEY]), modes.CTR(file.iv)).decryptor()
            cipher.update_into(file.ciphertext, out.view)
            secret = arena.take(SECRET_SIZE)
            copy(out.view[:SECRET_SIZE], secret)
        return secret, file.address


def _cost(kdf: object, params: object) -> Cost:
    cost: Cost
    if kdf == "scrypt":
        found = _only(params, "dklen", "n", "p", "r", "salt")
        cost = ScryptCost(n=_int(found["n"]), r=_int(found["r"]), p=_int(found["p"]), salt=_salt(found))
    elif kdf == "pbkdf2":
        found = _only(params, "c", "dklen", "prf", "salt")
        if found["prf"] != "hmac-sha256":
            raise invalid("kdfparams")
        cost = Pbkdf2Cost(rounds=_int(found["c"]), salt=_salt(found))
    else:
        raise invalid("kdf")
    if _int(found["dklen"]) != KEY_SIZE:
        raise invalid("kdfparams")
    if not cost.is_affordable:
        raise invalid("kdfparams too costly")
    return cost


def _only(value: object, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise invalid("kdfparams" if len(names) > 1 else "cipherparams")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid("kdfparams")
    return value


def _salt(params: dict[str, Any]) -> bytes:
    return _bytes(params["salt"], -1, "kdfparams")


def _bytes(value: object, size: int, name: str) -> bytes:
    if not isinstance(value, str):
        raise invalid(name)
    text = value.removeprefix("0x")
    if _HEX.fullmatch(text) is None or size not in (-1, len(text) // 2):
        raise invalid(name)
    return bytes.fromhex(text)


def _address(value: object) -> str:
    if value == "" or value is None:
        return ""
    if not isinstance(value, str) or _ADDRESS.fullmatch(value) is None:
        raise invalid("address")
    return value.removeprefix("0x").lower()
