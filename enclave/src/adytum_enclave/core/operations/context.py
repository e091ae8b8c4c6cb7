"""What every operation is given, and the pieces that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

from adytum_enclave.core import hpke
from adytum_enclave.core.effects import DataKeyAnswer, InTurn, NewDataKey, OpenDataKey, Stretch
from adytum_enclave.core.enclave import Configured, Enclave
from adytum_enclave.core.recovery import seal_recovery
from adytum_enclave.core.secrets import Slot
from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_enclave.core.steps.decode import Asked
from adytum_enclave.core.steps.seal import seal
from adytum_enclave.core.steps.unseal import ask, open_record
from adytum_policy.content import address_of
from adytum_wire import limits, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record
from adytum_wire.requests import (
    OPERATIONS,
    DisableKey,
    Making,
    ScheduleDeletion,
    Sealed,
    SealedFile,
    import_info,
    unseal_info,
)
from adytum_wire.types import Algorithm, KeyState, RecordKind, derive_key_id, sha256

# These do nothing but take a right from a key.
STOPS: Final = (DisableKey, ScheduleDeletion)


class Context(NamedTuple):
    """One allowed request. `check_deadline` raises DEADLINE_EXCEEDED when nobody waits any more."""

    enclave: Enclave
    configured: Configured
    who: Authenticated
    asked: Asked
    record: Record | None
    check_deadline: Callable[[], None]


def _nothing() -> None:
    pass


class Effected(NamedTuple):
    """`record`: what the host must store. `about`: the header of the record that was made or used, if any. `recovery`:
    the made record's second envelope, or empty. `public_key`: of a key that is not `about`'s own but derived, hex.
    `keep`: changes what the enclave remembers; called once, when the charge lasts and the policy still is the one that
    decided, in one step with the receipt. It may refuse, and has changed nothing then."""

    result: bytes
    about: Header | None = None
    record: Record | None = None
    recovery: bytes = b""
    public_key: str = ""
    keep: Callable[[], None] = _nothing


KmsSteps = Generator[NewDataKey | OpenDataKey | Stretch | InTurn, Any, Effected]


def open_sealed(context: Context, sealed: Sealed | SealedFile) -> Slot:
    """What the client sealed to this request: for this operation, under the stamp of this key. The caller owns the
    slot. Errors: REQUEST_INVALID."""
    who, body = context.who, context.who.body
    return hpke.open_sealed(
        context.enclave.hpke_key,
        bytes.fromhex(sealed.enc),
        bytes.fromhex(sealed.ciphertext),
        info=import_info(OPERATIONS[type(body)], body.tenant, body.request_id, who.scheme, who.public_key),
        aad=b"",
        arena=context.enclave.arena,
        most=limits.MAX_FILE if isinstance(sealed, SealedFile) else limits.MAX_SECRET,
    )


def store(
    context: Context,
    body: Making,
    kind: RecordKind,
    algorithm: Algorithm,
    public_key: bytes,
    secret: Slot,
    result: type[results._Stored],
) -> KmsSteps:
    """Seal a new record, version 1. `secret` stays the caller's. `result`: the type of the answer."""
    header = Header(
        tenant=body.tenant,
        key_id=derive_key_id(body.tenant, body.request_id),
        node_id=context.configured.manifest.node_id,
        kind=kind,
        algorithm=algorithm,
        public_key=public_key.hex(),
        version=1,
        generation=context.who.policy.policy.generation,
        labels=body.labels,
        state=KeyState.ACTIVE,
        delete_after=0,
        kms_key_arn=context.who.tenant.kms_key,
        created_at=context.enclave.now_ms(),
    )
    return (yield from seal_under(context, header, secret, result))


