"""`reseal`: the same secret under a fresh data key, as the record's next version."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, KmsSteps, seal_again
from adytum_wire import results
from adytum_wire.requests import Reseal


def reseal(context: Context, body: Reseal) -> KmsSteps:
    effected = yield from seal_again(context, results.ResealResult)

    def keep() -> None:
        effected.keep()
        resealed = context.enclave.resealed
        resealed[body.tenant] = resealed.get(body.tenant, 0) + 1
        context.enclave.counters.add("resealed")

    return effected._replace(keep=keep)
