"""A key's state stands in its sealed header, so a change of state is a reseal: the host can neither make nor undo one
without going back to an older version."""

from __future__ import annotations

from adytum_enclave.core.operations.context import (
    Context,
    Effected,
    KmsSteps,
    ask_kms,
    named_record,
    open_named,
    seal_again,
)
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import CancelDeletion, DeleteKey, DisableKey, EnableKey, ScheduleDeletion
from adytum_wire.types import KeyState, sha256

_DAY_MS = 86_400_000


def change(context: Context, body: EnableKey | DisableKey | ScheduleDeletion | CancelDeletion) -> KmsSteps:
    """Which change is possible from which state is checked before: `steps/standing.py`.

    What takes a right away counts at once (ADR 6): the older record, which still says active, opens no more in this
    boot, even if the host loses the newer one; nor does another record of the new version.
    """
    match body:
        case EnableKey():
            return seal_again(context, results.EnableKeyResult, state=KeyState.ACTIVE)
        case DisableKey():
            return _at_once(context, seal_again(context, results.DisableKeyResult, state=KeyState.DISABLED))
        case CancelDeletion():
            return seal_again(context, results.CancelDeletionResult, state=KeyState.DISABLED)
        case ScheduleDeletion():
            steps = seal_again(
                context,
                results.ScheduleDeletionResult,
                state=KeyState.PENDING_DELETION,
                delete_after=context.enclave.now_ms() + body.waiting_days * _DAY_MS,
            )
            return _at_once(context, steps)


def _at_once(context: Context, steps: KmsSteps) -> KmsSteps:
    effected = yield from steps
    header, record = effected.about, effected.record
    if header is None or record is None:
        raise AdytumError(Code.INTERNAL)

    def keep() -> None:
        context.enclave.versions.supersede(header, record.header)
        effected.keep()

    return effected._replace(keep=keep)


def delete(context: Context, body: DeleteKey) -> KmsSteps:
    """Errors: KEY_STATE before the waiting period is over. The record is opened once more, since only that proves what
    its header says; afterwards this boot opens no version of it."""
    header, record = named_record(context)
    if context.enclave.now_ms() < header.delete_after:
        raise AdytumError(Code.KEY_STATE, "$.delete_after")
    answer = yield from ask_kms(context, shared=False)
    open_named(context, answer).wipe()

    def keep() -> None:
        context.enclave.versions.retire(header.key_id)
        context.configured.warm.drop(header.key_id)

    result = results.DeleteKeyResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        record_version=header.version,
        record_digest=sha256(record.header).hex(),
    )
    return Effected(results.encode_result(result), header, keep=keep)
