"""Verify one approval about one request. What it leaves out: whether it counts (`adytum_policy.tally`), and whether the
passkey's counter fits what was seen before (the enclave's memory).

An approval that is forged, malformed or about something else refuses. One that is only stale, because it has expired or
was given under an older policy, is a vote that does not count, and the receipt says why.
"""

from __future__ import annotations

from msgspec import Struct

from adytum_policy.approvals.merkle import root_through
from adytum_policy.approvals.webauthn import IsValid, Sighting, verify_assertion
from adytum_policy.document import Policy, Principal, find_principal
from adytum_policy.votes import Vote
from adytum_wire import limits, signatures
from adytum_wire.approvals import Approval, BatchSubject, KeyProof, PasskeyProof, Statement, parse_statement
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.types import sha256


class Verified(Struct, frozen=True, kw_only=True):
    """`sighting` is None for an approval by a key."""

    vote: Vote
    sighting: Sighting | None


def verify_approval(
    approval: Approval,
    *,
    tenant: str,
    request_digest: bytes,
    policy: Policy,
    latest_ms: int,
    is_valid: IsValid = signatures.is_valid,
) -> Verified:
    """Verify `approval` about the request with `request_digest` (SHA-256 of its body) under the policy in force.

    `latest_ms`: statements issued after it are from the future. `is_valid`: as `adytum_wire.signatures.is_valid`; a
    faster one may stand in for it, never one that accepts more.

    Errors, the first that applies (spec/approvals.md, A-4): APPROVAL_INVALID (too large), APPROVAL_UNKNOWN,
    APPROVAL_SIGNATURE, those of `verify_assertion` for a passkey, APPROVAL_INVALID (statement), APPROVAL_SUBJECT.
    """
    if len(approval.statement) > limits.MAX_STATEMENT:
        raise AdytumError(Code.APPROVAL_INVALID, "$.statement")
    signed = pae(APPROVAL, approval.statement)
    proof, sighting = approval.proof, None
    if isinstance(proof, KeyProof):
        principal = _key_holds(proof, signed, policy, is_valid)
        statement = parse_statement(approval.statement)
    else:
        principal, counter = _passkey_holds(proof, signed, policy, is_valid)
        statement = parse_statement(approval.statement)
        sighting = Sighting(
            credential_id=proof.credential_id,
            counter=counter,
            issued_at=statement.issued_at,
            assertion=sha256(proof.authenticator_data + sha256(proof.client_data)),
        )
    _require_times(statement, latest_ms)
    _require_subject(approval, statement, tenant, request_digest)
    vote = Vote(
        principal_id=principal.id,
        roles=principal.roles,
        decision=statement.decision,
        policy_version=statement.policy_version,
        issued_at=statement.issued_at,
        expires_at=statement.expires_at,
        digest=sha256(approval.statement),
    )
    return Verified(vote=vote, sighting=sighting)


def _key_holds(proof: KeyProof, signed: bytes, policy: Policy, is_valid: IsValid) -> Principal:
    principal = find_principal(policy, proof.scheme, proof.public_key)
    if principal is None:
        raise AdytumError(Code.APPROVAL_UNKNOWN)
    if not is_valid(proof.scheme, proof.public_key, signed, proof.signature):
        raise AdytumError(Code.APPROVAL_SIGNATURE)
    return principal


def _passkey_holds(proof: PasskeyProof, signed: bytes, policy: Policy, is_valid: IsValid) -> tuple[Principal, int]:
    """WebAuthn 7.2, steps 5 to 7: whose credential it is, says the policy and not who sends it (so no user handle)."""
    found, rules = policy.by_passkey.get(proof.credential_id), policy.document.passkeys
    if found is None or rules == "none":
        raise AdytumError(Code.APPROVAL_UNKNOWN)
    principal, entry = found
    counter = verify_assertion(
        proof,
        scheme=entry.scheme,
        public_key=bytes.fromhex(entry.public_key),
        challenge=sha256(signed),
        rp_id=rules.rp_id,
        origins=rules.origins,
        is_valid=is_valid,
    )
    return principal, counter


def _require_times(statement: Statement, latest_ms: int) -> None:
    if statement.issued_at > latest_ms:
        raise AdytumError(Code.APPROVAL_INVALID, "$.statement.issued_at")
    if not 0 < statement.expires_at - statement.issued_at <= limits.MAX_APPROVAL_MS:
        raise AdytumError(Code.APPROVAL_INVALID, "$.statement.expires_at")


def _require_subject(approval: Approval, statement: Statement, tenant: str, request_digest: bytes) -> None:
    if statement.tenant != tenant:
        raise AdytumError(Code.APPROVAL_SUBJECT, "$.statement.tenant")
    subject = statement.subject
    if isinstance(subject, BatchSubject):
        root = root_through(request_digest, approval.index, subject.size, approval.path)
        if root is None or root.hex() != subject.root:
            raise AdytumError(Code.APPROVAL_SUBJECT, "$.statement.subject.root")
        return
    if approval.index or approval.path:  # a place in a batch, and no batch
        raise AdytumError(Code.APPROVAL_INVALID, "$.path")
    if subject.digest != request_digest.hex():
        raise AdytumError(Code.APPROVAL_SUBJECT, "$.statement.subject.digest")
