"""`export`: key material for a recipient that the policy names, sealed to its key (HPKE)."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, Effected, KmsSteps, hand_out, named_record
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Export


def export(context: Context, body: Export) -> KmsSteps:
    """Errors: REQUEST_INVALID for a recipient that the policy does not name."""
    recipient = context.who.policy.policy.recipients.get(body.recipient)
    if recipient is None:
        raise AdytumError(Code.REQUEST_INVALID, "$.recipient")
    header, _ = named_record(context)
    enc, ciphertext = yield from hand_out(context, recipient)
    result = results.ExportResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        recipient=body.recipient,
        kind=header.kind,
        enc=enc,
        ciphertext=ciphertext,
    )
    return Effected(results.encode_result(result), header)
