"""`KmsServer`: the HTTP face. Checks the signature, hands the request to the service, shapes the answer; breaks the
transport where a test asked for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import uuid
from typing import Any, Final

from adytum_sim import sts
from adytum_sim.kms import sigv4
from adytum_sim.kms.caller import Caller
from adytum_sim.kms.errors import KmsFault
from adytum_sim.kms.http1 import HttpAnswer, HttpServer
from adytum_sim.kms.service import KmsService, decode_body
from adytum_sim.kms.sigv4 import SignedRequest

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
SWAP_SECONDS: Final = 10.0  # how long the first of two swapped answers waits for the second


class KmsServer:
    """Serves one `KmsService` over TLS on 127.0.0.1."""

    def __init__(self, service: KmsService, tls: ssl.SSLContext) -> None:
        self._service = service
        self._http = HttpServer(self._handle, tls=tls)
        self._swap: tuple[bytes, asyncio.Future[bytes]] | None = None

    async def start(self, port: int = 0) -> int:
        """Returns the port. Errors: OSError when it is taken."""
        return await self._http.start(port)

    async def stop(self) -> None:
        await self._http.stop()

    async def _handle(self, request: SignedRequest) -> HttpAnswer | None:
        faults = self._service.faults
        if faults.delay_ms:
            await asyncio.sleep(faults.delay_ms / 1000)
        if faults.take("hang_up"):
            return None
        if (request.header("content-type") or "").partition(";")[0] == sts.FORM:
            return self._sts(request)
        try:
            body = json.dumps(self._run(request), separators=(",", ":")).encode()
        except KmsFault as fault:
            return _answer(fault.status, json.dumps(fault.body(), separators=(",", ":")).encode())
        return _answer(200, await self._swapped(body))

    def _run(self, request: SignedRequest) -> dict[str, Any]:
        target = request.header("x-amz-target")
        if request.method != "POST" or request.target != "/" or target is None:
            raise KmsFault("UnknownOperationException", status=404)
        if (request.header("content-type") or "").partition(";")[0] != CONTENT_TYPE:
            raise KmsFault("UnknownOperationException", status=404)
        caller = self._caller(request, "kms")
        return self._service.handle(target, decode_body(request.body), caller)

    def _caller(self, request: SignedRequest, service: str) -> Caller:
        """Who signed. Errors: KmsFault, see `sigv4.verify`."""
        state = self._service.state
        known = sigv4.verify(
            request, state.credentials, now_ms=self._service.now_ms, region=state.region, service=service
        )
        agent = request.header("user-agent") or ""
        return dataclasses.replace(known.caller, access_key_id=known.access_key_id, user_agent=agent)

    def _sts(self, request: SignedRequest) -> HttpAnswer:
        service, status = self._service, 200
        request_id = str(uuid.UUID(bytes=service.random_bytes(16), version=4))
        try:
            text = sts.handle(
                request.body,
                self._caller(request, "sts"),
                service.state,
                now_ms=service.now_ms,
                random_bytes=service.random_bytes,
                request_id=request_id,
            )
        except KmsFault as fault:
            status, text = sts.error_xml(fault, request_id)
        return HttpAnswer(status=status, body=text.encode(), headers=(("content-type", "text/xml"),))

    async def _swapped(self, body: bytes) -> bytes:
        """Exchange this answer with another request's, when the fault `swap` is on."""
        if self._swap is not None:
            other, future = self._swap
            self._swap = None
            future.set_result(body)
            return other
        if not self._service.faults.take("swap"):
            return body
        future = asyncio.get_running_loop().create_future()
        self._swap = (body, future)
        done, _ = await asyncio.wait({future}, timeout=SWAP_SECONDS)
        if done:
            return future.result()
        self._swap = None
        return body


def _answer(status: int, body: bytes) -> HttpAnswer:
    return HttpAnswer(status=status, body=body, headers=(("content-type", CONTENT_TYPE),))
