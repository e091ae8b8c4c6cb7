"""Clients that send the same bytes until they have a final answer, and keep every answer they ever got."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec

from adytum.client.approvals import KeyApprover
from adytum.service.admit import STAMP_HEADER, format_stamp
from adytum_sim.crash.site import Site
from adytum_sim.demo.transfer import Transfer
from adytum_sim.people import Person, approval_statement, request_body
from adytum_sim.stack import TENANT
from adytum_wire.approvals import Approval
from adytum_wire.errors import Code
from adytum_wire.types import derive_key_id, sha256

PATHS: Final = {"sign": "/v1/sign", "generate_key": "/v1/keys", "reseal": "/v1/reseal"}
FINAL_S: Final = 60.0
_FIRST_S, _MOST_S = 0.02, 0.25
# Not retryable by themselves, and not final: the enclave was restarted, and is about to be given what it needs.
_NOT_YET: Final = frozenset({Code.PHASE_INVALID.value, Code.USAGE_UNKNOWN.value, Code.POLICY_MISSING.value})
_numbers = itertools.count(1)


@dataclass(slots=True, repr=False)
class Asked:
    """A request and what became of it. `results`: of every answer, in order. `code`: of a final refusal. `wei`: what it
    moves. `sent`: how often."""

    person: Person
    operation: str
    request_id: str
    body: bytes
    headers: dict[str, str]
    wei: int = 0
    sent: int = 0
    results: list[bytes] = field(default_factory=list)
    receipts: list[bytes] = field(default_factory=list)
    code: str = ""
    waits: bool = False
    approval: bytes = b""
    is_approved: bool = False

    @property
    def is_done(self) -> bool:
        return bool(self.results)

    @property
    def key_id(self) -> str:
        """Of the key that it makes or names."""
        named = json.loads(self.body).get("key_id")
        return str(named) if named else str(derive_key_id(TENANT, self.request_id))


class _Body(msgspec.Struct):
    receipt: msgspec.Raw
    result: msgspec.Raw = msgspec.Raw()
    error: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Body).decode


def ask(site: Site, person: Person, operation: str, *, wei: int = 0, **fields: Any) -> Asked:
    """A request of `person`, not sent yet."""
    number = next(_numbers)
    request_id = f"{operation.replace('_', '-')}-{number:06d}-{person.name}"
    body = request_body(TENANT, operation, site.stack.now_ms(), request_id=request_id, **fields)
    headers = {STAMP_HEADER: format_stamp(person.stamp(body)), "content-type": "application/json"}
    return Asked(person, operation, request_id, body, headers, wei)


def ask_to_sign(site: Site, person: Person, key_id: str) -> Asked:
    """Each transfer moves another amount, so that no two requests have the same signature."""
    number = next(_numbers)
    content = {"type": "ethereum-transaction", "unsigned": Transfer(nonce=number, value=number).unsigned().hex()}
    return ask(site, person, "sign", wei=number, key_id=key_id, path="", scheme="ecdsa-secp256k1", content=content)


def ask_for_key(site: Site, person: Person, label: str) -> Asked:
    return ask(site, person, "generate_key", algorithm="secp256k1", labels=[label])


async def send(site: Site, asked: Asked, http: httpx.AsyncClient) -> float | None:
    """Once. None when the answer is final (or it waits for approvals), else the seconds to wait."""
    asked.sent += 1
    try:
        came = await http.post(site.url + PATHS[asked.operation], content=asked.body, headers=asked.headers)
    except httpx.TransportError:
        return 0.0
    body = _decode(came.content)
    if bytes(body.receipt) not in (b"", b"null"):
        asked.receipts.append(bytes(body.receipt))
    if came.status_code == 200:
        asked.results.append(bytes(body.result))
        asked.waits = False
        return None
    if came.status_code == 202:
        asked.waits = True
        return None
    code = str(body.error["code"])
    if Code(code).retryable or code in _NOT_YET:
        return float(body.error["retry_after_ms"]) / 1000
    asked.code = code
    return None


async def drive(site: Site, asked: Asked, http: httpx.AsyncClient, *, through: bool = True) -> None:
    """Until the answer is final. `through`: a request that waits for approvals is approved by bob, and asked about
    again, until it is carried out. Errors: TimeoutError."""
    pause = _FIRST_S
    async with asyncio.timeout(FINAL_S):
        while True:
            wanted = await send(site, asked, http)
            if wanted is None and not (asked.waits and through):
                return
            if asked.waits:
                await approve(site, asked, http)
            await asyncio.sleep(min(_MOST_S, max(pause, wanted or 0.0)))
            pause = min(_MOST_S, 2 * pause)


async def approve(site: Site, asked: Asked, http: httpx.AsyncClient) -> None:
    """Bob signs once that it may be carried out; the statement is sent until the host has taken it."""
    if asked.is_approved:
        return
    if not asked.approval:
        statement = approval_statement(TENANT, sha256(asked.body), policy_version=1, issued_at=site.stack.now_ms())
        given = Approval(statement=statement, proof=KeyApprover(site.bob.signer).prove(statement))
        asked.approval = msgspec.json.encode(given)
    path = f"{site.url}/v1/requests/{TENANT}/{asked.request_id}/approvals"
    try:
        asked.is_approved = (await http.post(path, content=asked.approval)).status_code == 200
    except httpx.TransportError:
        return  # the next round tries again


@dataclass(slots=True, repr=False)
class Load:
    """Clients that sign with keys of their own, one request after the other. `asked`: all of them. `rounds`: how many
    each client has finished."""

    site: Site
    keys: list[str]
    asked: list[Asked] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    stopped: bool = False
    pause_s: float = 0.02

    async def run(self, number: int) -> None:
        """Ends after `stopped`, with a request that has its final answer."""
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            while not self.stopped:
                asked = ask_to_sign(self.site, self.site.crowd[number], self.keys[number])
                self.asked.append(asked)
                try:
                    await drive(self.site, asked, http)
                except TimeoutError:
                    self.unfinished.append(asked.request_id)
                self.rounds[number] += 1
                await asyncio.sleep(self.pause_s)

    async def all_served(self) -> None:
        """Wait until each client has begun and finished a request after this call. Errors: TimeoutError."""
        wanted = [count + 2 for count in self.rounds]  # the first may have begun before
        async with asyncio.timeout(FINAL_S):
            while any(have < want for have, want in zip(self.rounds, wanted, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
