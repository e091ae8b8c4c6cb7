"""Operations on keys themselves: making, describing, policies, states. Source: AWS KMS API Reference."""

from __future__ import annotations

import json
from typing import Any

from adytum_sim.kms import policy
from adytum_sim.kms.call import SYMMETRIC, Answer, Call
from adytum_sim.kms.errors import KmsFault, invalid, unsupported
from adytum_sim.kms.keys import Key
from adytum_sim.kms.policies import default_key_policy

DAY_MS = 24 * 60 * 60 * 1000
_POLICY_NAME = "default"


def metadata(call: Call, key: Key) -> Answer:
    result: Answer = {
        "AWSAccountId": call.state.account,
        "KeyId": key.key_id,
        "Arn": key.arn,
        "CreationDate": key.created_ms / 1000,
        "Enabled": key.state == "Enabled",
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state,
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": SYMMETRIC,
        "KeySpec": SYMMETRIC,
        "EncryptionAlgorithms": [SYMMETRIC],
        "MultiRegion": False,
        "CurrentKeyMaterialId": key.material_id(),
    }
    if key.deletion_ms is not None:
        result["DeletionDate"] = key.deletion_ms / 1000
    return result


def _policy_param(call: Call, key_arn: str) -> tuple[str, dict[str, Any]]:
    """The Policy member, parsed, and safe against locking everybody out unless the request says to skip that check."""
    text = call.params.optional_text("Policy", limit=policy.MAX_KEY_POLICY)
    if text is None:
        text = json.dumps(default_key_policy(call.state.account))
    parsed = policy.parse(text, kind="key")
    if not call.params.boolean("BypassPolicyLockoutSafetyCheck"):
        # With the caller's condition keys: policies name who may change them by aws:PrincipalArn.
        question = policy.Question(
            caller=call.caller, action="kms:PutKeyPolicy", resource=key_arn, context=call.conditions(None)
        )
        if policy.decide(question, parsed) != "allow":
            raise KmsFault(
                "MalformedPolicyDocumentException",
                "The new key policy will not allow you to update the key policy in the future.",
            )
    return text, parsed


def create_key(call: Call) -> Answer:
    params = call.params
    for name, only in (("KeySpec", SYMMETRIC), ("KeyUsage", "ENCRYPT_DECRYPT"), ("Origin", "AWS_KMS")):
        if params.optional_text(name) not in (None, only):
            raise unsupported(f"{name} other than {only}")
    bypass = str(params.boolean("BypassPolicyLockoutSafetyCheck")).lower()
    call.authorize(
        None,
        {
            "kms:bypasspolicylockoutsafetycheck": [bypass],
            "kms:keyspec": [SYMMETRIC],
            "kms:keyusage": ["ENCRYPT_DECRYPT"],
        },
    )
    key_id = call.deps.uuid()
    arn = call.state.key_arn(key_id)
    text, parsed = _policy_param(call, arn)
    tags = params.values.get("Tags", [])
    if not isinstance(tags, list) or not all(isinstance(t, dict) and set(t) == {"TagKey", "TagValue"} for t in tags):
        raise invalid("Tags is not a list of TagKey and TagValue.")
    key = Key(
        key_id=key_id,
        arn=arn,
        created_ms=call.now_ms,
        description=params.optional_text("Description", limit=8192) or "",
        policy=parsed,
        policy_text=text,
        backing=[call.deps.random_bytes(32)],
        tags={str(tag["TagKey"]): str(tag["TagValue"]) for tag in tags},
    )
    call.state.keys[key_id] = key
    call.resources.append(arn)
    return {"KeyMetadata": metadata(call, key)}


def describe_key(call: Call) -> Answer:
    key = call.find()
    call.authorize(key)
    return {"KeyMetadata": metadata(call, key)}


def _policy_name(call: Call) -> None:
    if (call.params.optional_text("PolicyName") or _POLICY_NAME) != _POLICY_NAME:
        raise KmsFault("NotFoundException", "No such policy exists")


def get_key_policy(call: Call) -> Answer:
    _policy_name(call)
    key = call.find(alias_allowed=False)
    call.authorize(key)
    return {"Policy": key.policy_text, "PolicyName": _POLICY_NAME}


def put_key_policy(call: Call) -> Answer:
    _policy_name(call)
    key = call.find(alias_allowed=False)
    bypass = str(call.params.boolean("BypassPolicyLockoutSafetyCheck")).lower()
    call.authorize(key, {"kms:bypasspolicylockoutsafetycheck": [bypass]})
    key.require_not_deleted()
    call.params.text("Policy", limit=policy.MAX_KEY_POLICY)
    key.policy_text, key.policy = _policy_param(call, key.arn)
    return {}


def list_key_policies(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    return {"PolicyNames": [_POLICY_NAME], "Truncated": False}


def page(call: Call, items: list[Any], name: str) -> Answer:
    """One page of a list. Markers are the index of the next item."""
    limit = call.params.optional_integer("Limit", 1, 1000) or 100
    marker = call.params.optional_text("Marker", limit=16, pattern="[0-9]+")
    start = int(marker or 0)
    end = start + limit
    result: Answer = {name: items[start:end], "Truncated": end < len(items)}
    if end < len(items):
        result["NextMarker"] = str(end)
    return result


def list_keys(call: Call) -> Answer:
    call.authorize(None)
    found = [{"KeyId": key.key_id, "KeyArn": key.arn} for key in call.state.keys.values()]
    return page(call, found, "Keys")


def enable_key(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    key.require_not_deleted()
    key.enabled = True
    return {}


def disable_key(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    key.require_not_deleted()
    key.enabled = False
    return {}


def schedule_key_deletion(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    days = call.params.optional_integer("PendingWindowInDays", 7, 30) or 30
    call.authorize(key, {"kms:schedulekeydeletionpendingwindowindays": [str(days)]})
    key.require_not_deleted()
    key.deletion_ms = call.now_ms + days * DAY_MS
    return {
        "KeyId": key.arn,
        "DeletionDate": key.deletion_ms / 1000,
        "KeyState": key.state,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    if key.deletion_ms is None:
        raise KmsFault("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    key.deletion_ms, key.enabled = None, False  # a rescued key comes back disabled
    return {"KeyId": key.arn}
