"""Steps 4 and 5 for each operation: what happens once a request is allowed. One generator an operation."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from adytum_enclave.core import hpke, keys
from adytum_enclave.core.effects import DataKeyAnswer, NewDataKey, OpenDataKey
from adytum_enclave.core.enclave import Configured, Enclave
from adytum_enclave.core.secrets import Slot
from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_enclave.core.steps.decode import Asked
from adytum_enclave.core.steps.seal import seal
from adytum_enclave.core.steps.sign import sign
from adytum_enclave.core.steps.unseal import as_key, ask, open_record
from adytum_policy.content import address_of
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record
from adytum_wire.requests import (
    GenerateKey,
    ImportKey,
    Reseal,
    Seal,
    Sealed,
    Sign,
    Unseal,
    import_info,
    unseal_info,
)
from adytum_wire.types import Algorithm, RecordKind, derive_key_id, sha256


class Context(NamedTuple):
    """One allowed request. `check_deadline` raises DEADLINE_EXCEEDED when nobody waits any more."""

    enclave: Enclave
    configured: Configured
    who: Authenticated
    asked: Asked
    record: Record | None
    check_deadline: Callable[[], None]


class Effected(NamedTuple):
    """`record`: what the host must store. `about`: the header of the record that was made or used."""

    result: bytes
    about: Header
    record: Record | None = None


KmsSteps = Generator[NewDataKey | OpenDataKey, DataKeyAnswer, Effected]

_RESULTS: dict[type, type[results.GenerateKeyResult | results.ImportKeyResult | results.SealResult]] = {
    GenerateKey: results.GenerateKeyResult,
    ImportKey: results.ImportKeyResult,
    Seal: results.SealResult,
}


def carry_out(context: Context) -> KmsSteps:
    """Errors: those of the steps. No secret outlives the call, except a warm key; nothing else has changed."""
    match context.who.body:
        case GenerateKey() as body:
            return _generate(context, body)
        case ImportKey() as body:
            return _import(context, body)
        case Seal() as body:
            return _seal(context, body)
        case Sign() as body:
            return _sign(context, body)
        case Unseal() as body:
            return _unseal(context, body)
        case Reseal() as body:
            return _reseal(context, body)


def _generate(context: Context, body: GenerateKey) -> KmsSteps:
    if body.algorithm is Algorithm.NONE:
        raise AdytumError(Code.REQUEST_INVALID, "$.algorithm")
    with keys.generate(body.algorithm, context.enclave.arena, context.enclave.fill) as key:
        return (yield from _store(context, body, RecordKind.SIGNING_KEY, key.public_key, key.secret))


def _import(context: Context, body: ImportKey) -> KmsSteps:
    secret = _open_sealed(context, body.sealed)
    with keys.load(body.algorithm, secret, code=Code.REQUEST_INVALID) as key:
        if key.public_key.hex() != body.public_key:
            raise AdytumError(Code.REQUEST_INVALID, "$.public_key")
        return (yield from _store(context, body, RecordKind.SIGNING_KEY, key.public_key, key.secret))


def _seal(context: Context, body: Seal) -> KmsSteps:
    with _open_sealed(context, body.sealed) as secret:
        return (yield from _store(context, body, RecordKind.SECRET, b"", secret))


def _open_sealed(context: Context, sealed: Sealed) -> Slot:
    body = context.who.body
    return hpke.open_sealed(
        context.enclave.hpke_key,
        bytes.fromhex(sealed.enc),
        bytes.fromhex(sealed.ciphertext),
        info=import_info(body.tenant, body.request_id),
        aad=b"",
        arena=context.enclave.arena,
    )


def _store(
    context: Context, body: GenerateKey | ImportKey | Seal, kind: RecordKind, public_key: bytes, secret: Slot
) -> KmsSteps:
    """Seal a new record, version 1. `secret` stays the caller's."""
    enclave = context.enclave
    header = Header(
        tenant=body.tenant,
        key_id=derive_key_id(body.tenant, body.request_id),
        node_id=context.configured.manifest.node_id,
        kind=kind,
        algorithm=Algorithm.NONE if isinstance(body, Seal) else body.algorithm,
        public_key=public_key.hex(),
        version=1,
        labels=body.labels,
        kms_key_arn=context.who.tenant.kms_key,
        created_at=enclave.now_ms(),
    )
    context.check_deadline()
    record = yield from seal(header, secret, arena=enclave.arena, recipient=enclave.recipient, fill=enclave.fill)
    return Effected(_stored(_RESULTS[type(body)], context, header, record), header, record)


def _stored(kind: type[results._Stored], context: Context, header: Header, record: Record) -> bytes:
    return results.encode_result(
        kind(  # type: ignore[arg-type]
            tenant=header.tenant,
            request_id=context.who.body.request_id,
            key_id=header.key_id,
            kind=header.kind,
            algorithm=header.algorithm,
            public_key=header.public_key,
            address=address_of(bytes.fromhex(header.public_key)) if header.algorithm is Algorithm.SECP256K1 else "",
            labels=header.labels,
            record_version=header.version,
            record_digest=sha256(record.header).hex(),
        )
    )


def _named_record(context: Context) -> tuple[Header, Record]:
    if context.asked.header is None or context.record is None:
        raise AdytumError(Code.RECORD_MISSING)
    return context.asked.header, context.record


def _ask(context: Context, *, shared: bool) -> Generator[OpenDataKey, DataKeyAnswer, DataKeyAnswer]:
    header, record = _named_record(context)
    context.check_deadline()
    answer = yield from ask(record, header, versions=context.enclave.versions, shared=shared)
    context.check_deadline()
    return answer


def _open(context: Context, answer: DataKeyAnswer) -> Slot:
    header, record = _named_record(context)
    enclave = context.enclave
    return open_record(
        record, header, answer, arena=enclave.arena, recipient=enclave.recipient, versions=enclave.versions
    )


def _sign(context: Context, body: Sign) -> KmsSteps:
    header, record = _named_record(context)
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
    answer = yield from _ask(context, shared=warm.enabled)
    key = warm.use(header.key_id, record.header, enclave.now_ms())  # another waiter may have opened it by now
    if key is not None:
        return Effected(results.encode_result(sign(context.who, body, content, key)), header)
    key = as_key(header, _open(context, answer))
    try:
        result = sign(context.who, body, content, key)
    except BaseException:
        key.wipe()
        raise
    warm.keep(header.key_id, record.header, key, enclave.now_ms())
    return Effected(results.encode_result(result), header)


def _unseal(context: Context, body: Unseal) -> KmsSteps:
    header, _ = _named_record(context)
    answer = yield from _ask(context, shared=False)
    with _open(context, answer) as secret:
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


def _reseal(context: Context, body: Reseal) -> KmsSteps:
    """Identity stays; data key, version and (if the manifest names another one for the tenant) KMS key change."""
    old, _ = _named_record(context)
    enclave = context.enclave
    answer = yield from _ask(context, shared=False)
    with _open(context, answer) as secret:
        header = Header(
            tenant=old.tenant,
            key_id=old.key_id,
            node_id=old.node_id,
            kind=old.kind,
            algorithm=old.algorithm,
            public_key=old.public_key,
            version=old.version + 1,
            labels=old.labels,
            kms_key_arn=context.who.tenant.kms_key,
            created_at=enclave.now_ms(),
        )
        context.check_deadline()
        record = yield from seal(header, secret, arena=enclave.arena, recipient=enclave.recipient, fill=enclave.fill)
    context.configured.warm.drop(header.key_id)
    return Effected(_stored(results.ResealResult, context, header, record), header, record)
