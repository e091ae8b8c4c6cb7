"""A log in the shape of CloudTrail's KMS events, with the recipient fields. It never holds a plaintext or a ciphertext.

Source: KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail" and "...for Nitro Enclaves".
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from adytum_sim.kms.caller import Caller

MAX_EVENTS: Final = 100_000
# Only these members of a request are logged; blobs, plaintexts and documents never are.
_LOGGED: Final = {
    "AliasName": "aliasName",
    "DestinationEncryptionContext": "destinationEncryptionContext",
    "DestinationKeyId": "destinationKeyId",
    "EncryptionAlgorithm": "encryptionAlgorithm",
    "EncryptionContext": "encryptionContext",
    "KeyId": "keyId",
    "KeyPairSpec": "keyPairSpec",
    "KeySpec": "keySpec",
    "NumberOfBytes": "numberOfBytes",
    "PendingWindowInDays": "pendingWindowInDays",
    "SourceEncryptionContext": "sourceEncryptionContext",
    "SourceKeyId": "sourceKeyId",
    "TargetKeyId": "targetKeyId",
}
READ_ONLY: Final = ("Decrypt", "Describe", "Encrypt", "Generate", "Get", "List", "ReEncrypt")


def _identity(caller: Caller) -> dict[str, Any]:
    kind = {"root": "Root", "user": "IAMUser", "session": "AssumedRole"}[caller.kind]
    identity: dict[str, Any] = {
        "type": kind,
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": caller.access_key_id,
    }
    if caller.role_arn:
        identity["sessionContext"] = {
            "sessionIssuer": {
                "type": "Role",
                "principalId": caller.user_id.partition(":")[0],
                "arn": caller.role_arn,
                "accountId": caller.account,
                "userName": caller.role_arn.rpartition("/")[2],
            }
        }
    return identity


class Trail:
    """The last `MAX_EVENTS` events in memory, and all of them in a JSON Lines file when `path` is given."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def record(
        self,
        *,
        caller: Caller,
        event_name: str,
        region: str,
        now_ms: int,
        request_id: str,
        event_id: str,
        payload: Mapping[str, Any],
        resources: list[str],
        recipient: Mapping[str, str] | None,
        error: tuple[str, str] | None,
    ) -> None:
        event: dict[str, Any] = {
            "eventVersion": "1.11",
            "userIdentity": _identity(caller),
            "eventTime": datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": "kms.amazonaws.com",
            "eventName": event_name,
            "awsRegion": region,
            "sourceIPAddress": caller.source_ip,
            "userAgent": caller.user_agent,
            "requestParameters": {_LOGGED[k]: v for k, v in payload.items() if k in _LOGGED} or None,
            "responseElements": None,
            "requestID": request_id,
            "eventID": event_id,
            "readOnly": event_name.startswith(READ_ONLY),
            "resources": [{"accountId": caller.account, "type": "AWS::KMS::Key", "ARN": arn} for arn in resources],
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": caller.account,
            "eventCategory": "Management",
        }
        if recipient is not None:
            event["additionalEventData"] = {"recipient": dict(recipient)}
        if error is not None:
            event["errorCode"], event["errorMessage"] = error
        self._events.append(event)
        if self._path is not None:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(event, separators=(",", ":")) + "\n")
