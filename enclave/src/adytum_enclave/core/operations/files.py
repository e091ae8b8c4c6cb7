"""`import_file`: what others wrote, opened here and nowhere else, and sealed as a record."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, NamedTuple

from adytum_enclave.core import hd, keys
from adytum_enclave.core.effects import InTurn, Stretch
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


class _Opened(NamedTuple):
    """What the file held. `owner`: wipes `secret` when it is left."""

    kind: RecordKind
    algorithm: Algorithm
    public_key: bytes
    secret: Slot
    owner: AbstractContextManager[object]


def import_file(context: Context, body: ImportFile) -> KmsSteps:
    """A file and its password are in the arena only while it is their turn: what waits for a KDF, or for KMS, holds
    next to nothing of the room that all tenants share.

    Errors: IMPORT_INVALID with the part that is wrong, also for a wrong password; nothing is stored and every slot is
    wiped then. REQUEST_INVALID for what does not open as sealed to this request. RESOURCE_EXHAUSTED when too many of
    the tenant's wait."""
    found: list[_Opened] = []
    yield InTurn(tenant=body.tenant, steps=lambda: _open(context, body, found))
    [opened] = found
    with opened.owner:
        return (
            yield from store(
                context, body, opened.kind, opened.algorithm, opened.public_key, opened.secret, ImportFileResult
            )
        )


def _open(context: Context, body: ImportFile, found: list[_Opened]) -> Generator[Stretch, Any, None]:
    """Append what the file holds to `found`, or nothing."""
    context.check_deadline()
    arena = context.enclave.arena
    with open_sealed(context, body.sealed) as sealed:
        parts = Parts.of(sealed)
        if body.format == "keystore-v3":
            secret, claimed = yield from keystore.unlock(parts, arena)
            key = keys.load(Algorithm.SECP256K1, secret, code=Code.IMPORT_INVALID)
            with ExitStack() as owned:
                owned.enter_context(key)
                if claimed and address_of(key.public_key)[2:].lower() != claimed:
                    raise invalid("address")
                _require_expected(body, key.public_key)
                owned.pop_all()
            found.append(_Opened(RecordKind.SIGNING_KEY, Algorithm.SECP256K1, key.public_key, key.secret, key))
            return
        if body.format == "bip39":
            seed = yield from bip39.make_seed(parts, arena)
            with ExitStack() as owned:
                owned.enter_context(seed)
                _require_first_address(body, seed)
                owned.pop_all()
            found.append(_opaque(RecordKind.HD_SEED, seed))
            return
        if body.expected:
            raise AdytumError(Code.IMPORT_INVALID, "$.expected")
        unlock = mpcenc.unlock if body.format == "mpcenc-v1" else mpc_legacy.unlock
        found.append(_opaque(RecordKind.SHARE, (yield from unlock(parts, arena))))


def _opaque(kind: RecordKind, secret: Slot) -> _Opened:
    return _Opened(kind, Algorithm.NONE, b"", secret, secret)


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
