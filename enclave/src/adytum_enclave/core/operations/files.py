"""`import_file`: what others wrote, opened here and nowhere else, and sealed as a record."""

from __future__ import annotations

import re
from typing import Final

from adytum_enclave.core import hd, keys
from adytum_enclave.core.imports import bip39, keystore, mpc_legacy, mpcenc
from adytum_enclave.core.imports.parts import Parts, invalid
from adytum_enclave.core.operations.context import Context, KmsSteps, open_sealed, store
from adytum_enclave.core.secrets import Slot
from adytum_policy.content import address_of
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import ImportFile
from adytum_wire.results import ImportFileResult
from adytum_wire.types import Algorithm, RecordKind

ETHEREUM_PATH: Final = "m/44'/60'/0'/0/0"
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


def import_file(context: Context, body: ImportFile) -> KmsSteps:
    """Errors: IMPORT_INVALID with the part that is wrong, also for a wrong password; nothing is stored and every slot
    is wiped then. REQUEST_INVALID for what does not open as sealed to this request."""
    arena = context.enclave.arena
    with open_sealed(context, body.sealed) as sealed:
        parts = Parts.of(sealed)
        context.check_deadline()
        if body.format == "keystore-v3":
            secret, claimed = yield from keystore.unlock(parts, arena)
            with keys.load(Algorithm.SECP256K1, secret, code=Code.IMPORT_INVALID) as key:
                if claimed and address_of(key.public_key)[2:].lower() != claimed:
                    raise invalid("address")
                _require_expected(body, key.public_key)
                return (
                    yield from store(
                        context,
                        body,
                        RecordKind.SIGNING_KEY,
                        Algorithm.SECP256K1,
                        key.public_key,
                        key.secret,
                        ImportFileResult,
                    )
                )
        if body.format == "bip39":
            with bip39.make_seed(parts, arena) as seed:
                _require_first_address(body, seed)
                return (yield from _store_opaque(context, body, RecordKind.HD_SEED, seed))
        if body.expected:
            raise AdytumError(Code.IMPORT_INVALID, "$.expected")
        unlock = mpcenc.unlock if body.format == "mpcenc-v1" else mpc_legacy.unlock
        with (yield from unlock(parts, arena)) as share:
            return (yield from _store_opaque(context, body, RecordKind.SHARE, share))


def _store_opaque(context: Context, body: ImportFile, kind: RecordKind, secret: Slot) -> KmsSteps:
    return (yield from store(context, body, kind, Algorithm.NONE, b"", secret, ImportFileResult))


def _require_first_address(body: ImportFile, seed: Slot) -> None:
    if body.expected:
        with hd.derive(seed, ETHEREUM_PATH, Algorithm.SECP256K1) as key:
            _require_expected(body, key.public_key)


def _require_expected(body: ImportFile, public_key: bytes) -> None:
    """An address counts with its EIP-55 capitals; without any capital it is the same address, written without check."""
    expected = body.expected
    if not expected:
        return
    address = address_of(public_key)
    known = (address, address.lower()) if _ADDRESS.fullmatch(expected) else (public_key.hex(),)
    if expected not in known:
        raise AdytumError(Code.IMPORT_INVALID, "$.expected")
