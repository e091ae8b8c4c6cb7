"""Aliases and rotation. Source: AWS KMS API Reference."""

from __future__ import annotations

import re

from adytum_sim.kms.call import Answer, Call
from adytum_sim.kms.errors import KmsFault, invalid
from adytum_sim.kms.keys import Key
from adytum_sim.kms.ops_keys import DAY_MS, page

MAX_ON_DEMAND_ROTATIONS = 25
_NAME = re.compile(r"alias/[A-Za-z0-9:/_-]{1,250}")


def _alias(call: Call) -> str:
    name = call.params.text("AliasName", limit=256)
    if not _NAME.fullmatch(name):
        raise KmsFault("InvalidAliasNameException", "Alias must start with the prefix 'alias/'.")
    if name.startswith("alias/aws/"):
        raise KmsFault("NotAuthorizedException", "Alias names with the prefix alias/aws/ are reserved.")
    return name


def _existing(call: Call) -> tuple[str, Key]:
    name = _alias(call)
    if name not in call.state.aliases:
        raise KmsFault("NotFoundException", f"Alias {call.state.alias_arn(name)} is not found.")
    return name, call.lookup(call.state.aliases[name][0])


def create_alias(call: Call) -> Answer:
    name, key = _alias(call), call.find("TargetKeyId", alias_allowed=False)
    call.authorize(key)
    key.require_not_deleted()
    if name in call.state.aliases:
        raise KmsFault("AlreadyExistsException", f"An alias with the name {call.state.alias_arn(name)} already exists")
    call.state.aliases[name] = (key.key_id, call.now_ms)
    return {}


def update_alias(call: Call) -> Answer:
    name, old = _existing(call)
    key = call.find("TargetKeyId", alias_allowed=False)
    call.authorize(old)
    call.authorize(key)
    key.require_not_deleted()
    call.state.aliases[name] = (key.key_id, call.state.aliases[name][1])
    return {}


def delete_alias(call: Call) -> Answer:
    name, key = _existing(call)
    call.authorize(key)
    del call.state.aliases[name]
    return {}


def list_aliases(call: Call) -> Answer:
    only = call.find(alias_allowed=False).key_id if "KeyId" in call.params else None
    call.authorize(None)
    found = [
        {
            "AliasName": name,
            "AliasArn": call.state.alias_arn(name),
            "TargetKeyId": target,
            "CreationDate": created / 1000,
            "LastUpdatedDate": created / 1000,
        }
        for name, (target, created) in sorted(call.state.aliases.items())
        if only in (None, target)
    ]
    return page(call, found, "Aliases")


def get_key_rotation_status(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    result: Answer = {"KeyRotationEnabled": key.rotation_days is not None, "KeyId": key.arn}
    if key.rotation_days is not None:
        result["RotationPeriodInDays"] = key.rotation_days
        last = max([key.created_ms, *(at for at, kind in key.rotations if kind == "AUTOMATIC")])
        result["NextRotationDate"] = (last + key.rotation_days * DAY_MS) / 1000
    return result


def enable_key_rotation(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    key.require_usable()
    key.rotation_days = call.params.optional_integer("RotationPeriodInDays", 90, 2560) or 365
    return {}


def disable_key_rotation(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    key.require_usable()
    key.rotation_days = None
    return {}


def rotate(call: Call, key: Key, kind: str, at_ms: int) -> None:
    """A new backing key; old ciphertexts stay readable."""
    key.backing.append(call.deps.random_bytes(32))
    key.rotations.append((at_ms, kind))


def rotate_key_on_demand(call: Call) -> Answer:
    key = call.find(alias_allowed=False)
    call.authorize(key)
    key.require_usable()
    if sum(kind == "ON_DEMAND" for _, kind in key.rotations) >= MAX_ON_DEMAND_ROTATIONS:
        raise KmsFault("LimitExceededException", "The key has had all of its on-demand rotations.")
    rotate(call, key, "ON_DEMAND", call.now_ms)
    return {"KeyId": key.arn}


def list_key_rotations(call: Call) -> Answer:
    if "IncludeKeyMaterial" in call.params and call.params.text("IncludeKeyMaterial") != "ROTATIONS_ONLY":
        raise invalid("IncludeKeyMaterial other than ROTATIONS_ONLY is not supported by the stand-in KMS.")
    key = call.find(alias_allowed=False)
    call.authorize(key)
    found = [
        {"KeyId": key.arn, "RotationDate": at / 1000, "RotationType": kind, "KeyMaterialId": key.material_id(n + 1)}
        for n, (at, kind) in enumerate(key.rotations)
    ]
    return page(call, found, "Rotations")
