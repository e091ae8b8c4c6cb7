"""Operations on seeds: `generate_seed`, and `derive_key`, which shows the public key at a path."""

from __future__ import annotations

from typing import Final

from adytum_enclave.core.hd import Seed
from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.operations.context import Context, KmsSteps, store
from adytum_enclave.core.operations.use import Used, with_key
from adytum_policy.content import addresses_of
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import DeriveKey, GenerateSeed
from adytum_wire.types import Algorithm, RecordKind

SEED_SIZE: Final = 32  # bytes


def generate(context: Context, body: GenerateSeed) -> KmsSteps:
    """A seed has no public key of its own: its record names none."""
    with context.enclave.arena.take(SEED_SIZE) as seed:
        context.enclave.fill(seed.view)
        return (
            yield from store(context, body, RecordKind.HD_SEED, Algorithm.NONE, b"", seed, results.GenerateSeedResult)
        )


def derive(context: Context, body: DeriveKey) -> KmsSteps:
    """Errors: REQUEST_INVALID for algorithm `none`, and for a path where the algorithm has no key."""
    if body.algorithm is Algorithm.NONE:
        raise AdytumError(Code.REQUEST_INVALID, "$.algorithm")

    def use(seed: WalletKey | Seed) -> Used:
        if not isinstance(seed, Seed):
            raise AdytumError(Code.RECORD_MISMATCH, "$.kind")
        public_key = seed.key(body.path, body.algorithm).public_key
        result = results.DeriveKeyResult(
            tenant=body.tenant,
            request_id=body.request_id,
            key_id=body.key_id,
            path=body.path,
            algorithm=body.algorithm,
            public_key=public_key.hex(),
            addresses=addresses_of(body.algorithm, public_key),
        )
        return Used(result, result.public_key)

    return with_key(context, use)
