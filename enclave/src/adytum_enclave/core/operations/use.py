"""Operations that use a record as it is: `sign`, `unseal`."""

from __future__ import annotations

from adytum_enclave.core import hpke
from adytum_enclave.core.operations.context import Context, Effected, KmsSteps, ask_kms, named_record, open_named
from adytum_enclave.core.steps.sign import sign
from adytum_enclave.core.steps.unseal import as_key
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Sign, Unseal, unseal_info


def sign_content(context: Context, body: Sign) -> KmsSteps:
    header, record = named_record(context)
    content = context.asked.content
    if content is None:
        raise AdytumError(Code.CONTENT_INVALID)
    enclave, warm = context.enclave, context.configured.warm
    enclave.versions.require(header)
    key = warm.use(header.key_id, record.header, enclave.now_ms())
    if key is not None:
        enclave.counters.add("warm_hits")
        context.check_deadline()
        return Effected(results.encode_result(sign(context.who, body, content, key)), header)
    enclave.counters.add("warm_misses")
    answer = yield from ask_kms(context, shared=warm.enabled)
    key = warm.use(header.key_id, record.header, enclave.now_ms())  # another waiter may have opened it by now
    if key is not None:
        return Effected(results.encode_result(sign(context.who, body, content, key)), header)
    key = as_key(header, open_named(context, answer))
    try:
        result = sign(context.who, body, content, key)
    except BaseException:
        key.wipe()
        raise
    warm.keep(header.key_id, record.header, key, enclave.now_ms())
    return Effected(results.encode_result(result), header)


def unseal(context: Context, body: Unseal) -> KmsSteps:
    header, _ = named_record(context)
    answer = yield from ask_kms(context, shared=False)
    with open_named(context, answer) as secret:
        enc, ciphertext = hpke.seal_to(
            bytes.fromhex(body.recipient),
            secret,
            info=unseal_info(body.tenant, body.request_id),
            aad=b"",
            arena=context.enclave.arena,
            fill=context.enclave.fill,
        )
    result = results.UnsealResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        enc=enc.hex(),
        ciphertext=ciphertext.hex(),
    )
    return Effected(results.encode_result(result), header)
