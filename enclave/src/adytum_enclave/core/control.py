"""The control port's messages, each a generator over effects: `Hello`, `Configure`, `Attest`, ... one function each."""

from __future__ import annotations

from collections.abc import Generator

from adytum_enclave.core.effects import Answer, Effect, GetDocument, Measure, ReadPcr
from adytum_enclave.core.enclave import Configured, Enclave
from adytum_enclave.core.phases import Phase
from adytum_enclave.core.steps.unseal import ask, open_record
from adytum_enclave.core.usage.credentials import AnchorKey
from adytum_enclave.core.usage.reset import open_reset
from adytum_policy.document import SignedPolicy, open_policy
from adytum_wire import messages
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Tenant
from adytum_wire.messages import (
    Attest,
    Checkpoint,
    Configure,
    ControlRequest,
    GetReceipts,
    GetUsage,
    Health,
    Hello,
    PutAnchorCredentials,
    PutPolicy,
    PutUsage,
    Reply,
    ResetUsage,
    SetCredentials,
)
from adytum_wire.types import sha256

ControlSteps = Generator[Effect, Answer, Reply]

PCR_BYTES = 48


def control(enclave: Enclave, request: ControlRequest, *, drift_ms: int, in_flight: int) -> ControlSteps:
    """Carry out one control message. Errors: PHASE_INVALID and those of each message; the state is then unchanged,
    except as `_configure` says."""
    enclave.phases.require(type(request))
    match request:
        case Hello():
            return _hello(enclave, request)
        case Health():
            return _health(enclave, drift_ms, in_flight)
        case Configure():
            return _configure(enclave, request)
        case SetCredentials():
            return _set_credentials(enclave, request)
        case PutPolicy():
            return _put_policy(enclave, request)
        case Attest():
            return _attest(enclave, request)
        case GetReceipts():
            return _get_receipts(enclave, request)
        case PutUsage():
            return _put_usage(enclave, request)
        case PutAnchorCredentials():
            return _put_anchor_credentials(enclave, request)
        case ResetUsage():
            return _reset_usage(enclave, request)
        case GetUsage():
            return _get_usage(enclave, request)
        case Checkpoint():
            return _checkpoint(enclave, request)


def _hello(enclave: Enclave, request: Hello) -> ControlSteps:
    """Errors: MESSAGE_INVALID for a protocol that is not spoken here (spec/wire.md, W-24)."""
    yield from ()  # a generator like the others
    if request.protocol != messages.PROTOCOL_VERSION:
        raise AdytumError(Code.MESSAGE_INVALID, "$.protocol")
    return messages.HelloReply(messages.PROTOCOL_VERSION, enclave.phases.now, enclave.boot_id, enclave.build)


def _health(enclave: Enclave, drift_ms: int, in_flight: int) -> ControlSteps:
    yield from ()
    configured = enclave.configured
    return messages.HealthReply(
        phase=enclave.phases.now,
        boot_id=enclave.boot_id,
        uptime_ms=enclave.now_ms() - enclave.started_ms,
        clock_drift_ms=drift_ms,
        in_flight=in_flight,
        warm_keys=len(configured.warm) if configured is not None else 0,
        policies={tenant: signed.policy.version for tenant, signed in enclave.policies.items()},
        receipts=len(enclave.receipts),
        counters=enclave.counters.snapshot(),
    )


def _configure(enclave: Enclave, request: Configure) -> ControlSteps:
    """Measure the manifest into PCR16, lock, and only then publish it.

    Errors: MANIFEST_INVALID leaves the phase as it was. An NSM failure after measuring has begun is terminal: PCR16
    may be extended, and no other manifest could then be proven.
    """
    candidate = Configured.of(request.manifest, binding=enclave.binding)
    pcr0 = yield ReadPcr(index=0)
    if (pcr0 == bytes(PCR_BYTES)) != candidate.manifest.debug:
        # A debug enclave's memory is open to the host: it must be asked for by name, and never pass for a real one.
        raise AdytumError(Code.MANIFEST_INVALID, "$.debug")
    enclave.phases.step(Phase.MEASURING)
    try:
        pcr16 = yield Measure(data=candidate.manifest_hash)
    except BaseException:
        enclave.phases.step(Phase.TERMINAL)
        raise
    if not isinstance(pcr16, bytes):
        enclave.phases.step(Phase.TERMINAL)
        raise AdytumError(Code.INTERNAL)
    enclave.configured = candidate
    enclave.ledger.configure(candidate.manifest)
    enclave.anchor_keys.configure(candidate.manifest)
    enclave.credentials = request.credentials
    enclave.phases.step(Phase.READY)
    return messages.ConfigureReply(candidate.manifest_hash, pcr16)


def _set_credentials(enclave: Enclave, request: SetCredentials) -> ControlSteps:
    yield from ()
    enclave.credentials = request.credentials
    return messages.Done()


