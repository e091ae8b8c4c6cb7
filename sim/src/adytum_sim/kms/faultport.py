"""The fault port of a stand-in that runs as its own process: plain HTTP on loopback, JSON in and out.

GET tells what is set, POST sets (`{"throttle": 3, "delay_ms": 50}`; names as in `faults.Faults`), DELETE resets all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from adytum_sim.kms.errors import KmsFault
from adytum_sim.kms.faults import Faults
from adytum_sim.kms.http1 import HttpAnswer, HttpServer
from adytum_sim.kms.service import decode_body
from adytum_sim.kms.sigv4 import SignedRequest


@contextlib.asynccontextmanager
async def running_fault_port(faults: Faults, port: int = 0) -> AsyncIterator[str]:
    """Serve while the block runs; gives the endpoint. Errors: OSError when the port is taken."""

    async def handle(request: SignedRequest) -> HttpAnswer:
        try:
            if request.method == "POST":
                faults.set(**decode_body(request.body))
            elif request.method == "DELETE":
                faults.reset()
            elif request.method != "GET":
                return HttpAnswer(status=405, body=b"{}")
        except KmsFault as fault:
            return HttpAnswer(status=400, body=json.dumps(fault.body()).encode())
        return HttpAnswer(status=200, body=json.dumps(faults.snapshot()).encode())

    server = HttpServer(handle)
    bound = await server.start(port)
    try:
        yield f"http://127.0.0.1:{bound}"
    finally:
        await server.stop()
