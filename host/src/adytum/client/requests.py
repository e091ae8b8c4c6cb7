"""Requests that wait for approvals, from the initiator's side: look, wait, take back. Generators, no I/O.

A stamped call raises `PendingError` when the enclave wants approvals first. Keep its `body` (the signed bytes): whoever
has it and the key gets the answer once there is one, proven like every other.

    try:
        signed = await adytum.sign_ethereum(key_id, unsigned)
    except PendingError as pending:
        signed = await adytum.requests.wait(pending.body, timeout_s=3600)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from adytum.client.checks import Answer
from adytum.client.conversation import Conversation
from adytum.client.errors import PendingError
from adytum.client.steps import Call, Pause, Steps, fetch
from adytum.service.admit import STAMP_HEADER, format_stamp
from adytum.service.requests.shapes import CANCEL, CancelBody, RequestPage, RequestView
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import pae
from adytum_wire.requests import Stamp, parse_body
from adytum_wire.strict_json import encode

WAIT_S: Final = 8  # of one long poll: below what the HTTP client waits for an answer
_SHORT_MS: Final = 500  # a poll that comes back sooner waited for nothing
_OPEN: Final = frozenset({"pending", "approved"})


class RequestSteps:
    """`now_ms`: for time-outs only."""

    def __init__(self, talk: Conversation, now_ms: Callable[[], int]) -> None:
        self._talk = talk
        self._now_ms = now_ms

    def get(self, request_id: str, wait_s: int = 0) -> Steps[RequestView]:
        path = f"/v1/requests/{quote(self._talk.tenant)}/{quote(request_id, safe='')}"
        if wait_s:
            path += f"?wait={wait_s}"
        return fetch(Call(method="GET", path=path), self._talk.retries, RequestView)

    def list(self, state: str = "pending") -> Steps[list[RequestView]]:
        found: list[RequestView] = []
        after: str | None = ""
        while after is not None:
            path = f"/v1/requests?tenant={quote(self._talk.tenant)}&state={quote(state)}&after={quote(after)}"
            page = yield from fetch(Call(method="GET", path=path), self._talk.retries, RequestPage)
            found += page.requests
            after = page.next_after
        return found

    def settled(self, request_id: str, timeout_s: float) -> Steps[RequestView]:
        """The request once it has ended, or as it is when the time is up."""
        deadline = self._now_ms() + int(timeout_s * 1000)
        while True:
            asked = self._now_ms()
            left_s = (deadline - asked) // 1000
            view = yield from self.get(request_id, max(0, min(WAIT_S, left_s)))
            now = self._now_ms()
            if view.state not in _OPEN or now >= deadline:
                return view
            if now - asked < _SHORT_MS:
                yield Pause(min(_SHORT_MS, deadline - now) / 1000)

    def wait(self, body: bytes, timeout_s: float) -> Steps[Answer]:
        parsed = parse_body(body)
        if parsed.tenant != self._talk.tenant:
            raise AdytumError(Code.REQUEST_INVALID, "$.tenant")
        view = yield from self.settled(parsed.request_id, timeout_s)
        if view.state in _OPEN:
            raise PendingError(parsed.request_id, body=body, wanted=view.wanted, expires_at=view.expires_at)
        return (yield from self._talk.repeat(body))

    def cancel(self, request_id: str) -> Steps[RequestView]:
        raw = encode(CancelBody(v=1, tenant=self._talk.tenant, request_id=request_id))
        signer = self._talk.signer
        stamp = Stamp(signer.scheme, signer.public_key, signer.sign(pae(CANCEL, raw)))
        call = Call(
            method="POST",
            path=f"/v1/requests/{quote(self._talk.tenant)}/{quote(request_id, safe='')}/cancel",
            content=raw,
            headers={STAMP_HEADER: format_stamp(stamp), "Content-Type": "application/json"},
        )
        return fetch(call, self._talk.retries, RequestView)
