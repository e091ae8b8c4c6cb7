"""The cold routes: policies, keys, receipts, attestation, health, metrics. Reads go on while the gate is closed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adytum.releases import store
from adytum.service import answer
from adytum.service.answer import Answer
from adytum.service.http import read_body
from adytum.service.metrics import Metrics
from adytum.service.pool import Pool
from adytum.storage import reads
from adytum.storage.database import Database
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

MAX_POLICY_ENVELOPE = 2 * limits.MAX_POLICY
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_KEY_ID = re.compile(r"key-[0-9a-f]{32}")
_CHAIN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes use."""

    pool: Pool
    database: Database
    metrics: Metrics
    timeout_s: float


def cold_routes(parts: Parts) -> Starlette:
    """The Starlette application of everything that is not stamped."""
    table: list[tuple[str, str, Callable[[Parts, Request], Awaitable[Answer]]]] = [
        ("GET", "/v1/keys", _list_keys),
        ("GET", "/v1/keys/{key_id}", _get_key),
        ("GET", "/v1/attestation", _attestation),
        ("PUT", "/v1/tenants/{tenant}/policy", _put_policy),
        ("GET", "/v1/tenants/{tenant}/policy", _get_policy),
        ("GET", "/v1/chains", _list_chains),
        ("GET", "/v1/chains/{chain}", _get_chain),
        ("GET", "/v1/receipts", _list_receipts),
        ("GET", "/v1/requests/{tenant}/{request_id}", _get_request),
        ("GET", "/v1/releases", _releases),
        ("GET", "/v1/health", _health),
        ("GET", "/metrics", _metrics),
    ]
    routes = [Route(path, _endpoint(parts, handle), methods=[method]) for method, path, handle in table]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _unexpected})


