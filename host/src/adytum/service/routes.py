"""The cold routes: policies, keys, receipts, attestation, health, metrics. Reads go on while the gate is closed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adytum.audit.store import list_checkpoints
from adytum.releases import store
from adytum.rotation import progress
from adytum.rotation.errors import RotationError
from adytum.service import answer
from adytum.service.answer import Answer
from adytum.service.http import read_body
from adytum.service.metrics import Metrics
from adytum.service.pool import Pool
from adytum.service.requests import routes as requests
from adytum.service.requests.desk import Desk
from adytum.storage import reads
from adytum.storage.database import Database
from adytum.storage.schema import KEY_STATES
from adytum_policy.content import to_checksum
from adytum_wire import dsse, limits
from adytum_wire.approvals import parse_usage_reset
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import USAGE_RESET

MAX_POLICY_ENVELOPE = 2 * limits.MAX_POLICY
P = TypeVar("P")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAMED = re.compile(r"[0-9a-zA-Z-]{1,130}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_KEY_ID = re.compile(r"key-[0-9a-f]{32}")
_JOB_ID = re.compile(r"rot-[0-9a-f]{16}")
_MAX_JOBS = 100
_CHAIN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes use."""

    pool: Pool
    database: Database
    metrics: Metrics
    timeout_s: float
    desk: Desk
    copies: Callable[[], list[dict[str, str]]] = list  # the audit's second copies, and what is wrong with each
    audit: Callable[[], str] = str  # why receipts cannot be written, a code; "" while they can
    lacks: Callable[[], list[dict[str, Any]]] = list  # what the database lacks (adytum.backup.findings)


def cold_routes(parts: Parts) -> Starlette:
    """The Starlette application of everything that is not stamped."""
    table: list[tuple[str, str, Callable[[Parts, Request], Awaitable[Answer]]]] = [
        ("GET", "/v1/keys", _list_keys),
        ("GET", "/v1/keys/{key_id}", _get_key),
        ("GET", "/v1/attestation", _attestation),
        ("PUT", "/v1/tenants/{tenant}/policy", _put_policy),
        ("GET", "/v1/tenants/{tenant}/policy", _get_policy),
        ("GET", "/v1/tenants/{tenant}/usage", _get_usage),
        ("POST", "/v1/tenants/{tenant}/usage/reset", _reset_usage),
        ("GET", "/v1/chains", _list_chains),
        ("GET", "/v1/chains/{chain}", _get_chain),
        ("GET", "/v1/receipts", _list_receipts),
        ("GET", "/v1/checkpoints", _list_checkpoints),
        ("GET", "/v1/releases", _releases),
        ("GET", "/v1/jobs", _list_jobs),
        ("GET", "/v1/jobs/{job_id}", _get_job),
        ("GET", "/v1/health", _health),
        ("GET", "/metrics", _metrics),
    ]
    routes = [Route(path, _endpoint(parts, handle), methods=[method]) for method, path, handle in table]
    for method, path, answer_for in requests.TABLE:
        routes.append(Route(path, _endpoint(parts.desk, answer_for), methods=[method]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _unexpected})


def _endpoint(parts: P, handle: Callable[[P, Request], Awaitable[Answer]]) -> Callable[[Request], Any]:
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


# --- keys


async def _list_keys(parts: Parts, request: Request) -> Answer:
    tenant = _checked(request.query_params.get("tenant", ""), _TENANT, "?tenant")
    after = request.query_params.get("after", "")
    if after:
        _checked(after, _KEY_ID, "?after")
    limit = max(1, _number(request, "limit", 100, reads.MAX_PAGE))
    keys = await reads.list_keys(parts.database, tenant, after=after, limit=limit, only=_key_filter(request))
    return answer.json_answer({"keys": keys, "next_after": keys[-1].key_id if len(keys) == limit else None})


def _key_filter(request: Request) -> reads.KeyFilter:
    asked = request.query_params
    wanted = {name: asked.get(name, "") for name in ("status", "label", "kind", "algorithm", "named")}
    if wanted["status"] and wanted["status"] not in KEY_STATES:
        raise AdytumError(Code.REQUEST_INVALID, "?status")
    for name in ("label", "kind", "algorithm"):
        if wanted[name]:
            _checked(wanted[name], _LABEL, f"?{name}")
    if wanted["named"]:
        _checked(wanted["named"], _NAMED, "?named")
        if _ADDRESS.fullmatch(wanted["named"]):
            wanted["named"] = to_checksum(bytes.fromhex(wanted["named"][2:]))
    return reads.KeyFilter(**wanted, due=asked.get("due") == "true")


