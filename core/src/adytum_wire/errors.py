"""The closed list of errors that may cross the wall (spec/wire.md, section 5).

Every refusal anywhere in Adytum is an `AdytumError` with one stable code. The text of a code is fixed: it is never
built from secret or attacker-supplied bytes. `field` names a field of *our* schema (never a name the sender chose).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class _Info(NamedTuple):
    http_status: int
    retryable: bool
    text: str


class Code(StrEnum):
    """Stable error codes. Adding one is a minor protocol change; renaming one never happens."""

    # the wire
    FRAME_INVALID = "FRAME_INVALID"
    MESSAGE_INVALID = "MESSAGE_INVALID"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    PEER_UNAVAILABLE = "PEER_UNAVAILABLE"
    PHASE_INVALID = "PHASE_INVALID"
    INTERNAL = "INTERNAL"
    # configuration and proof of identity
    MANIFEST_INVALID = "MANIFEST_INVALID"
    ADMISSION_FAILED = "ADMISSION_FAILED"
    ATTESTATION_FAILED = "ATTESTATION_FAILED"
    # who asks
    REQUEST_INVALID = "REQUEST_INVALID"
    TENANT_UNKNOWN = "TENANT_UNKNOWN"
    PRINCIPAL_UNKNOWN = "PRINCIPAL_UNKNOWN"
    STAMP_INVALID = "STAMP_INVALID"
    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    REQUEST_FROM_FUTURE = "REQUEST_FROM_FUTURE"
    REQUEST_CONFLICT = "REQUEST_CONFLICT"
    REQUEST_REPLAYED = "REQUEST_REPLAYED"
    # whether it is allowed
    POLICY_INVALID = "POLICY_INVALID"
    POLICY_QUORUM = "POLICY_QUORUM"
    POLICY_ROLLBACK = "POLICY_ROLLBACK"
    POLICY_EXPIRED = "POLICY_EXPIRED"
    POLICY_MISSING = "POLICY_MISSING"
    POLICY_DENIED = "POLICY_DENIED"
    CONTENT_INVALID = "CONTENT_INVALID"
    # who agrees
    APPROVALS_MISSING = "APPROVALS_MISSING"
    APPROVALS_REJECTED = "APPROVALS_REJECTED"
    APPROVAL_INVALID = "APPROVAL_INVALID"
    APPROVAL_UNKNOWN = "APPROVAL_UNKNOWN"
    APPROVAL_SUBJECT = "APPROVAL_SUBJECT"
    APPROVAL_SIGNATURE = "APPROVAL_SIGNATURE"
    APPROVAL_TYPE = "APPROVAL_TYPE"
    APPROVAL_CHALLENGE = "APPROVAL_CHALLENGE"
    APPROVAL_ORIGIN = "APPROVAL_ORIGIN"
    APPROVAL_RP_ID = "APPROVAL_RP_ID"
    APPROVAL_FLAGS = "APPROVAL_FLAGS"
    APPROVAL_COUNTER = "APPROVAL_COUNTER"
    # how much was used
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    USAGE_UNKNOWN = "USAGE_UNKNOWN"
    USAGE_INVALID = "USAGE_INVALID"
    USAGE_ROLLBACK = "USAGE_ROLLBACK"
    ANCHOR_UNAVAILABLE = "ANCHOR_UNAVAILABLE"
    # sessions
    SESSION_UNKNOWN = "SESSION_UNKNOWN"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    # the record
    RECORD_MISSING = "RECORD_MISSING"
    RECORD_INVALID = "RECORD_INVALID"
    RECORD_MISMATCH = "RECORD_MISMATCH"
    RECORD_TAMPERED = "RECORD_TAMPERED"
    RECORD_ROLLBACK = "RECORD_ROLLBACK"
    RECORD_RETIRED = "RECORD_RETIRED"
    KEY_STATE = "KEY_STATE"
    IMPORT_INVALID = "IMPORT_INVALID"
    # KMS
    KMS_DENIED = "KMS_DENIED"
    KMS_UNAVAILABLE = "KMS_UNAVAILABLE"
    KMS_ANSWER_INVALID = "KMS_ANSWER_INVALID"
    # receipts and audit chains (raised by the verifier and by the host's audit)
    RECEIPT_INVALID = "RECEIPT_INVALID"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    NOT_FOUND = "NOT_FOUND"
    # the life of a request at the host
    REQUEST_PENDING = "REQUEST_PENDING"
    REQUEST_CANCELLED = "REQUEST_CANCELLED"

    @property
    def text(self) -> str:
        return _INFO[self].text

    @property
    def http_status(self) -> int:
        return _INFO[self].http_status

    @property
    def retryable(self) -> bool:
        """True when the same request, unchanged, may succeed later."""
        return _INFO[self].retryable


_INFO: dict[Code, _Info] = {
    Code.FRAME_INVALID: _Info(400, False, "The frame is malformed or corrupted; the connection was closed."),
    Code.MESSAGE_INVALID: _Info(400, False, "The message does not match the protocol."),
    Code.DEADLINE_EXCEEDED: _Info(504, True, "The deadline passed before the work was done."),
    Code.RESOURCE_EXHAUSTED: _Info(429, True, "The queue is full; try again later."),
    Code.PEER_UNAVAILABLE: _Info(503, True, "The enclave cannot be reached."),
    Code.PHASE_INVALID: _Info(503, False, "The enclave does not take this message in its present phase."),
    Code.INTERNAL: _Info(500, True, "An internal error; nothing was done."),
    Code.MANIFEST_INVALID: _Info(400, False, "The manifest is not valid."),
    Code.ADMISSION_FAILED: _Info(503, False, "The enclave refused to serve on this machine."),
    Code.ATTESTATION_FAILED: _Info(503, True, "The enclave has not proven that it runs a released program."),
    Code.REQUEST_INVALID: _Info(400, False, "The request body is not valid."),
    Code.TENANT_UNKNOWN: _Info(403, False, "The manifest knows no such tenant."),
    Code.PRINCIPAL_UNKNOWN: _Info(401, False, "No principal of the policy in force owns the stamp's key."),
    Code.STAMP_INVALID: _Info(401, False, "The stamp does not verify over the request body."),
    Code.REQUEST_EXPIRED: _Info(401, False, "The request was issued too long ago."),
    Code.REQUEST_FROM_FUTURE: _Info(401, False, "The request was issued in the future."),
    Code.REQUEST_CONFLICT: _Info(409, False, "The request id was used with another body."),
    Code.REQUEST_REPLAYED: _Info(409, False, "The request was carried out before and its answer cannot be repeated."),
    Code.POLICY_INVALID: _Info(400, False, "The policy document is not valid."),
    Code.POLICY_QUORUM: _Info(403, False, "Too few administrators signed the policy."),
    Code.POLICY_ROLLBACK: _Info(409, False, "A newer policy is in force."),
    Code.POLICY_EXPIRED: _Info(403, False, "The policy in force has expired."),
    Code.POLICY_MISSING: _Info(403, False, "The tenant has no policy."),
    Code.POLICY_DENIED: _Info(403, False, "The policy does not allow this request."),
    Code.CONTENT_INVALID: _Info(400, False, "The content to sign cannot be decoded strictly."),
    Code.APPROVALS_MISSING: _Info(403, False, "The request needs more approvals than came with it."),
    Code.APPROVALS_REJECTED: _Info(403, False, "An approver rejected the request."),
    Code.APPROVAL_INVALID: _Info(400, False, "The approval is malformed."),
    Code.APPROVAL_UNKNOWN: _Info(403, False, "No principal of the policy in force owns the approval's key or passkey."),
    Code.APPROVAL_SUBJECT: _Info(403, False, "The approval is about another request."),
    Code.APPROVAL_SIGNATURE: _Info(403, False, "The approval's signature does not verify."),
    Code.APPROVAL_TYPE: _Info(403, False, "The passkey's assertion is of another ceremony than webauthn.get."),
    Code.APPROVAL_CHALLENGE: _Info(403, False, "The passkey signed another challenge."),
    Code.APPROVAL_ORIGIN: _Info(403, False, "The passkey was used on a page that the policy does not name."),
    Code.APPROVAL_RP_ID: _Info(403, False, "The passkey was used for another relying party."),
    Code.APPROVAL_FLAGS: _Info(403, False, "The passkey does not say that its user was present and verified."),
    Code.APPROVAL_COUNTER: _Info(403, False, "The passkey's counter went back: it may have been cloned."),
    Code.LIMIT_EXCEEDED: _Info(403, False, "The request would exceed a limit of the policy."),
    Code.USAGE_UNKNOWN: _Info(
        503, False, "What was used before this start is not known, so limits count as reached; present the snapshot."
    ),
    Code.USAGE_INVALID: _Info(422, False, "The usage snapshot or its reset is not valid."),
    Code.USAGE_ROLLBACK: _Info(422, False, "The usage snapshot is not the newest one."),
    Code.ANCHOR_UNAVAILABLE: _Info(503, True, "The anchor cannot be reached or gave an answer that fails its checks."),
    Code.SESSION_UNKNOWN: _Info(401, False, "The enclave has no such session; open another one."),
    Code.SESSION_EXPIRED: _Info(401, False, "The session has expired; open another one."),
    Code.RECORD_MISSING: _Info(404, False, "No sealed record came with it: the host has no such key of the tenant."),
    Code.RECORD_INVALID: _Info(422, False, "The sealed record is malformed."),
    Code.RECORD_MISMATCH: _Info(422, False, "The sealed record is not the one the request names."),
    Code.RECORD_TAMPERED: _Info(422, False, "The sealed record does not open: it or its data key was changed."),
    Code.RECORD_ROLLBACK: _Info(422, False, "A newer version of this record has been seen."),
    Code.RECORD_RETIRED: _Info(422, False, "The record's generation is below the floor that the policy sets."),
    Code.KEY_STATE: _Info(409, False, "The key's state does not allow this."),
    Code.IMPORT_INVALID: _Info(400, False, "The material to import does not open or is not what was announced."),
    Code.KMS_DENIED: _Info(502, False, "KMS refused."),
    Code.KMS_UNAVAILABLE: _Info(503, True, "KMS cannot be reached or asks for patience."),
    Code.KMS_ANSWER_INVALID: _Info(502, False, "KMS gave an answer that fails its checks."),
    Code.RECEIPT_INVALID: _Info(502, False, "The receipt does not verify."),
    Code.AUDIT_UNAVAILABLE: _Info(503, True, "The receipt could not be made durable; the answer is withheld."),
    Code.STORAGE_UNAVAILABLE: _Info(503, True, "The host's database cannot be reached or is too slow."),
    Code.NOT_FOUND: _Info(404, False, "There is no such thing."),
    Code.REQUEST_PENDING: _Info(409, True, "The request waits for approvals."),
    Code.REQUEST_CANCELLED: _Info(409, False, "The request was cancelled before it was carried out."),
}


class AdytumError(Exception):
    """A refusal. `code` is stable, `field` is a path in our own schema or empty, `retry_after_ms` is 0 or a hint.

    State after it was raised: as before the call, unless the raising function's docstring says otherwise.
    """

    def __init__(self, code: Code, field: str = "", *, retry_after_ms: int = 0) -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return f"{self.code.value}{where}: {self.code.text}"
