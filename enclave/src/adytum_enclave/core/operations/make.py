"""Operations that make a record: `generate_key`, `import_key`, `seal`, `seal_anchor`."""

from __future__ import annotations

from adytum_enclave.core import keys
from adytum_enclave.core.operations.context import Context, KmsSteps, open_sealed, store
from adytum_enclave.core.usage.credentials import AnchorKey
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import GenerateKey, ImportKey, Seal, SealAnchor
from adytum_wire.types import Algorithm, RecordKind

_Result = results.GenerateKeyResult | results.ImportKeyResult


def generate(context: Context, body: GenerateKey) -> KmsSteps:
    if body.algorithm is Algorithm.NONE:
        raise AdytumError(Code.REQUEST_INVALID, "$.algorithm")
    with keys.generate(body.algorithm, context.enclave.arena, context.enclave.fill) as key:
        return (yield from _store_key(context, body, key, results.GenerateKeyResult))


def import_key(context: Context, body: ImportKey) -> KmsSteps:
    secret = open_sealed(context, body.sealed)
    with keys.load(body.algorithm, secret, code=Code.REQUEST_INVALID) as key:
        if key.public_key.hex() != body.public_key:
            raise AdytumError(Code.REQUEST_INVALID, "$.public_key")
        return (yield from _store_key(context, body, key, results.ImportKeyResult))


def _store_key(context: Context, body: GenerateKey | ImportKey, key: keys.WalletKey, result: type[_Result]) -> KmsSteps:
    return (yield from store(context, body, RecordKind.SIGNING_KEY, body.algorithm, key.public_key, key.secret, result))


def seal_secret(context: Context, body: Seal) -> KmsSteps:
    with open_sealed(context, body.sealed) as secret:
        return (yield from store(context, body, RecordKind.SECRET, Algorithm.NONE, b"", secret, results.SealResult))


def seal_anchor(context: Context, body: SealAnchor) -> KmsSteps:
    """Errors: REQUEST_INVALID for what `AnchorKey` would not take."""
    with open_sealed(context, body.sealed) as secret:
        AnchorKey.of(secret, code=Code.REQUEST_INVALID, field="$.sealed").wipe()
        return (
            yield from store(
                context, body, RecordKind.ANCHOR_CREDENTIALS, Algorithm.NONE, b"", secret, results.SealAnchorResult
            )
        )