async def _get_key(parts: Parts, request: Request) -> Answer:
    key_id = _checked(request.path_params["key_id"], _KEY_ID, "key_id")
    return answer.json_answer(await reads.get_key(parts.database, key_id))


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


async def _list_checkpoints(parts: Parts, request: Request) -> Answer:
    chain = _checked(request.query_params.get("chain", ""), _CHAIN, "?chain")
    limit = max(1, _number(request, "limit", 100, reads.MAX_PAGE))
    after = _number(request, "after", 0, 2**53)
    rows = await list_checkpoints(parts.database, chain, after=after, limit=limit)
    return answer.json_answer(
        {
            "chain": chain,
            "checkpoints": [msgspec.Raw(envelope) for _, envelope in rows],
            "next_after": rows[-1][0] if len(rows) == limit else None,
        }
    )


# --- policies


async def _put_policy(parts: Parts, request: Request) -> Answer:
    """The enclave decides whether the quorum signed it; only what it took is stored."""
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    envelope = await read_body(request.scope, request.receive, MAX_POLICY_ENVELOPE)
    parts.database.require()
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


# --- limits


async def _get_usage(parts: Parts, request: Request) -> Answer:
    """What of the tenant's limits is used, as the enclave that leads counts it."""
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    parts.pool.require()
    reply = await parts.pool.lead().enclave.get_usage(tenant, timeout_s=parts.timeout_s)
    return answer.json_answer({"tenant": tenant, **msgspec.structs.asdict(reply)})


async def _reset_usage(parts: Parts, request: Request) -> Answer:
    """Hand an admin quorum's reset to the enclave whose boot it names; the enclave decides."""
    tenant = _checked(request.path_params["tenant"], _TENANT, "tenant")
    envelope = await read_body(request.scope, request.receive, MAX_POLICY_ENVELOPE)
    parts.database.require()
    parts.pool.require()
    payload, _ = dsse.parse(envelope, USAGE_RESET, limit=MAX_POLICY_ENVELOPE, code=Code.USAGE_INVALID)
    reset = parse_usage_reset(payload)
    named = [member for member in parts.pool.members if member.boot_id == reset.boot_id]
    member = named[0] if named else parts.pool.lead()
    await member.enclave.reset_usage(tenant, envelope, timeout_s=parts.timeout_s)
    return answer.json_answer({"tenant": tenant, "boot_id": reset.boot_id, "limits": reset.limits})


# --- how it is


async def _health(parts: Parts, _request: Request) -> Answer:
    """200 when sensitive operations can be served, 503 with the reasons when not."""
    database_problem = await parts.database.problem()
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
    audit = parts.audit()
    ready = not database_problem and not audit and bool(serving)
    return answer.json_answer(
        {
            "ready": ready,
            "database": "down" if database_problem else "up",
            "database_problem": database_problem,
            "audit": audit or "up",
            "gate": {"open": proof is not None, "reason": first.gate.reason},
            "enclave": None if health is None else health,
            "problem": first.supervisor.problem,
            "enclaves": members,
            "second_copies": parts.copies(),
            "database_lacks": parts.lacks(),
        },
        200 if ready else 503,
    )


async def _releases(parts: Parts, _request: Request) -> Answer:
    """The releases, and how the enclaves of all hosts stand to them."""
    releases, reports = await store.load(parts.database), await store.reports(parts.database)
    return answer.json_answer(store.summary(releases, reports))


async def _list_jobs(parts: Parts, request: Request) -> Answer:
    """Rotations. Reading only: who may start or stop one is who may use the database (`adytum rotate`)."""
    tenant = request.query_params.get("tenant", "")
    if tenant:
        _checked(tenant, _TENANT, "?tenant")
    return answer.json_answer({"jobs": await progress.read_all(parts.database, tenant, most=_MAX_JOBS)})


async def _get_job(parts: Parts, request: Request) -> Answer:
    job_id = _checked(request.path_params["job_id"], _JOB_ID, "job_id")
    try:
        return answer.json_answer(await progress.read(parts.database, job_id))
    except RotationError:
        raise AdytumError(Code.NOT_FOUND) from None


async def _metrics(parts: Parts, _request: Request) -> Answer:
    with suppress(AdytumError):  # without a database the rest is still worth reading
        parts.metrics.rotations(
            await progress.read_active(parts.database), await progress.count_by_state(parts.database)
        )
    return _Text(200, parts.metrics.render())


class _Text(Answer):
    """An answer in Prometheus' text format."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