def seal_again(
    context: Context,
    result: type[results._Stored],
    *,
    state: KeyState | None = None,
    delete_after: int = 0,
) -> KmsSteps:
    """Open the record and seal it under a fresh data key as its next version. Its identity stays; generation and KMS
    key are those in force now; `state` and `delete_after` change when given."""
    old, _ = named_record(context)
    answer = yield from ask_kms(context, shared=False)
    with open_named(context, answer) as secret:
        header = Header(
            tenant=old.tenant,
            key_id=old.key_id,
            node_id=old.node_id,
            kind=old.kind,
            algorithm=old.algorithm,
            public_key=old.public_key,
            version=old.version + 1,
            generation=context.who.policy.policy.generation,
            labels=old.labels,
            state=old.state if state is None else state,
            delete_after=old.delete_after if state is None else delete_after,
            kms_key_arn=context.who.tenant.kms_key,
            created_at=context.enclave.now_ms(),
        )
        effected = yield from seal_under(context, header, secret, result)
    return effected._replace(keep=lambda: context.configured.warm.drop(old.key_id))


def seal_under(context: Context, header: Header, secret: Slot, result: type[results._Stored]) -> KmsSteps:
    """Seal `secret` (stays the caller's) under `header`."""
    context.check_deadline()
    enclave = context.enclave
    record = yield from seal(header, secret, arena=enclave.arena, recipient=enclave.recipient, fill=enclave.fill)
    # Recovery holders can make new credentials; those that an enclave uses are for no eyes at all.
    is_for_enclaves = header.kind is RecordKind.ANCHOR_CREDENTIALS
    recovery = b"" if is_for_enclaves else _recovery(context, record, secret)
    return Effected(_stored(result, context, header, record), header, record, recovery)


def _recovery(context: Context, record: Record, secret: Slot) -> bytes:
    """The second envelope, where the policy in force asks for one."""
    rules = context.who.policy.policy.document.recovery
    if rules == "none":
        return b""
    enclave = context.enclave
    return seal_recovery(rules, record.header, secret, arena=enclave.arena, fill=enclave.fill)


def _stored(kind: type[results._Stored], context: Context, header: Header, record: Record) -> bytes:
    is_key = header.algorithm is Algorithm.SECP256K1 and header.kind is RecordKind.SIGNING_KEY
    return results.encode_result(
        kind(  # type: ignore[arg-type]
            tenant=header.tenant,
            request_id=context.who.body.request_id,
            key_id=header.key_id,
            kind=header.kind,
            algorithm=header.algorithm,
            public_key=header.public_key,
            address=address_of(bytes.fromhex(header.public_key)) if is_key else "",
            labels=header.labels,
            generation=header.generation,
            state=header.state,
            delete_after=header.delete_after,
            record_version=header.version,
            record_digest=sha256(record.header).hex(),
        )
    )


def named_record(context: Context) -> tuple[Header, Record]:
    """The record that came with the request. Errors: RECORD_MISSING."""
    if context.asked.header is None or context.record is None:
        raise AdytumError(Code.RECORD_MISSING)
    return context.asked.header, context.record


def ask_kms(context: Context, *, shared: bool) -> Generator[OpenDataKey, DataKeyAnswer, DataKeyAnswer]:
    """KMS's answer for the data key of the named record."""
    header, record = named_record(context)
    context.check_deadline()
    answer = yield from ask(record, header, versions=context.enclave.versions, shared=shared)
    context.check_deadline()
    return answer


def hand_out(context: Context, recipient: bytes) -> Generator[OpenDataKey, DataKeyAnswer, tuple[str, str]]:
    """Open the named record for this request alone, and seal its secret to `recipient` (X25519, 32 bytes). Returns
    (encapsulated key, ciphertext) in hex."""
    answer = yield from ask_kms(context, shared=False)
    body = context.who.body
    header, _ = named_record(context)
    with open_named(context, answer) as secret:
        enc, ciphertext = hpke.seal_to(
            recipient,
            secret,
            info=unseal_info(OPERATIONS[type(body)], body.tenant, body.request_id, header.key_id, header.kind),
            aad=b"",
            arena=context.enclave.arena,
            fill=context.enclave.fill,
        )
    return enc.hex(), ciphertext.hex()


def open_named(context: Context, answer: DataKeyAnswer) -> Slot:
    """The named record's secret; the caller owns the slot, and the header is proven."""
    header, record = named_record(context)
    enclave = context.enclave
    return open_record(
        record,
        header,
        answer,
        arena=enclave.arena,
        recipient=enclave.recipient,
        versions=enclave.versions,
        is_stop=isinstance(context.who.body, STOPS),
    )
