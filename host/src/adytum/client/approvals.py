"""Approve what somebody else asks for. Generators, no I/O.

An approver signs the SHA-256 of a request's body, so the client looks into that body itself before it signs: it takes
the bytes that the host shows, compares their digest with the receipt that the enclave signed when it refused the
request, and decodes the content with the enclave's own decoder. What the host says beside that is compared, and a host
that says something else is not believed in anything.

    review = await adytum.approvals.review("r-...")
    print(review.initiator, review.summary)
    await adytum.approvals.approve(review)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

import msgspec

from adytum.client.checks import check_refusal
from adytum.client.conversation import Conversation
from adytum.client.errors import RefusedError, UntrustedError
from adytum.client.requests import RequestSteps
from adytum.client.signers import Signer
from adytum.client.steps import Call, Failure, Steps, fetch, read
from adytum.service.requests.shapes import MAX_BATCH, BatchApproval, RequestView
from adytum_policy.approvals import root_of
from adytum_policy.content import decode_content
from adytum_verify import VerifiedReceipt
from adytum_wire import limits
from adytum_wire.approvals import (
    Approval,
    BatchSubject,
    KeyProof,
    PasskeyProof,
    RequestSubject,
    Statement,
)
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.requests import Body, Sign, parse_body
from adytum_wire.strict_json import encode
from adytum_wire.types import sha256

VALID_MS: Final = 86_400_000  # how long a statement counts, unless told otherwise

Verdict = Literal["approve", "reject"]


class Approver(Protocol):
    """Somebody's key or passkey. `prove`: the proof over a statement's bytes."""

    def prove(self, statement: bytes) -> KeyProof | PasskeyProof: ...


class KeyApprover:
    """Approves with a stamp key."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def prove(self, statement: bytes) -> KeyProof:
        signer = self._signer
        return KeyProof(
            scheme=signer.scheme, public_key=signer.public_key, signature=signer.sign(pae(APPROVAL, statement))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A pending request, looked into. Proven: `raw` is what an authenticated `initiator` asked, and `receipt` the
    enclave's word on it. `summary`: the content, decoded here; empty for requests without content. The host's word:
    `view`, and with it who has approved so far and that `policy_version` is in force by now."""

    request_id: str
    raw: bytes
    body: Body
    digest: bytes
    summary: Mapping[str, str]
    initiator: str
    receipt: VerifiedReceipt
    policy_version: int
    view: RequestView


class _BatchItem(msgspec.Struct):
    request_id: str
    view: RequestView | None = None
    error: Failure | None = None


class _BatchAnswer(msgspec.Struct):
    requests: list[_BatchItem]


class ApprovalSteps:
    """`now_ms`: what statements say of when they were issued."""

    def __init__(self, talk: Conversation, requests: RequestSteps, now_ms: Callable[[], int]) -> None:
        self._talk = talk
        self._requests = requests
        self._now_ms = now_ms

    def review(self, request_id: str) -> Steps[Review]:
        """Errors: RefusedError for a request that does not wait; UntrustedError when what the host shows does not
        hold."""
        view = yield from self._requests.get(request_id)
        if view.state not in ("pending", "approved"):
            raise RefusedError(_code(view.code), "$.state", status=200)
        try:
            body = parse_body(view.body)
        except AdytumError as error:
            raise UntrustedError(Code.MESSAGE_INVALID, f"body {error.field}") from error
        if (body.tenant, body.request_id) != (self._talk.tenant, request_id):
            raise UntrustedError(Code.MESSAGE_INVALID, "body.request_id")
        envelope = bytes(view.receipt)
        key = yield from self._talk.receipt_key(envelope)
        receipt = check_refusal(view.body, body, envelope, code=Code.APPROVALS_MISSING, receipt_key=key)
        summary = _content(body, receipt)
        if view.summary != summary or view.initiator not in ("", receipt.receipt.principal):
            raise UntrustedError(Code.MESSAGE_INVALID, "summary")
        if view.policy_version < receipt.receipt.policy_version:
            raise UntrustedError(Code.MESSAGE_INVALID, "policy_version")
        return Review(
            request_id=request_id,
            raw=view.body,
            body=body,
            digest=sha256(view.body),
            summary=summary,
            initiator=receipt.receipt.principal,
            receipt=receipt,
            policy_version=view.policy_version,
            view=view,
        )

    def give(self, review: Review, approver: Approver, decision: Verdict, valid_ms: int) -> Steps[RequestView]:
        subject = RequestSubject(digest=review.digest.hex())
        statement = self._statement(subject, review.policy_version, decision, valid_ms)
        approval = Approval(statement=statement, proof=approver.prove(statement))
        path = f"/v1/requests/{quote(self._talk.tenant)}/{quote(review.request_id, safe='')}/approvals"
        return fetch(_post(path, approval), self._talk.retries, RequestView)

    def give_batch(
        self, reviews: Sequence[Review], approver: Approver, decision: Verdict, valid_ms: int
    ) -> Steps[dict[str, RequestView | RefusedError]]:
        versions = {review.policy_version for review in reviews}
        if not 1 <= len(reviews) <= MAX_BATCH or len(versions) != 1:
            raise ValueError(f"want 1 to {MAX_BATCH} requests under one policy version")
        root = root_of([review.digest for review in reviews])
        subject = BatchSubject(root=root.hex(), size=len(reviews))
        statement = self._statement(subject, versions.pop(), decision, valid_ms)
        batch = BatchApproval(
            statement=statement,
            proof=approver.prove(statement),
            tenant=self._talk.tenant,
            request_ids=[review.request_id for review in reviews],
        )
        found = yield from fetch(_post("/v1/approvals/batch", batch), self._talk.retries, dict[str, Any])
        answer = read(msgspec.json.encode(found), _BatchAnswer)
        return {item.request_id: _outcome(item) for item in answer.requests}

    def _statement(
        self, subject: RequestSubject | BatchSubject, policy_version: int, decision: Verdict, valid_ms: int
    ) -> bytes:
        if not 0 < valid_ms <= limits.MAX_APPROVAL_MS:
            raise ValueError(f"a statement is valid for up to {limits.MAX_APPROVAL_MS} ms")
        now = self._now_ms()
        return encode(
            Statement(
                v=1,
                tenant=self._talk.tenant,
                subject=subject,
                policy_version=policy_version,
                decision=decision,
                issued_at=now,
                expires_at=now + valid_ms,
            )
        )


def _code(text: str) -> Code:
    """Why a request that has ended cannot be approved; "" means that it was carried out."""
    try:
        return Code(text) if text else Code.REQUEST_REPLAYED
    except ValueError:
        return Code.INTERNAL


def _content(body: Body, receipt: VerifiedReceipt) -> dict[str, str]:
    """What is to be signed, decoded here. The enclave's receipt must say the same."""
    if not isinstance(body, Sign):
        return {}
    try:
        content = decode_content(body.content, body.scheme, bytes.fromhex(receipt.receipt.public_key), body.path)
    except AdytumError as error:
        raise UntrustedError(error.code, error.field) from error
    if content.summary != receipt.receipt.summary:
        raise UntrustedError(Code.RECEIPT_INVALID, "receipt.summary")
    return content.summary


def _outcome(item: _BatchItem) -> RequestView | RefusedError:
    if item.view is not None:
        return item.view
    code = Code.INTERNAL if item.error is None else item.error.code
    return RefusedError(code, "" if item.error is None else item.error.error.field, status=code.http_status)


def _post(path: str, value: msgspec.Struct) -> Call:
    headers = {"Content-Type": "application/json"}
    return Call(method="POST", path=path, content=msgspec.json.encode(value), headers=headers)
