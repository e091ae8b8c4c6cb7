"""`adytum.requests` and `adytum.approvals` of both clients: the same generators, driven by each in its way."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from adytum.client.approvals import VALID_MS, ApprovalSteps, Approver, KeyApprover, Review
from adytum.client.checks import Answer
from adytum.client.conversation import Conversation
from adytum.client.errors import RefusedError
from adytum.client.requests import RequestSteps
from adytum.client.steps import Steps
from adytum.service.requests.shapes import RequestView

T = TypeVar("T")
_HOUR_S = 3600.0


class Run(Protocol):
    def __call__(self, steps: Steps[T], /) -> T: ...


class RunAsync(Protocol):
    def __call__(self, steps: Steps[T], /) -> Awaitable[T]: ...


class AsyncRequests:
    """Requests that wait for approvals, from the initiator's side."""

    def __init__(self, run: RunAsync, steps: RequestSteps) -> None:
        self._run, self._steps = run, steps

    async def get(self, request_id: str) -> RequestView:
        """How a request stands: the host's word."""
        return await self._run(self._steps.get(request_id))

    async def list(self, state: str = "pending") -> builtins.list[RequestView]:
        """All requests in a state ("" for any): the host's word."""
        return await self._run(self._steps.list(state))

    async def wait(self, body: bytes, *, timeout_s: float = _HOUR_S) -> Answer:
        """Wait for the end of the request with this signed body (`PendingError.body`), and get its proven answer.

        Errors: RefusedError (rejected, refused, cancelled, expired); PendingError when the time is up."""
        return await self._run(self._steps.wait(body, timeout_s))

    async def settled(self, request_id: str, *, timeout_s: float) -> RequestView:
        """The request once it has ended, or as it is when the time is up: the host's word."""
        return await self._run(self._steps.settled(request_id, timeout_s))

    async def cancel(self, request_id: str) -> RequestView:
        """Take a request back that this client's key stamped. `state` says what became of it: `cancelled`, or how it
        had ended before. The host's promise, not the enclave's: who has the signed body and the approvals can still
        have it carried out."""
        return await self._run(self._steps.cancel(request_id))


class Requests:
    """As `AsyncRequests`."""

    def __init__(self, run: Run, steps: RequestSteps) -> None:
        self._run, self._steps = run, steps

    def get(self, request_id: str) -> RequestView:
        return self._run(self._steps.get(request_id))

    def list(self, state: str = "pending") -> builtins.list[RequestView]:
        return self._run(self._steps.list(state))

    def wait(self, body: bytes, *, timeout_s: float = _HOUR_S) -> Answer:
        return self._run(self._steps.wait(body, timeout_s))

    def settled(self, request_id: str, *, timeout_s: float) -> RequestView:
        return self._run(self._steps.settled(request_id, timeout_s))

    def cancel(self, request_id: str) -> RequestView:
        return self._run(self._steps.cancel(request_id))


class AsyncApprovals:
    """Approve or reject what others ask for, after a look into the bytes. Without `approver` the client's key does."""

    def __init__(self, run: RunAsync, steps: ApprovalSteps, mine: Approver) -> None:
        self._run, self._steps, self._mine = run, steps, mine

    async def review(self, request_id: str) -> Review:
        """Fetch a pending request and look into it. Errors: RefusedError, UntrustedError (a host that shows something
        else than what would be approved)."""
        return await self._run(self._steps.review(request_id))

    async def approve(
        self, review: Review, approver: Approver | None = None, *, valid_ms: int = VALID_MS
    ) -> RequestView:
        """Sign that the request may be carried out under the policy version that `review` names. At most 7 days."""
        return await self._run(self._steps.give(review, approver or self._mine, "approve", valid_ms))

    async def reject(
        self, review: Review, approver: Approver | None = None, *, valid_ms: int = VALID_MS
    ) -> RequestView:
        """Sign that it may not: one rejection by somebody who is asked ends the request."""
        return await self._run(self._steps.give(review, approver or self._mine, "reject", valid_ms))

    async def approve_batch(
        self, reviews: Sequence[Review], approver: Approver | None = None, *, valid_ms: int = VALID_MS
    ) -> dict[str, RequestView | RefusedError]:
        """One signature for up to 256 requests, in this order. What became of each, by request id."""
        return await self._run(self._steps.give_batch(reviews, approver or self._mine, "approve", valid_ms))


class Approvals:
    """As `AsyncApprovals`."""

    def __init__(self, run: Run, steps: ApprovalSteps, mine: Approver) -> None:
        self._run, self._steps, self._mine = run, steps, mine

    def review(self, request_id: str) -> Review:
        return self._run(self._steps.review(request_id))

    def approve(self, review: Review, approver: Approver | None = None, *, valid_ms: int = VALID_MS) -> RequestView:
        return self._run(self._steps.give(review, approver or self._mine, "approve", valid_ms))

    def reject(self, review: Review, approver: Approver | None = None, *, valid_ms: int = VALID_MS) -> RequestView:
        return self._run(self._steps.give(review, approver or self._mine, "reject", valid_ms))

    def approve_batch(
        self, reviews: Sequence[Review], approver: Approver | None = None, *, valid_ms: int = VALID_MS
    ) -> dict[str, RequestView | RefusedError]:
        return self._run(self._steps.give_batch(reviews, approver or self._mine, "approve", valid_ms))


def steps_of(talk: Conversation, now_ms: Callable[[], int]) -> tuple[RequestSteps, ApprovalSteps, Approver]:
    """What the facades of one client share."""
    requests = RequestSteps(talk, now_ms)
    return requests, ApprovalSteps(talk, requests, now_ms), KeyApprover(talk.signer)
