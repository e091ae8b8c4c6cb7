"""The one table: for each field that a host carries, which step stops its manipulation, and with which codes.

`FIELDS` has an entry for every struct and every field of it that `surface` finds; one that is missing here, and one
that is on the wire no more, fail the suite. `codes` are for values that the type allows, `malformed` for those it does
not. `UNPROVEN` are fields that nobody is asked to believe: the row says where the truth is found instead.
`SCENARIOS` are attacks that are not about one field.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from adytum_policy.shape import PolicyDocument
from adytum_sim.hostile.examples import examples
from adytum_sim.hostile.surface import surface
from adytum_verify.codes import AttestationCode
from adytum_wire.requests import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`step`: the file that refuses. `codes`: any of them."""

    step: str
    codes: tuple[str, ...]
    malformed: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """A field that proves nothing to anybody. `instead`: where a verifier finds the truth."""

    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An attack of several messages, or on bytes below the messages. `test`: `file::function`, without the folder."""

    attack: str
    target: str
    step: str
    codes: tuple[str, ...]
    test: str


Row = Stop | Unproven

_WIRE = "core wire/messages.py"
_AUTH = "enclave core/steps/authenticate.py"
_DECODE = "enclave core/steps/decode.py"
_APPROVE = "core policy/approvals/verify.py, enclave core/steps/approve.py"
_UNSEAL = "enclave core/steps/unseal.py, core/envelope.py"
_QUORUM = "core policy/quorum.py"
_LEDGER = "enclave core/usage/ledger.py, core/usage/sealing.py"
_RESET = "enclave core/usage/reset.py, core policy/quorum.py"
_DSSE = "core wire/dsse.py"
_KMS = "KMS, enclave shell/kms.py"
_CHECKS = "host client/checks.py"
_VERIFY = "verify attestation.py, enclave.py"
_CHAIN = "verify audit.py"
_MARK = "verify checkpoints.py"

MALFORMED: Final = ("MESSAGE_INVALID",)
_STAMPED: Final = Stop(step=_AUTH, codes=("STAMP_INVALID",), malformed=("STAMP_INVALID",))
_NOT_SIGNED: Final = ("APPROVAL_SIGNATURE", "APPROVAL_CHALLENGE")
_SIGNED_STATEMENT: Final = Stop(step=_APPROVE, codes=_NOT_SIGNED, malformed=_NOT_SIGNED)
_APPROVALS: Final = Stop(
    step=_APPROVE + ", core policy/tally.py",
    codes=("APPROVALS_MISSING", "APPROVAL_SUBJECT"),
    malformed=MALFORMED,
    note="their order says nothing",
)
_STAMP: Final = Stop(step=_AUTH, codes=("STAMP_INVALID",), malformed=MALFORMED)
_MESSAGE: Final = Stop(step=_WIRE, codes=MALFORMED, malformed=MALFORMED)
_BAD_HEADER: Final = ("RECORD_INVALID",)
_CLAIMED: Final = Stop(step=_DECODE, codes=("RECORD_MISMATCH",), malformed=_BAD_HEADER)
_SEALED_IN: Final = Stop(step=_UNSEAL, codes=("RECORD_TAMPERED",), malformed=_BAD_HEADER)
_STANDING: Final = "enclave core/steps/standing.py, " + _UNSEAL.removeprefix("enclave ")
_KEPT_USAGE: Final = Stop(
    step=_LEDGER,
    codes=("USAGE_INVALID", "USAGE_ROLLBACK"),
    malformed=("USAGE_INVALID",),
    note="limits stay closed until the genuine snapshot comes",
)
_KEPT_ACCESS: Final = Stop(
    step="enclave core/usage/credentials.py, " + _UNSEAL.removeprefix("enclave "),
    codes=("RECORD_MISMATCH", "RECORD_TAMPERED", "RECORD_RETIRED", "RECORD_ROLLBACK", "RECORD_INVALID"),
    malformed=(*MALFORMED, "RECORD_INVALID"),
    note="with every field inside; what waits for the anchor goes on waiting",
)
_KEPT_SNAPSHOT: Final = Stop(
    step=_LEDGER + ", when the host presents it",
    codes=("USAGE_INVALID", "USAGE_ROLLBACK"),
    malformed=MALFORMED,
    note="the client never sees it; the host closes its own limits",
)
_SIGNED_POLICY: Final = Stop(step=_QUORUM, codes=("POLICY_QUORUM",), malformed=("POLICY_QUORUM",))
_SECOND_ENVELOPE: Final = Stop(
    step="host recovery.py, when holders open it offline",
    codes=("RECORD_INVALID", "RECORD_MISMATCH"),
    malformed=MALFORMED,
    note="the client never sees it; a host that spoils it is found out by a drill",
)
_SIGNED_RESET: Final = Stop(step=_RESET, codes=("POLICY_QUORUM",), malformed=("POLICY_QUORUM",))
_ANSWER: Final = Stop(step=_CHECKS, codes=("RECEIPT_INVALID",), malformed=("RECEIPT_INVALID",))
_SECOND_ENVELOPE_INSIDE: Final = Stop(
    step="host recovery.py, when holders open it offline",
    codes=("RECORD_INVALID", "RECORD_MISMATCH"),
    malformed=("RECORD_INVALID",),
)
_CHECKED_MARK: Final = Stop(step=_MARK, codes=("RECEIPT_INVALID",), malformed=("RECEIPT_INVALID",))
_PROOF: Final = Stop(step=_VERIFY, codes=("USER_DATA_MISMATCH",), malformed=("USER_DATA_MISMATCH",))
_MEASURED: Final = Stop(
    step="enclave core/control.py measures it, verify enclave.py and KMS compare PCR16",
    codes=("PCR_MISMATCH", "MANIFEST_INVALID"),
    malformed=("MANIFEST_INVALID",),
)
_CREDENTIALS: Final = Stop(
    step="KMS, enclave shell/kms.py",
    codes=("KMS_UNAVAILABLE", "KMS_DENIED"),
    malformed=MALFORMED,
    note="taken; the next use of KMS is refused until good ones come",
)


_CERTIFICATES: Final = tuple(code.value for code in AttestationCode if code.value.startswith("CHAIN_"))
# One bit of a signed document can be anything that the verifier looks at before the signature, or the signature itself.
_STEPS_1_TO_6: Final = (
    *(code.value for code in AttestationCode if code.value.startswith(("COSE_", "PAYLOAD_", "CHAIN_"))),
    *("DOCUMENT_SIZE", "EXPIRED", "NOT_YET_VALID", "MODULE_MISMATCH", "SIGNATURE_INVALID"),
)


def _document(*codes: str) -> Stop:
    """Forged documents may also fail on their signature, and with a field too many."""
    step = "verify cose.py, document.py, chain.py, attestation.py"
    return Stop(step=step, codes=(*codes, "PAYLOAD_UNKNOWN_FIELD", "SIGNATURE_INVALID"))


def _all(names: str, row: Row) -> dict[str, Row]:
    return dict.fromkeys(names.split(), row)


_RESULT = "operation v tenant request_id key_id"
_STORED = _RESULT + " kind algorithm public_key address labels record_version record_digest"
_STATE = " generation state delete_after"
_BY_BINDING = Unproven(instead="the attested binding")
_BY_RECEIPTS = Unproven(instead="limits of every receipt: each charge, and how much was used then")
_BY_HEALTH = Unproven(instead="nowhere: a report of the host about its own machine; nothing is decided by it")

FIELDS: Final[dict[str, dict[str, Row]]] = {
    # --- requests
    "Hello": _all("type protocol", _MESSAGE),
    "Health": _all("type", _MESSAGE),
    "Checkpoint": _all("type", _MESSAGE),
    "Attest": _all("type", _MESSAGE)
    | _all("nonce", Stop(step=_VERIFY, codes=("NONCE_MISMATCH",), malformed=MALFORMED)),
    "GetReceipts": _all("type", _MESSAGE)
    | _all("first", Stop(step=_CHAIN, codes=("RECEIPT_INVALID",), malformed=MALFORMED)),
    "Configure": _all("type", _MESSAGE)
    | _all("manifest", _MEASURED)
    | _all("credentials", _CREDENTIALS),
    "SetCredentials": _all("type", _MESSAGE) | _all("credentials", _CREDENTIALS),
    "Credentials": _all("access_key_id secret_access_key session_token", _CREDENTIALS)
    | _all("expires_at", Stop(step="enclave shell/kms.py", codes=("KMS_UNAVAILABLE",), malformed=MALFORMED)),
    "PutPolicy": _all("type", Stop(step=_WIRE, codes=MALFORMED, malformed=(*MALFORMED, "USAGE_INVALID")))
    | _all("tenant", Stop(step="enclave core/control.py", codes=("TENANT_UNKNOWN",), malformed=MALFORMED))
    | _all(
        "envelope",
        Stop(step=_DSSE, codes=("POLICY_INVALID", "POLICY_QUORUM", "POLICY_ROLLBACK"), malformed=MALFORMED),
    ),
    "PutUsage": _all("type", _MESSAGE)
    | _all("tenant", Stop(step=_LEDGER, codes=("TENANT_UNKNOWN", "USAGE_INVALID"), malformed=MALFORMED))
    | _all("snapshot", Stop(step=_LEDGER, codes=("USAGE_INVALID", "USAGE_ROLLBACK"), malformed=MALFORMED)),
    "PutAnchorCredentials": _all("type", _MESSAGE)
    | _all("tenant", Stop(step="enclave core/control.py", codes=("TENANT_UNKNOWN",), malformed=MALFORMED))
    | _all("record", _KEPT_ACCESS),
    "ResetUsage": _all("type", Stop(step=_WIRE, codes=MALFORMED, malformed=(*MALFORMED, "POLICY_INVALID")))
    | _all("tenant", Stop(step=_RESET, codes=("TENANT_UNKNOWN", "USAGE_INVALID"), malformed=MALFORMED))
    | _all("envelope", Stop(step=_RESET, codes=("USAGE_INVALID", "POLICY_QUORUM"), malformed=MALFORMED)),
    "UsageReset": _all("v tenant boot_id limits", _SIGNED_RESET),
    "GetUsage": _all("type", _MESSAGE)
    | _all("tenant", Stop(step="enclave core/control.py", codes=("TENANT_UNKNOWN",), malformed=MALFORMED)),
    "Execute": _all("type", _MESSAGE)
    | _all("body", Stop(step=_AUTH, codes=("STAMP_INVALID",), malformed=MALFORMED))
    | _all("stamp", _STAMP)
    | _all(
        "record",
        Stop(step=_DECODE, codes=("RECORD_MISSING", "RECORD_MISMATCH", "RECORD_ROLLBACK"), malformed=MALFORMED),
    )
    | _all("approvals", _APPROVALS),
    "Stamp": _all("type scheme public_key signature", _STAMP),
    "SessionStamp": _all("type", _STAMP)
    | _all("session_id", Stop(step=_AUTH, codes=("SESSION_UNKNOWN", "STAMP_INVALID"), malformed=MALFORMED))
    | _all("mac", _STAMP),
    # --- approvals
    "Approval": _all(
        "statement",
        Stop(step=_APPROVE, codes=_NOT_SIGNED, malformed=(*_NOT_SIGNED, *MALFORMED)),
    )
    | _all("proof", Stop(step=_APPROVE, codes=("APPROVAL_CHALLENGE", "APPROVALS_MISSING"), malformed=MALFORMED))
    | _all("index", Stop(step=_APPROVE, codes=("APPROVAL_INVALID", "APPROVAL_SUBJECT"), malformed=MALFORMED))
    | _all("path", Stop(step=_APPROVE, codes=("APPROVAL_INVALID", "APPROVAL_SUBJECT"), malformed=MALFORMED)),
    "KeyProof": _all("type", _MESSAGE)
    | _all("scheme public_key", Stop(step=_APPROVE, codes=("APPROVAL_UNKNOWN",), malformed=MALFORMED))
    | _all("signature", Stop(step=_APPROVE, codes=("APPROVAL_SIGNATURE",), malformed=MALFORMED)),
    "PasskeyProof": _all("type", _MESSAGE)
    | _all("credential_id", Stop(step=_APPROVE, codes=("APPROVAL_UNKNOWN",), malformed=MALFORMED))
    | _all(
        "authenticator_data client_data signature",
        Stop(step=_APPROVE, codes=("APPROVAL_SIGNATURE",), malformed=MALFORMED),
    ),
    "Statement": _all("v tenant subject policy_version decision issued_at expires_at", _SIGNED_STATEMENT),
    "RequestSubject": _all("type digest", _SIGNED_STATEMENT),
    "BatchSubject": _all("type root size", _SIGNED_STATEMENT),
    # --- what is stored
    "Record": _all(
        "header",
        Stop(
            step=_DECODE,
            codes=("RECORD_INVALID", "RECORD_MISMATCH", "RECORD_TAMPERED", "RECORD_ROLLBACK"),
            malformed=MALFORMED,
        ),
    )
    | _all("ciphertext_blob", Stop(step=_UNSEAL, codes=("RECORD_TAMPERED", "RECORD_INVALID"), malformed=MALFORMED))
    | _all("data_key_ciphertext", Stop(step=_KMS, codes=("RECORD_TAMPERED",), malformed=MALFORMED)),
    "Header": _all("v", Stop(step="core wire/record.py", codes=_BAD_HEADER, malformed=_BAD_HEADER))
    | _all("tenant key_id node_id kms_key_arn", _CLAIMED)
    | _all("kind", Stop(step=_DECODE, codes=("RECORD_MISMATCH", "RECORD_TAMPERED"), malformed=_BAD_HEADER))
    | _all("algorithm public_key created_at", _SEALED_IN)
    | _all("delete_after", _SEALED_IN)
    | _all("state", Stop(step=_STANDING, codes=("KEY_STATE", "RECORD_TAMPERED"), malformed=_BAD_HEADER))
    | _all("generation", Stop(step=_STANDING, codes=("RECORD_RETIRED", "RECORD_TAMPERED"), malformed=_BAD_HEADER))
    | _all("version", Stop(step=_UNSEAL, codes=("RECORD_TAMPERED", "RECORD_ROLLBACK"), malformed=_BAD_HEADER))
    | _all(
        "labels",
        Stop(
            step="enclave core/steps/authorise.py, " + _UNSEAL.removeprefix("enclave "),
            codes=("POLICY_DENIED", "RECORD_TAMPERED"),
            malformed=_BAD_HEADER,
            note="a label that the policy does not allow is denied, and the request may be sent again",
        ),
    ),
    "Snapshot": _all("header ciphertext_blob data_key_ciphertext", _KEPT_USAGE),
    "SnapshotHeader": _all("v tenant deployment version boot_id kms_key_arn created_at", _KEPT_USAGE),
    "RecoveryEnvelope": _all("v header threshold keys sealed shares", _SECOND_ENVELOPE_INSIDE),
    "ciphertext_blob": _all(
        "commitment nonce ciphertext tag",
        Stop(step=_UNSEAL, codes=("RECORD_TAMPERED",), malformed=("RECORD_INVALID",)),
    ),
    # --- policies and manifests
    "Envelope": _all("payloadType", Stop(step=_DSSE, codes=("POLICY_INVALID",), malformed=("POLICY_INVALID",)))
    | _all("payload", Stop(step=_QUORUM, codes=("POLICY_QUORUM", "POLICY_INVALID"), malformed=("POLICY_INVALID",)))
    | _all("signatures", Stop(step=_QUORUM, codes=("POLICY_QUORUM",), malformed=("POLICY_INVALID",))),
    "Signature": _all("keyid", Stop(step=_QUORUM, codes=("POLICY_QUORUM",), malformed=("POLICY_INVALID",)))
    | _all("sig", Stop(step=_QUORUM, codes=("POLICY_QUORUM", "POLICY_INVALID"), malformed=("POLICY_INVALID",))),
    "Manifest": _all("v deployment epoch debug node_id kms tenants bounds anchor", _MEASURED),
    "Kms": _all("region account keys host port roots credentials", _MEASURED),
    "NoAnchor": _all("kind", _MEASURED),
    "HostAnchor": _all("kind", _MEASURED),
    "DynamoDbAnchor": _all("kind region host port roots table credentials", _MEASURED),
    "Tenant": _all("id kms_key admins threshold", _MEASURED),
    "Admin": _all("id scheme public_key", _MEASURED),
    "Bounds": _all("request_past_ms request_future_ms approval_past_ms", _MEASURED)
    | _all("key_ttl_seconds key_max_uses max_warm_keys", _MEASURED),
    # --- answers
    "ExecuteReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("result receipt", Stop(step=_CHECKS, codes=("RECEIPT_INVALID",), malformed=MALFORMED))
    | _all(
        "record",
        Stop(
            step="the step that opens it later: " + _UNSEAL,
            codes=("RECORD_MISSING", "RECORD_MISMATCH", "RECORD_INVALID", "RECORD_TAMPERED"),
            malformed=MALFORMED,
            note="the client never sees it; the host harms what it has to keep",
        ),
    )
    | _all("usage", _KEPT_SNAPSHOT)
    | _all("recovery", _SECOND_ENVELOPE),
    "GenerateKeyResult": _all(_STORED + _STATE, _ANSWER),
    "GenerateSeedResult": _all(_STORED + _STATE, _ANSWER),
    "ImportKeyResult": _all(_STORED + _STATE, _ANSWER),
    "SealResult": _all(_STORED + _STATE, _ANSWER),
    "SealAnchorResult": _all(_STORED + _STATE, _ANSWER),
    "ResealResult": _all(_STORED + _STATE, _ANSWER),
    "EnableKeyResult": _all(_STORED + _STATE, _ANSWER),
    "DisableKeyResult": _all(_STORED + _STATE, _ANSWER),
    "ScheduleDeletionResult": _all(_STORED + _STATE, _ANSWER),
    "CancelDeletionResult": _all(_STORED + _STATE, _ANSWER),
    "DeleteKeyResult": _all(_RESULT + " record_version record_digest", _ANSWER),
    "DeriveKeyResult": _all(_RESULT + " path algorithm public_key addresses", _ANSWER),
    "OpenSessionResult": _all(_RESULT + " session_id expires_at", _ANSWER),
    "RotationStatementResult": _all(
        _RESULT + " generation min_generation policy_version policy_digest kms_key_arn resealed", _ANSWER
    ),
    "ImportFileResult": _all(_STORED + " generation state delete_after", _ANSWER),
    "ExportResult": _all(_RESULT + " recipient kind enc ciphertext", _ANSWER),
    "SignResult": _all(_RESULT + " path scheme public_key signature encoded", _ANSWER),
    "UnsealResult": _all(_RESULT + " enc ciphertext", _ANSWER),
    "ReceiptEnvelope": _all("body following key signature", _ANSWER),
    "Receipt": _all(
        "v chain sequence previous time tenant principal request_id operation request_digest decision code rules"
        " approvals wanted limits policy_version policy_digest key_id record_version public_key summary result_digest"
        " omitted",
        _ANSWER,
    ),
    "RuleOutcome": _all("rule outcome", _ANSWER),
    "Wanted": _all("rule role count counted missing others", _ANSWER),
    "LimitOutcome": _all("limit scope amount used max", _ANSWER),
    "ApprovalOutcome": _all("principal digest outcome", _ANSWER),
    "Refusal": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("code receipt", Stop(step=_CHECKS, codes=("RECEIPT_INVALID",), malformed=MALFORMED))
    | _all("field retry_after_ms", Unproven(instead="the receipt's code; both are hints for people and for waiting")),
    "CheckpointReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("envelope", Stop(step=_MARK, codes=("RECEIPT_INVALID",), malformed=("RECEIPT_INVALID", *MALFORMED))),
    "CheckpointEnvelope": _all("body key signature", _CHECKED_MARK),
    "CheckpointBody": _all("v chain sequence head time", _CHECKED_MARK),
    "GetReceiptsReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("receipts", Stop(step=_CHAIN, codes=("RECEIPT_INVALID",), malformed=MALFORMED)),
    "AttestReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all(
        "document",
        Stop(
            step=_VERIFY,
            codes=(*_STEPS_1_TO_6, "NONCE_MISMATCH"),
            malformed=MALFORMED,
        ),
    )
    | _all("binding", Stop(step=_VERIFY, codes=("USER_DATA_MISMATCH",), malformed=MALFORMED)),
    "Binding": _all("v protocol build boot_id manifest_hash receipt_key hpke_key", _PROOF),
    "AttestationDocument": _all("module_id", _document("PAYLOAD_FIELD", "MODULE_MISMATCH"))
    | _all("digest timestamp nonce user_data public_key", _document("PAYLOAD_FIELD"))
    | _all("pcrs", _document("PAYLOAD_FIELD", "PAYLOAD_MALFORMED"))
    | _all("certificate cabundle", _document("PAYLOAD_FIELD", "EXPIRED", "NOT_YET_VALID", *_CERTIFICATES))
    | _all("signature", _document("COSE_MALFORMED", "COSE_SIGNATURE_SIZE"))
    | _all("protected", _document("COSE_MALFORMED", "COSE_ALGORITHM", "COSE_UNSIGNED"))
    | _all("unprotected", _document("COSE_MALFORMED", "COSE_UNPROTECTED")),
    "HelloReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("protocol boot_id build", _BY_BINDING)
    | _all("phase", _BY_HEALTH),
    "ConfigureReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("manifest_hash pcr16", Unproven(instead="the attested binding and PCR16")),
    "Done": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED)),
    "PutPolicyReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("version digest", Unproven(instead="policy_version and policy_digest of every receipt")),
    "GetUsageReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("boot_id", _BY_BINDING)
    | _all("version is_known entries", _BY_RECEIPTS),
    "UsageEntry": _all("limit scope window_ms used held", _BY_RECEIPTS),
    "HealthReply": _all("type", Stop(step="host enclave/connection.py", codes=MALFORMED, malformed=MALFORMED))
    | _all("boot_id", _BY_BINDING)
    | _all("policies receipts", Unproven(instead="policy_version and sequence of every receipt"))
    | _all("phase uptime_ms clock_drift_ms in_flight warm_keys counters", _BY_HEALTH),
    # --- below the messages
    "Frame": _all(
        "magic version kind flags payload_length crc32",
        Stop(step="core wire/frames.py", codes=("FRAME_INVALID", "DEADLINE_EXCEEDED")),
    )
    | _all("request_id", Stop(step="core wire/frames.py, host enclave/connection.py", codes=("FRAME_INVALID",)))
    | _all("deadline", Stop(step="enclave shell/server.py", codes=("DEADLINE_EXCEEDED",))),
    "KMS answer": _all("KeyId CiphertextForRecipient Plaintext EncryptionAlgorithm", Stop(
        step="enclave shell/kms.py, core/recipient.py", codes=("KMS_ANSWER_INVALID", "RECORD_TAMPERED")
    ))
    | _all("CiphertextBlob", Stop(
        step="enclave shell/kms.py", codes=("KMS_ANSWER_INVALID", "RECORD_TAMPERED"),
        note="of a new data key: a false one makes a record that never opens",
    )),
}  # fmt: skip


# What one signature covers is stopped by that signature, whatever it says: these are declared as a whole, so a new kind
# of content or rule is attacked the day it appears.
SIGNED: Final[tuple[tuple[Any, Stop], ...]] = ((Body, _STAMPED), (PolicyDocument, _SIGNED_POLICY))


@functools.cache
def table() -> dict[str, dict[str, Row]]:
    """`FIELDS`, and every struct below a signature."""
    signed: dict[str, dict[str, Row]] = {}
    for root, stop in SIGNED:
        for name, found in examples(root).items():
            signed[name] = dict.fromkeys(found, stop)
    return FIELDS | signed


def row(struct: str, field: str) -> Row:
    """Errors: LookupError for a field that nobody declared."""
    return table()[struct][field]


def unattacked(found: Iterable[tuple[str, str]] | None = None) -> list[str]:
    """Fields on the wire that `FIELDS` does not declare, and declared ones that are not on the wire."""
    wire = set(surface() if found is None else found)
    declared = {(struct, name) for struct, fields in table().items() for name in fields}
    return sorted(f"{struct}.{name}" for struct, name in wire ^ declared)


def _scenario(attack: str, target: str, step: str, codes: str, test: str) -> Scenario:
    return Scenario(attack=attack, target=target, step=step, codes=tuple(codes.split()), test=test)


_SERVER = "enclave shell/server.py"
_REPLAY = "enclave core/replay.py, core/pipeline.py"
_CONNECTION = "host enclave/connection.py"
_TLS = "enclave shell/kms_tls.py, shell/kms.py"

SCENARIOS: Final = (
    _scenario("truncate", "body, header, blob and data key, at every length", _AUTH + ", " + _UNSEAL,
              "STAMP_INVALID RECORD_INVALID RECORD_TAMPERED",
              "requests.py::test_a_body_cut_at_every_length_is_refused"),
    _scenario("forge, swap", "a session's stamp out of a key's, a key's out of a session's, one session's in another",
              _AUTH + ", core/sessions.py", "SESSION_UNKNOWN STAMP_INVALID",
              "requests.py::test_one_kind_of_stamp_is_not_made_of_the_other"),
    _scenario("forge", "a shorter waiting period before a deletion",
              "enclave core/operations/states.py, " + _UNSEAL.removeprefix("enclave "), "KEY_STATE RECORD_TAMPERED",
              "requests.py::test_a_shorter_waiting_period_does_not_delete"),
    _scenario("replay", "a reset of limits, in a later boot; one that too few signed; a policy in its place", _RESET,
              "USAGE_INVALID POLICY_QUORUM", "usage.py::test_a_changed_reset_opens_no_limit"),
    _scenario("replay", "an older usage snapshot, and the newest twice", _LEDGER, "USAGE_ROLLBACK",
              "usage.py::test_a_changed_snapshot_is_refused"),
    _scenario("relocate", "the record of an anchor's credentials, in the place of another", _DECODE,
              "USAGE_INVALID RECORD_MISMATCH", "anchor.py::test_another_deployments_anchor_takes_no_credentials"),
    _scenario("forge", "a body under another person's stamp", _AUTH + ", authorise.py",
              "PRINCIPAL_UNKNOWN POLICY_DENIED", "frames.py::test_a_request_stamped_by_somebody_else_is_refused"),
    _scenario("replay", "a request under the stamp of an insider without rights", _REPLAY, "REQUEST_CONFLICT",
              "frames.py::test_an_insider_does_not_get_the_answer_to_somebody_elses_request"),
    _scenario("relocate", "a sealed import, into another request or operation", "enclave core/hpke.py",
              "REQUEST_INVALID", "frames.py::test_a_sealed_import_lifted_into_another_request_does_not_open"),
    _scenario("relocate", "messages of one port, on the other", _WIRE, "MESSAGE_INVALID",
              "control.py::test_messages_of_one_port_are_refused_on_the_other"),
    _scenario("downgrade", "a second manifest", "enclave core/phases.py", "PHASE_INVALID",
              "control.py::test_every_message_of_another_phase_is_refused"),
    _scenario("downgrade", "a false manifest at the start", "KMS, verify enclave.py", "PCR_MISMATCH KMS_DENIED",
              "boot.py::test_an_enclave_with_another_manifest_proves_it"),
    _scenario("roll back, reorder, replay", "policies", "enclave core/control.py", "POLICY_ROLLBACK",
              "control.py::test_a_policy_that_comes_late_or_again_does_not_go_back"),
    _scenario("swap", "the answers of two requests", _CHECKS, "RECEIPT_INVALID",
              "frames.py::test_swapped_answers_of_two_requests_are_noticed"),
    _scenario("replay", "the answer of an earlier request", _CHECKS, "RECEIPT_INVALID",
              "frames.py::test_an_answer_of_an_earlier_request_is_noticed"),
    _scenario("forge", "a refusal of what was allowed", _CHECKS, "RECEIPT_INVALID",
              "answers.py::test_an_allowed_request_that_the_host_calls_refused_has_no_proof"),
    _scenario("forge", "the record in an answer", _UNSEAL,
              "RECORD_MISSING RECORD_MISMATCH RECORD_INVALID RECORD_TAMPERED",
              "answers.py::test_a_changed_record_in_an_answer_harms_nobody_but_the_host"),
    _scenario("swap", "the attestation documents of two clients", _VERIFY, "NONCE_MISMATCH",
              "frames.py::test_an_attestation_for_another_nonce_is_not_taken"),
    _scenario("flip, forge", "the header of a reply's frame", _CONNECTION, "PEER_UNAVAILABLE MESSAGE_INVALID",
              "frames.py::test_a_changed_reply_frame_is_refused"),
    _scenario("truncate", "a request's frame, at every length", _SERVER, "PEER_UNAVAILABLE",
              "frames.py::test_a_frame_cut_at_every_length_has_no_effect"),
    _scenario("drop, truncate", "an answer", _REPLAY, "PEER_UNAVAILABLE",
              "frames.py::test_an_answer_that_is_dropped_or_cut_can_be_had_again"),
    _scenario("replay", "a frame, sent twice", _REPLAY + ", " + _SERVER, "FRAME_INVALID RESOURCE_EXHAUSTED",
              "frames.py::test_a_frame_sent_twice_has_one_effect"),
    _scenario("reorder", "frames", "each answer carries its request's id and receipt", "",
              "frames.py::test_frames_in_another_order_change_no_answer"),
    _scenario("delay", "a request beyond its deadline", _REPLAY, "DEADLINE_EXCEEDED",
              "frames.py::test_a_request_held_back_beyond_its_deadline_is_dropped"),
    _scenario("forge", "the deadline of a request", _SERVER, "DEADLINE_EXCEEDED",
              "frames.py::test_another_deadline_changes_no_answer"),
    _scenario("flip, truncate, drop, replay, downgrade, forge", "each TLS record between enclave and KMS", _TLS,
              "KMS_UNAVAILABLE KMS_ANSWER_INVALID DEADLINE_EXCEEDED", "kms.py::test_a_spoilt_tls_record_opens_nothing"),
    _scenario("swap", "the records of two TLS connections", _TLS, "KMS_UNAVAILABLE KMS_ANSWER_INVALID",
              "kms.py::test_a_tls_connection_of_another_server_is_refused"),
    _scenario("delay", "what KMS says", _TLS, "DEADLINE_EXCEEDED", "kms.py::test_a_silent_pipe_ends_with_the_deadline"),
)  # fmt: skip


_HOSTILE = "tests/attacks/hostile/test_hostile_"
_RESULTS = (
    *("GenerateKeyResult", "GenerateSeedResult", "ImportKeyResult", "SealResult", "SealAnchorResult", "ResealResult"),
    *("EnableKeyResult", "DisableKeyResult", "ScheduleDeletionResult", "CancelDeletionResult"),
    *("DeriveKeyResult", "SignResult", "UnsealResult", "OpenSessionResult", "RotationStatementResult"),
)
_TESTS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("Record", "Header", "ciphertext_blob"), "requests.py::test_a_changed_record_is_refused"),
    (("Execute", "Stamp"), "requests.py::test_a_changed_message_is_refused"),
    (
        (
            *("Hello", "Health", "Checkpoint", "Attest", "GetReceipts", "PutPolicy", "Envelope", "Signature"),
            *("ResetUsage", "GetUsage"),
        ),
        "control.py::test_a_changed_control_message_is_refused",
    ),
    (("SessionStamp",), "requests.py::test_a_changed_session_stamp_is_refused"),
    (("PutUsage", "Snapshot", "SnapshotHeader"), "usage.py::test_a_changed_snapshot_is_refused"),
    (("PutAnchorCredentials",), "anchor.py::test_changed_credentials_of_the_anchor_are_refused"),
    (("UsageReset",), "usage.py::test_a_changed_reset_opens_no_limit"),
    (("RecoveryEnvelope",), "usage.py::test_a_changed_part_of_a_recovery_envelope_is_noticed"),
    (("LimitOutcome",), "usage.py::test_a_changed_charge_in_the_receipt_is_noticed"),
    (("Wanted",), "approvals.py::test_what_is_missing_cannot_be_changed_in_the_receipt"),
    (("DeleteKeyResult",), "answers.py::test_a_changed_result_of_a_deletion_is_noticed"),
    (("SetCredentials", "Credentials"), "control.py::test_changed_credentials_open_nothing"),
    (
        (
            *("Configure", "Manifest", "Kms", "Tenant", "Admin", "Bounds"),
            *("NoAnchor", "HostAnchor", "DynamoDbAnchor"),
        ),
        "boot.py::test_a_changed_manifest_is_refused_or_shows",
    ),
    (
        ("Approval", "KeyProof", "PasskeyProof", "Statement", "RequestSubject", "BatchSubject"),
        "approvals.py::test_a_changed_approval_is_refused",
    ),
    (("ApprovalOutcome",), "approvals.py::test_a_changed_outcome_in_the_receipt_is_noticed"),
    (("ExecuteReply",), "answers.py::test_a_changed_answer_is_noticed"),
    (_RESULTS, "answers.py::test_a_changed_result_is_noticed"),
    (("ImportFileResult", "ExportResult"), "imports.py::test_a_changed_result_is_noticed"),
    (("ReceiptEnvelope", "Receipt", "RuleOutcome"), "answers.py::test_a_changed_receipt_is_noticed"),
    (("Refusal",), "answers.py::test_a_changed_refusal_is_noticed"),
    (("CheckpointReply", "CheckpointEnvelope", "CheckpointBody"), "answers.py::test_a_changed_checkpoint_is_noticed"),
    (("GetReceiptsReply",), "answers.py::test_a_changed_list_of_receipts_is_noticed"),
    (("AttestReply", "Binding", "AttestationDocument"), "answers.py::test_a_changed_proof_is_noticed"),
    (
        ("HelloReply", "HealthReply", "PutPolicyReply", "ConfigureReply", "Done", "GetUsageReply"),
        "answers.py::test_an_answer_of_another_kind_is_refused_by_the_client",
    ),
    (("Frame",), "frames.py::test_a_changed_request_frame_is_refused"),
    (("KMS answer",), "kms.py::test_a_changed_answer_of_kms_is_refused"),
)


def test_of(struct: str, found: Row) -> str:
    """The test, `file::function`, that attacks the fields of a struct. Errors: LookupError."""
    if (struct, found) == ("Configure", _CREDENTIALS):
        return _HOSTILE + "boot.py::test_false_credentials_beside_the_manifest_open_nothing"
    if isinstance(found, Unproven):
        return _HOSTILE + "answers.py::test_a_field_that_proves_nothing_changes_nothing"
    if found is _KEPT_SNAPSHOT:
        return _HOSTILE + "usage.py::test_a_changed_snapshot_in_an_answer_is_refused_later"
    if (struct, found) == ("ExecuteReply", FIELDS["ExecuteReply"]["record"]):
        return _HOSTILE + "answers.py::test_a_changed_record_in_an_answer_harms_nobody_but_the_host"
    if found is _APPROVALS:
        return _HOSTILE + "approvals.py::test_a_changed_approval_is_refused"
    if found is _SECOND_ENVELOPE:
        return _HOSTILE + "imports.py::test_a_changed_recovery_envelope_is_noticed_by_its_holders"
    if found is _STAMPED:
        return _HOSTILE + "requests.py::test_a_changed_body_is_refused"
    if found is _SIGNED_POLICY:
        return _HOSTILE + "control.py::test_a_changed_policy_is_refused"
    return _HOSTILE + next(test for names, test in _TESTS if struct in names)