def _put_policy(enclave: Enclave, request: PutPolicy) -> ControlSteps:
    """Errors: TENANT_UNKNOWN, POLICY_INVALID, POLICY_QUORUM, POLICY_ROLLBACK (also by what the anchor has seen), and
    where the anchor is asked its errors; the policy in force stays, except as `Ledger.admit_policy` says.

    An anchor that waits for its credentials cannot be asked: until they come nothing but `seal_anchor` is carried out,
    and then the policy is out of force."""
    signed = open_policy(request.envelope, _tenant(enclave, request.tenant))
    _require_newer(enclave, signed)
    if not enclave.anchor_keys.is_waiting(request.tenant):
        yield from enclave.ledger.admit_policy(request.tenant, signed.policy.version, signed.digest)
    _require_newer(enclave, signed)  # another one may have come meanwhile
    enclave.policies[request.tenant] = signed
    return messages.PutPolicyReply(signed.policy.version, signed.digest)


def _require_newer(enclave: Enclave, signed: SignedPolicy) -> None:
    held = enclave.policies.get(signed.policy.tenant)
    if held is not None and (
        signed.policy.version < held.policy.version
        or (signed.policy.version == held.policy.version and signed.digest != held.digest)
    ):
        raise AdytumError(Code.POLICY_ROLLBACK, "$.version")


def _attest(enclave: Enclave, request: Attest) -> ControlSteps:
    """The enclave never attests bytes of the caller's choosing, except as the nonce."""
    configured = _require(enclave)
    document = yield GetDocument(
        nonce=request.nonce,
        user_data=sha256(configured.binding),
        public_key=enclave.hpke_key.public_key,
    )
    if not isinstance(document, bytes):
        raise AdytumError(Code.INTERNAL)
    return messages.AttestReply(document, configured.binding)


def _get_receipts(enclave: Enclave, request: GetReceipts) -> ControlSteps:
    yield from ()
    return messages.GetReceiptsReply(enclave.receipts.remembered(request.first))


def _put_usage(enclave: Enclave, request: PutUsage) -> ControlSteps:
    """Errors: TENANT_UNKNOWN, USAGE_INVALID, USAGE_ROLLBACK, what KMS answers."""
    _tenant(enclave, request.tenant)
    yield from enclave.ledger.put_usage(request.tenant, request.snapshot)
    return messages.Done()


def _put_anchor_credentials(enclave: Enclave, request: PutAnchorCredentials) -> ControlSteps:
    """Errors: TENANT_UNKNOWN, USAGE_INVALID where the manifest wants no such record, RECORD_INVALID, RECORD_MISMATCH
    with the field, RECORD_RETIRED, RECORD_ROLLBACK, RECORD_TAMPERED, what KMS answers; those in force stay."""
    _tenant(enclave, request.tenant)
    header = enclave.anchor_keys.admit(request.tenant, request.record, _require(enclave).manifest)
    answer = yield from ask(request.record, header, versions=enclave.versions, shared=False)
    secret = open_record(
        request.record,
        header,
        answer,
        arena=enclave.arena,
        recipient=enclave.recipient,
        versions=enclave.versions,
    )
    with secret:
        key = AnchorKey.of(secret, code=Code.RECORD_INVALID, field="$.record")
    if enclave.anchor_keys.install(header, key):
        enclave.policies.pop(request.tenant, None)  # the anchor was not asked whether there is a newer one
    return messages.Done()


def _reset_usage(enclave: Enclave, request: ResetUsage) -> ControlSteps:
    """Errors: TENANT_UNKNOWN, USAGE_INVALID (also for another boot's or tenant's), POLICY_QUORUM."""
    yield from ()
    reset = open_reset(request.envelope, _tenant(enclave, request.tenant), boot_id=enclave.boot_id)
    enclave.ledger.reset(request.tenant, reset.limits)
    return messages.Done()


def _get_usage(enclave: Enclave, request: GetUsage) -> ControlSteps:
    """Errors: TENANT_UNKNOWN."""
    yield from ()
    _tenant(enclave, request.tenant)
    version, is_known, entries = enclave.ledger.describe(request.tenant)
    return messages.GetUsageReply(
        boot_id=enclave.boot_id,
        version=version,
        is_known=is_known,
        entries=[
            messages.UsageEntry(limit, scope, window_ms, str(used), str(held))
            for (limit, scope), window_ms, used, held in entries
        ],
    )


def _checkpoint(enclave: Enclave, _request: Checkpoint) -> ControlSteps:
    yield from ()
    return messages.CheckpointReply(enclave.receipts.checkpoint(enclave.now_ms()))


def _tenant(enclave: Enclave, tenant: str) -> Tenant:
    """Errors: PHASE_INVALID, TENANT_UNKNOWN."""
    found = _require(enclave).tenants.get(tenant)
    if found is None:
        raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
    return found


def _require(enclave: Enclave) -> Configured:
    if enclave.configured is None:
        raise AdytumError(Code.PHASE_INVALID)
    return enclave.configured
