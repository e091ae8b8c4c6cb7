"""HTTP for requests that wait. JSON as in `shapes`; docs/how-to/requests-that-wait.md."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request

from adytum.service import answer
from adytum.service.admit import STAMP_HEADER
from adytum.service.answer import Answer
from adytum.service.http import read_body
from adytum.service.requests.desk import Desk
from adytum.service.requests.shapes import MAX_WAIT_S, RequestPage, parse_approval, parse_batch
from adytum.storage.requests import MAX_PAGE
from adytum.storage.schema import REQUEST_STATES
from adytum_wire.errors import AdytumError, Code

_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_MAX_APPROVAL: Final = 16 * 1024  # bytes of JSON
_MAX_BATCH: Final = 32 * 1024

Handler = Callable[[Desk, Request], Awaitable[Answer]]


async def _get(desk: Desk, request: Request) -> Answer:
    tenant, request_id = _identity(request)
    wait_s = _number(request, "wait", 0, MAX_WAIT_S)
    return answer.json_answer(await desk.look(tenant, request_id, wait_s=wait_s))


async def _list(desk: Desk, request: Request) -> Answer:
    tenant = _checked(request.query_params.get("tenant", ""), _TENANT, "?tenant")
    state, after = request.query_params.get("state", ""), request.query_params.get("after", "")
    if state and state not in REQUEST_STATES:
        raise AdytumError(Code.REQUEST_INVALID, "?state")
    if after:
        _checked(after, _REQUEST_ID, "?after")
    limit = max(1, _number(request, "limit", MAX_PAGE, MAX_PAGE))
    found = await desk.page(tenant, state=state, after=after, limit=limit)
    following = found[-1].request_id if len(found) == limit else None
    return answer.json_answer(RequestPage(requests=found, next_after=following))


async def _approve(desk: Desk, request: Request) -> Answer:
    tenant, request_id = _identity(request)
    data = await read_body(request.scope, request.receive, _MAX_APPROVAL)
    try:
        approval = parse_approval(data)
    except ValueError:
        raise AdytumError(Code.APPROVAL_INVALID) from None
    return answer.json_answer(await desk.approve(tenant, request_id, approval))


async def _approve_batch(desk: Desk, request: Request) -> Answer:
    """What came of each request: its view, or an error."""
    data = await read_body(request.scope, request.receive, _MAX_BATCH)
    try:
        batch = parse_batch(data)
    except ValueError:
        raise AdytumError(Code.APPROVAL_INVALID) from None
    if len(set(batch.request_ids)) != len(batch.request_ids):
        raise AdytumError(Code.APPROVAL_INVALID, "$.request_ids")
    found = await desk.approve_batch(batch)
    return answer.json_answer(
        {
            "requests": [
                {"request_id": request_id, "error": msgspec.Raw(answer.failure(given).body)}
                if isinstance(given, AdytumError)
                else {"request_id": request_id, "view": given}
                for request_id, given in zip(batch.request_ids, found, strict=True)
            ]
        }
    )


async def _cancel(desk: Desk, request: Request) -> Answer:
    tenant, request_id = _identity(request)
    data = await read_body(request.scope, request.receive, _MAX_APPROVAL)
    stamps = request.headers.getlist(STAMP_HEADER)
    stamp = stamps[0] if len(stamps) == 1 else ""  # two stamps are none
    return answer.json_answer(await desk.cancel(tenant, request_id, data, stamp))


TABLE: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/v1/requests", _list),
    ("GET", "/v1/requests/{tenant}/{request_id}", _get),
    ("POST", "/v1/requests/{tenant}/{request_id}/approvals", _approve),
    ("POST", "/v1/requests/{tenant}/{request_id}/cancel", _cancel),
    ("POST", "/v1/approvals/batch", _approve_batch),
)


def _identity(request: Request) -> tuple[str, str]:
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    return tenant, _checked(request.path_params["request_id"], _REQUEST_ID, "request_id")


def _checked(text: str, pattern: re.Pattern[str], field: str) -> str:
    if pattern.fullmatch(text) is None:
        raise AdytumError(Code.REQUEST_INVALID, field)
    return text


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > most:
        raise AdytumError(Code.REQUEST_INVALID, f"?{name}")
    return int(text)
