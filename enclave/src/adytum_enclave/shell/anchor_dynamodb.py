"""The anchor in DynamoDB: one item for each tenant of a deployment, written on condition that nobody wrote since.

The item is {id: "<deployment>/<tenant>", version, snapshot}. The condition makes writers of several enclaves take
turns, and a strongly consistent read gives what was written last. DynamoDB authenticates itself by TLS, which ends
here.

A write whose answer was lost may have happened; a repeat of it then fails its own condition, and the caller, who reads
the item after that, finds what it wrote. Left out: making the table (docs/how-to/limits.md), any other operation.

Source: Amazon DynamoDB API Reference (GetItem, PutItem), API version 2012-08-10.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from msgspec import Struct

from adytum_enclave.core.effects import Anchored
from adytum_enclave.shell.aws import AwsClient, Service
from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code

MAX_RESPONSE: Final = 2 * limits.MAX_USAGE_SNAPSHOT  # base64 makes four of three
SERVICE: Final = Service(
    signing_name="dynamodb",
    target="DynamoDB_20120810",
    content_type="application/x-amz-json-1.0",
    unavailable=Code.ANCHOR_UNAVAILABLE,
    invalid=Code.ANCHOR_UNAVAILABLE,
    roots_field="$.anchor.roots",
    max_response=MAX_RESPONSE,
)
_CONFLICT: Final = "ConditionalCheckFailedException"
_NUMBER = re.compile(r"\A[1-9][0-9]{0,15}\Z")
# refusals that an operator wants told apart; a name outside this list is never repeated
_REFUSALS = frozenset(
    {
        "AccessDeniedException",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "ResourceNotFoundException",
        "TransactionConflictException",
        "ValidationException",
    }
)


class _ConflictError(AdytumError):
    """Internal: the condition did not hold."""


class _Text(Struct, frozen=True, forbid_unknown_fields=True):
    S: str


class _Number(Struct, frozen=True, forbid_unknown_fields=True):
    N: str


class _Bytes(Struct, frozen=True, forbid_unknown_fields=True):
    B: str


class _Item(Struct, frozen=True, forbid_unknown_fields=True):
    id: _Text
    version: _Number
    snapshot: _Bytes


class _Found(Struct, frozen=True):
    """What we read of GetItem's answer; other members (ConsumedCapacity) are left alone."""

    Item: _Item | None = None


class DynamoDbAnchorClient(AwsClient):
    """An `Anchor`. `table`: its name, or its ARN, which names its account, too. `options`: as for `AwsClient`."""

    def __init__(self, *, table: str, deployment: str, **options: Any) -> None:
        super().__init__(SERVICE, **options)
        self._table = table
        self._deployment = deployment

    async def read(self, tenant: str, *, timeout_s: float) -> Anchored | None:
        request = {
            "TableName": self._table,
            "Key": {"id": {"S": self._id(tenant)}},
            "ConsistentRead": True,
        }
        response = await self._ask("GetItem", strict_json.encode(request), timeout_s)
        item = strict_json.decode(response.body, _Found, limit=MAX_RESPONSE, code=Code.ANCHOR_UNAVAILABLE).Item
        if item is None:
            return None
        if self._id(tenant) != item.id.S:
            raise AdytumError(Code.ANCHOR_UNAVAILABLE, "Item.id")
        if _NUMBER.match(item.version.N) is None or int(item.version.N) > 2**53:
            raise AdytumError(Code.ANCHOR_UNAVAILABLE, "Item.version")
        try:
            snapshot = base64.b64decode(item.snapshot.B, validate=True)
        except (binascii.Error, ValueError):
            raise AdytumError(Code.ANCHOR_UNAVAILABLE, "Item.snapshot") from None
        return Anchored(version=int(item.version.N), snapshot=snapshot)

    async def write(self, tenant: str, expected: int | None, anchored: Anchored, *, timeout_s: float) -> bool:
        request: dict[str, Any] = {
            "TableName": self._table,
            "Item": {
                "id": {"S": self._id(tenant)},
                "version": {"N": str(anchored.version)},
                "snapshot": {"B": base64.b64encode(anchored.snapshot).decode()},
            },
        }
        if expected is None:
            request["ConditionExpression"] = "attribute_not_exists(#id)"
            request["ExpressionAttributeNames"] = {"#id": "id"}
        else:
            request["ConditionExpression"] = "#version = :expected"
            request["ExpressionAttributeNames"] = {"#version": "version"}
            request["ExpressionAttributeValues"] = {":expected": {"N": str(expected)}}
        try:
            await self._ask("PutItem", strict_json.encode(request), timeout_s)
        except _ConflictError:
            return False
        return True

    def _refusal(self, name: str, operation: str) -> AdytumError:
        if name == _CONFLICT and operation == "PutItem":
            return _ConflictError(Code.ANCHOR_UNAVAILABLE, name)
        return AdytumError(Code.ANCHOR_UNAVAILABLE, name if name in _REFUSALS else "")

    def _id(self, tenant: str) -> str:
        return f"{self._deployment}/{tenant}"
