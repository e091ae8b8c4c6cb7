"""`export`: key material for a recipient that the policy names, sealed to its key (HPKE)."""

from __future__ import annotations

from adytum_enclave.core import hpke
from adytum_enclave.core.operations.context import Context, Effected, KmsSteps, ask_kms, named_record, open_named
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Export, unseal_info


def export(context: Context, body: Export) -> KmsSteps:
    """Errors: REQUEST_INVALID for a recipient that the policy does not name."""
    recipient = context.who.policy.policy.recipients.get(body.recipient)
    if recipient is None:
        raise AdytumError(Code.REQUEST_INVALID, "$.recipient")
    header, _ = named_record(context)
    answer = yield from ask_kms(context, shared=False)
    with open_named(context, answer) as secret:
        enc, ciphertext = hpke.seal_to(
            recipient,
            secret,
            info=unseal_info(body.tenant, body.request_id),
            aad=b"",
            arena=context.enclave.arena,
            fill=context.enclave.fill,
        )
    result = results.ExportResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        recipient=body.recipient,
        kind=header.kind,
        enc=enc.hex(),
        ciphertext=ciphertext.hex(),
    )
    return Effected(results.encode_result(result), header)
