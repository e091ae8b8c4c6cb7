"""What the tests of key policies share: roles, images, a rendered policy, and the requests of an enclave."""

from __future__ import annotations

import copy
import json
from typing import Any

from adytum.kms_policy import Decision, Deployment, Image, Principal, Roles, decide, parse, render
from adytum.kms_policy.explain import explain

ACCOUNT = "111122223333"
IAM = f"arn:aws:iam::{ACCOUNT}"
ROOT = f"{IAM}:root"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLES = Roles(
    parent=f"{IAM}:role/adytum-parent", admin=f"{IAM}:role/adytum-key-admin", break_glass=f"{IAM}:role/break-glass"
)
INDEXES = (0, 1, 2, 16)
CONTEXT = {
    "adytum:tenant": "acme",
    "adytum:key": "key-00000000000000000000000000000001",
    "adytum:kind": "signing-key",
    "adytum:version": "1",
}
Json = dict[str, Any]


def pcrs(seed: int) -> dict[int, bytes]:
    return {index: bytes([seed + index]) * 48 for index in INDEXES}


A, B, C = pcrs(0x20), pcrs(0x60), pcrs(0xA0)


def deployment(*images: Image, tenants: tuple[str, ...] = ("acme",)) -> Deployment:
    return Deployment(key=KEY, roles=ROLES, tenants=tenants, images=images or (Image("v1", A),))


def rendered(*images: Image) -> Json:
    """A key policy to change."""
    return copy.deepcopy(render(deployment(*images))["key-policy"])


def ask(
    policy: Json,
    *,
    who: str = ROLES.parent,
    action: str = "kms:Decrypt",
    shown: dict[int, bytes] | None = None,
    context: dict[str, str] = CONTEXT,
    iam: tuple[Json, ...] = (),
) -> Decision:
    """One request against `policy`. `shown`: the PCRs of its document; None for none."""
    principal = Principal.from_arn(who).with_policies(*(parse(json.dumps(p), kind="identity") for p in iam))
    parsed = parse(json.dumps(policy), kind="key", unknown_keys_absent=True)
    answer = explain(key_policy=parsed, principal=principal, action=action, key=KEY, pcrs=shown, context=context)
    assert decide(answer.question, parsed) == answer.decision
    return answer.decision


def without_denials(policy: Json) -> Json:
    return policy | {"Statement": [s for s in policy["Statement"] if s["Effect"] == "Allow"]}
