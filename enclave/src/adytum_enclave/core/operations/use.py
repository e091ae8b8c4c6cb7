"""Operations that use a record as it is: `sign`, `unseal`; and what all share that need an opened key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adytum_enclave.core.hd import Seed
from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.operations.context import (
    Context,
    Effected,
    KmsSteps,
    ask_kms,
    hand_out,
    named_record,
    open_named,
)
from adytum_enclave.core.steps.sign import sign
from adytum_enclave.core.steps.unseal import as_key
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Sign, Unseal


class Used(NamedTuple):
    """`public_key`: which key was used, hex: of a seed the derived one."""

    result: results.Result
    public_key: str


def with_key(context: Context, use: Callable[[WalletKey | Seed], Used]) -> KmsSteps:
    """Call `use` with the named record's key or seed, warm or opened for it, and keep it warm."""
    header, record = named_record(context)
    enclave, warm = context.enclave, context.configured.warm
    enclave.versions.require(header)
    key = warm.use(header.key_id, record.header, enclave.now_ms())
    if key is not None:
        enclave.versions.require_proven(header, record.header)
        enclave.counters.add("warm_hits")
        context.check_deadline()
    else:
        enclave.counters.add("warm_misses")
        answer = yield from ask_kms(context, shared=warm.enabled)
        key = warm.use(header.key_id, record.header, enclave.now_ms())  # another waiter may have opened it by now
        if key is None:
            key = as_key(header, open_named(context, answer))
            try:
                used = use(key)
            except BaseException:
                key.wipe()
                raise
            warm.keep(header.key_id, record.header, key, enclave.now_ms())
            return Effected(results.encode_result(used.result), header, public_key=used.public_key)
    used = use(key)
    return Effected(results.encode_result(used.result), header, public_key=used.public_key)


def sign_content(context: Context, body: Sign) -> KmsSteps:
    content = context.asked.content
    if content is None:
        raise AdytumError(Code.CONTENT_INVALID)

    def use(key: WalletKey | Seed) -> Used:
        result = sign(context.who, body, content, key)
        return Used(result, result.public_key)

    return with_key(context, use)


def unseal(context: Context, body: Unseal) -> KmsSteps:
    header, _ = named_record(context)
    enc, ciphertext = yield from hand_out(context, bytes.fromhex(body.recipient))
    result = results.UnsealResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        enc=enc,
        ciphertext=ciphertext,
    )
    return Effected(results.encode_result(result), header)
