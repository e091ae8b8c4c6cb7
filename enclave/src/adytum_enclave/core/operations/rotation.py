"""`rotation_statement`: what an enclave can vouch for after a rotation. It has not seen the database, and does not
pretend to: it says which generation it refuses to use, from which policy on."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, Effected, KmsSteps
from adytum_wire import results
from adytum_wire.requests import RotationStatement


def state(context: Context, body: RotationStatement) -> KmsSteps:
    yield from ()
    signed = context.who.policy
    result = results.RotationStatementResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id="",
        generation=signed.policy.generation,
        min_generation=signed.policy.min_generation,
        policy_version=signed.policy.version,
        policy_digest=signed.digest.hex(),
        kms_key_arn=context.who.tenant.kms_key,
        resealed=context.enclave.resealed.get(body.tenant, 0),
    )
    return Effected(results.encode_result(result))