def _endpoint(parts: Parts, handle: Callable[[Parts, Request], Awaitable[Answer]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            given = await handle(parts, request)
        except AdytumError as error:
            given = answer.failure(error)
        return _response(given)

    return endpoint


def _response(given: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in given.headers}
    return Response(given.body, given.status, headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    given = answer.failure(AdytumError(Code.NOT_FOUND if status == 404 else Code.REQUEST_INVALID, "path or method"))
    return _response(Answer(status, given.body, given.code))


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return _response(answer.failure(AdytumError(Code.INTERNAL)))


def _checked(text: str, pattern: re.Pattern[str], field: str) -> str:
    if pattern.fullmatch(text) is None:
        raise AdytumError(Code.REQUEST_INVALID, field)
    return text


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > most:
        raise AdytumError(Code.REQUEST_INVALID, f"?{name}")
    return int(text)


# --- keys and requests


async def _list_keys(parts: Parts, request: Request) -> Answer:
    tenant = _checked(request.query_params.get("tenant", ""), _TENANT, "?tenant")
    after = request.query_params.get("after", "")
    if after:
        _checked(after, _KEY_ID, "?after")
    limit = max(1, _number(request, "limit", 100, reads.MAX_PAGE))
    keys = await reads.list_keys(parts.database, tenant, after=after, limit=limit)
    return answer.json_answer({"keys": keys, "next_after": keys[-1].key_id if len(keys) == limit else None})


async def _get_key(parts: Parts, request: Request) -> Answer:
    key_id = _checked(request.path_params["key_id"], _KEY_ID, "key_id")
    return answer.json_answer(await reads.get_key(parts.database, key_id))


async def _get_request(parts: Parts, request: Request) -> Answer:
    """Without the result: that is for who holds the stamp's key, and asks again with the same body."""
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    request_id = _checked(request.path_params["request_id"], _REQUEST_ID, "request_id")
    row = await reads.get_request(parts.database, tenant, request_id)
    return answer.json_answer(
        {
            "tenant": row.tenant,
            "request_id": row.request_id,
            "operation": row.operation,
            "state": row.state,
            "code": row.code,
            "body_hash": row.body_hash.hex(),
            "receipt": msgspec.Raw(row.receipt),
        }
    )


# --- attestation, receipts


async def _attestation(parts: Parts, request: Request) -> Answer:
    try:
        nonce = binascii.unhexlify(request.query_params.get("nonce", ""))
    except ValueError:
        nonce = b""
    if not limits.MIN_NONCE <= len(nonce) <= limits.MAX_NONCE:
        raise AdytumError(Code.REQUEST_INVALID, "?nonce")
    reply = await parts.pool.attest(nonce, timeout_s=parts.timeout_s)
    return answer.json_answer({"document": _base64(reply.document), "binding": _base64(reply.binding)})


async def _list_chains(parts: Parts, _request: Request) -> Answer:
    return answer.json_answer({"chains": await reads.list_chains(parts.database)})


async def _get_chain(parts: Parts, request: Request) -> Answer:
    """What an auditor needs beside the receipts: the document that binds the receipt key of this boot."""
    chain = _checked(request.path_params["chain"], _CHAIN, "chain")
    stored = await reads.get_attestation(parts.database, chain)
    return answer.json_answer(
        {
            "chain": chain,
            "document": _base64(stored.document),
            "binding": _base64(stored.binding),
            "verified_at": stored.verified_at,
        }
    )


async def _list_receipts(parts: Parts, request: Request) -> Answer:
    chain = _checked(request.query_params.get("chain", ""), _CHAIN, "?chain")
    limit = max(1, _number(request, "limit", 100, reads.MAX_PAGE))
    after = _number(request, "after", 0, 2**53)
    rows = await reads.list_receipts(parts.database, chain, after=after, limit=limit)
    return answer.json_answer(
        {
            "chain": chain,
            "receipts": [msgspec.Raw(envelope) for _, envelope in rows],
            "next_after": rows[-1][0] if len(rows) == limit else None,
        }
    )


# --- policies


async def _put_policy(parts: Parts, request: Request) -> Answer:
    """The enclave decides whether the quorum signed it; only what it took is stored."""
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    envelope = await read_body(request.scope, request.receive, MAX_POLICY_ENVELOPE)
    parts.pool.require()
    reply = await parts.pool.put_policy(tenant, envelope, timeout_s=parts.timeout_s)
    await reads.put_policy(parts.database, tenant, reply.version, envelope, reply.digest)
    return answer.json_answer({"tenant": tenant, "version": reply.version, "digest": reply.digest.hex()})


async def _get_policy(parts: Parts, request: Request) -> Answer:
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    version, envelope, digest = await reads.newest_policy(parts.database, tenant)
    return answer.json_answer(
        {"tenant": tenant, "version": version, "digest": digest.hex(), "envelope": _base64(envelope)}
    )


# --- how it is


async def _health(parts: Parts, _request: Request) -> Answer:
    """200 when sensitive operations can be served, 503 with the reasons when not."""
    database = await parts.database.is_up()
    serving = parts.pool.serving()
    members = [
        {
            "name": member.name,
            "gate": {"open": member.gate.proof is not None, "reason": member.gate.reason},
            "serves": member in serving,
            "health": member.supervisor.health,
            "problem": member.supervisor.problem,
        }
        for member in parts.pool.members
    ]
    first = parts.pool.lead()
    health, proof = first.supervisor.health, first.gate.proof
    ready = database and bool(serving)
    return answer.json_answer(
        {
            "ready": ready,
            "database": "up" if database else "down",
            "gate": {"open": proof is not None, "reason": first.gate.reason},
            "enclave": None if health is None else health,
            "problem": first.supervisor.problem,
            "enclaves": members,
        },
        200 if ready else 503,
    )


async def _releases(parts: Parts, _request: Request) -> Answer:
    """The releases, and how the enclaves of all hosts stand to them."""
    releases, reports = await store.load(parts.database), await store.reports(parts.database)
    return answer.json_answer(store.summary(releases, reports))


async def _metrics(parts: Parts, _request: Request) -> Answer:
    return _Text(200, parts.metrics.render())


class _Text(Answer):
    """An answer in Prometheus' text format."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
