"""A DynamoDB to test the anchor against: moto, which we did not write, behind TLS of the stand-in's CA.

moto believes every signature and every credential; the door in front of it checks SigV4 as the KMS stand-in does, holds
the table's policy, and knows tables by their ARN. The door can also break things: see `Door.faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx

from adytum_sim.kms import sigv4
from adytum_sim.kms.caller import Credentials
from adytum_sim.kms.errors import KmsFault
from adytum_sim.kms.http1 import HttpAnswer, HttpServer
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.kms.sigv4 import SignedRequest
from adytum_sim.kms.tls import DevCa

REGION = "us-east-1"
HOST = f"dynamodb.{REGION}.amazonaws.com"
TABLE = "adytum-anchor"
_TYPE = "application/x-amz-json-1.0"


@contextlib.contextmanager
def running_moto() -> Iterator[str]:
    """moto's DynamoDB with an empty table; yields its endpoint (plain HTTP on loopback)."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        httpx.post(endpoint + "/moto-api/reset", trust_env=False)
        table_client(endpoint).create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield endpoint
    finally:
        server.stop()


def table_client(endpoint: str) -> Any:
    """boto3's client, for who has the table's credentials: an operator, or a host that stole them."""
    return boto3.client(
        "dynamodb", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="op", aws_secret_access_key="op"
    )


@dataclass(slots=True)
class Door:
    """`faults`: taken one a request, by operation: "cut-before" (the write does not happen), "cut-after" (it does, and
    its answer is lost), "throttle", "deny", or bytes to answer instead. `calls`: the operations that came."""

    endpoint: str
    known: dict[str, Credentials]
    only: str = ""  # the access key id that the table's policy allows; "" allows whoever is known
    account: str = ""  # that the table is of, for who names it by its ARN
    denied: int = 0
    port: int = 0
    faults: dict[str, list[str | bytes]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    unsigned: int = 0
    gate: asyncio.Event | None = None  # while set and clear, writes wait at the door

    async def handle(self, request: SignedRequest) -> HttpAnswer | None:
        operation = (request.header("x-amz-target") or "").removeprefix("DynamoDB_20120810.")
        try:
            sigv4.verify(request, self.known, now_ms=system_clock_ms(), region=REGION, service="dynamodb")
        except KmsFault as fault:
            self.unsigned += 1
            return HttpAnswer(status=fault.status, body=json.dumps(fault.body()).encode())
        if self.only and f"Credential={self.only}/" not in (request.header("authorization") or ""):
            self.denied += 1
            return _refuse("AccessDeniedException")
        if not self._names_the_table(request.body):
            return _refuse("ResourceNotFoundException")
        self.calls.append(operation)
        waiting = self.faults.get(operation, [])
        fault = waiting.pop(0) if waiting else ""
        if isinstance(fault, bytes):
            return HttpAnswer(status=200, body=fault, headers=(("content-type", _TYPE),))
        if fault == "cut-before":
            return None
        if fault in ("throttle", "deny"):
            name = {"throttle": "ProvisionedThroughputExceededException", "deny": "AccessDeniedException"}[fault]
            return _refuse(name)
        if self.gate is not None and operation == "PutItem":
            await self.gate.wait()
        answer = await asyncio.to_thread(self._forward, request)
        return None if fault == "cut-after" else answer

    def _names_the_table(self, body: bytes) -> bool:
        name = json.loads(body).get("TableName", "")
        return name in (TABLE, self._arn)

    @property
    def _arn(self) -> str:
        return f"arn:aws:dynamodb:{REGION}:{self.account}:table/{TABLE}"

    def _forward(self, request: SignedRequest) -> HttpAnswer:
        kept = {"x-amz-target", "content-type", "x-amz-date", "authorization"}
        headers = {name: value for name, value in request.headers if name.lower() in kept}
        body = json.loads(request.body) | {"TableName": TABLE}  # moto knows names only
        with httpx.Client(trust_env=False, timeout=30) as client:
            answer = client.post(self.endpoint + "/", content=json.dumps(body), headers=headers)
        return HttpAnswer(status=answer.status_code, body=answer.content, headers=(("content-type", _TYPE),))


def _refuse(name: str) -> HttpAnswer:
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{name}"}).encode()
    return HttpAnswer(status=400, body=body, headers=(("content-type", _TYPE),))


@dataclass(frozen=True, slots=True)
class Dynamo:
    """A running table. `manifest`: what a manifest says of it."""

    door: Door
    ca: DevCa
    endpoint: str

    def manifest(self, port: int, credentials: str = "host") -> dict[str, Any]:
        return {
            "kind": "dynamodb",
            "region": REGION,
            "host": HOST,
            "port": port,
            "roots": [self.ca.pem.decode()],
            "table": TABLE,
            "credentials": credentials,
        }

    def item(self, tenant: str = "acme", deployment: str = "stand-in") -> dict[str, Any] | None:
        """What the table holds, as boto3 reads it."""
        key = {"id": {"S": f"{deployment}/{tenant}"}}
        found: dict[str, Any] | None = table_client(self.endpoint).get_item(TableName=TABLE, Key=key).get("Item")
        return found

    def put(self, item: dict[str, Any]) -> None:
        """Without any condition, as nobody but a host with stolen credentials would."""
        table_client(self.endpoint).put_item(TableName=TABLE, Item=item)

    def delete(self, tenant: str = "acme", deployment: str = "stand-in") -> None:
        table_client(self.endpoint).delete_item(TableName=TABLE, Key={"id": {"S": f"{deployment}/{tenant}"}})


@contextlib.asynccontextmanager
async def running_dynamo() -> AsyncIterator[Dynamo]:
    """Serve while the block runs. `door.known` is empty: put in whose signatures it is to believe."""
    with contextlib.ExitStack() as cleanup:
        endpoint = await asyncio.to_thread(cleanup.enter_context, running_moto())
        ca = DevCa.create(system_clock_ms())
        door = Door(endpoint, {})
        server = HttpServer(door.handle, tls=ca.server_context([HOST], system_clock_ms()))
        door.port = await server.start()
        try:
            yield Dynamo(door, ca, endpoint)
        finally:
            await server.stop()
