"""Write the key policy and the IAM policies of a deployment. The same input gives the same bytes.

How the key policy is built, and what each part is against:

* One Allow for each image, with all its PCRs: PCR0 of one image and PCR2 of another satisfy no Allow together.
* A Deny for each PCR that shows no value of any image. A negated operator is met when the key is absent, so it denies
  calls without an attestation document as well; each PCR has a statement of its own, because the conditions of one
  statement are ANDed and one right PCR would switch the Deny off.
* Where programs differ in a PCR, a Deny for each program (this PCR0, but not its PCR2), so that a mixture is not only
  allowed by nothing but denied, also when somebody adds an Allow.
* The account's root is not named. It would let IAM policies decide, and go around attestation.
* ReEncrypt, grants, replicas and every operation that yields or takes key material without a Recipient are denied.
* Only the break-glass role may change the policy or delete the key. AWS refuses a policy that locks its caller out of
  PutKeyPolicy: put it as the break-glass role. BypassPolicyLockoutSafetyCheck is not denied, as a way back in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from adytum.kms_policy.deployment import Deployment, Image, Roles, check_parts
from adytum.kms_policy.document import MAX_KEY_POLICY
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.keys import pcr_key

Json = dict[str, Any]
USE: Final = ["kms:Decrypt", "kms:GenerateDataKey"]
# What the enclave sends; adytum_wire.record.encryption_context writes it.
CONTEXT_KEYS: Final = ["adytum:key", "adytum:kind", "adytum:tenant", "adytum:version"]
NEVER: Final = [
    "kms:CreateGrant",
    "kms:DeriveSharedSecret",
    "kms:Encrypt",
    "kms:GenerateDataKeyPair*",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateMac",
    "kms:ImportKeyMaterial",
    "kms:ReEncrypt*",
    "kms:ReplicateKey",
    "kms:Sign",
    "kms:UpdatePrimaryRegion",
]
MANAGE: Final = [
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
]
BREAK_GLASS_ONLY: Final = ["kms:PutKeyPolicy", "kms:ScheduleKeyDeletion"]
BREAK_GLASS: Final = [
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:GetKeyPolicy",
    "kms:ListKeyPolicies",
    *BREAK_GLASS_ONLY,
]
_TENANT: Final = "kms:EncryptionContext:adytum:tenant"


def render(deployment: Deployment) -> dict[str, Json]:
    """All policies by their file name (without .json). Errors: KmsPolicyError when one is longer than AWS takes."""
    roles, images, tenants = deployment.roles, deployment.images, deployment.tenants
    return {
        "key-policy": key_policy(roles, images, tenants),
        "iam-parent": _parent(deployment),
        "iam-admin": _identity(_allow("ManageKey", MANAGE, deployment.key)),
        "iam-break-glass": _identity(_allow("BreakGlass", BREAK_GLASS, deployment.key)),
        "trust-parent": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "ParentInstance",
                    "Effect": "Allow",
                    "Principal": {"Service": "ec2.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        },
    }


def to_json(policy: Json) -> str:
    """As it is put: indented, with a newline at the end."""
    return json.dumps(policy, indent=2) + "\n"


def key_policy(roles: Roles, images: Iterable[Image], tenants: Iterable[str]) -> Json:
    """The key policy alone. The order of `images` and `tenants` does not matter. Errors: KmsPolicyError."""
    ordered, wanted = tuple(sorted(images, key=lambda image: image.name)), tuple(sorted(tenants))
    check_parts(ordered, wanted)
    policy: Json = {
        "Version": "2012-10-17",
        "Id": "adytum",
        "Statement": [
            *(_use(number, image, wanted, roles.parent) for number, image in enumerate(ordered, start=1)),
            *_deny_other_pcrs(ordered),
            _deny("DenyOtherTenants", USE, {"StringNotEquals": {_TENANT: _one_or_more(wanted)}}),
            _deny("DenyUseByOthers", USE, {"StringNotEquals": {"aws:PrincipalArn": roles.parent}}),
            _deny("DenyWhatIsNeverNeeded", NEVER, {}),
            _deny(
                "DenyChangesButBreakGlass",
                BREAK_GLASS_ONLY,
                {"StringNotEquals": {"aws:PrincipalArn": roles.break_glass}},
            ),
            _allow("Manage", MANAGE, "*") | {"Principal": {"AWS": roles.admin}},
            _allow("BreakGlass", BREAK_GLASS, "*") | {"Principal": {"AWS": roles.break_glass}},
        ],
    }
    if len(to_json(policy)) > MAX_KEY_POLICY:
        raise KmsPolicyError("The key policy would be longer than 32 KiB: give some of the tenants a key of their own.")
    return policy


def _use(number: int, image: Image, tenants: tuple[str, ...], parent: str) -> Json:
    return {
        "Sid": _sid(number, image.name),
        "Effect": "Allow",
        "Principal": {"AWS": parent},
        "Action": USE,
        "Resource": "*",
        "Condition": _attested(image, tenants),
    }


def _attested(image: Image, tenants: tuple[str, ...]) -> Json:
    """ForAllValues is met by a request without an EncryptionContext; the other two demand all four of its keys."""
    others = [name for name in CONTEXT_KEYS if not _TENANT.endswith(name)]
    return {
        "StringEqualsIgnoreCase": {pcr_key(index): value.hex() for index, value in image.pcrs.items()},
        "StringEquals": {_TENANT: _one_or_more(tenants)},
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": CONTEXT_KEYS},
        "Null": {f"kms:EncryptionContext:{name}": "false" for name in others},
    }


def _deny_other_pcrs(images: tuple[Image, ...]) -> list[Json]:
    """For each PCR its values; for one that differs between programs (PCR0s), each program's own values."""
    programs = sorted({image.pcrs[0] for image in images})
    statements = []
    for index in images[0].pcrs:
        of_program = [sorted({i.pcrs[index].hex() for i in images if i.pcrs[0] == program}) for program in programs]
        if index == 0 or all(values == of_program[0] for values in of_program):
            values = sorted({i.pcrs[index].hex() for i in images})
            statements.append(_deny(f"DenyUnlessPCR{index}", USE, _unless(index, values)))
            continue
        for number, (program, values) in enumerate(zip(programs, of_program, strict=True), start=1):
            condition = {"StringEqualsIgnoreCase": {pcr_key(0): program.hex()}} | _unless(index, values)
            statements.append(_deny(f"DenyProgram{number}UnlessPCR{index}", USE, condition))
    return statements


def _unless(index: int, values: list[str]) -> Json:
    return {"StringNotEqualsIgnoreCase": {pcr_key(index): _one_or_more(values)}}


def _parent(deployment: Deployment) -> Json:
    """What the instance's role may do. The key policy decides by itself; this says the same again, for one key."""
    tenants = tuple(sorted(deployment.tenants))
    return _identity(
        *(
            _allow(_sid(number, image.name), USE, deployment.key) | {"Condition": _attested(image, tenants)}
            for number, image in enumerate(sorted(deployment.images, key=lambda image: image.name), start=1)
        ),
        {"Sid": "DenyOtherKeys", "Effect": "Deny", "Action": "kms:*", "NotResource": deployment.key},
        {"Sid": "DenyWhatIsNeverNeeded", "Effect": "Deny", "Action": [*NEVER, *BREAK_GLASS_ONLY], "Resource": "*"},
    )


def _identity(*statements: Json) -> Json:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: list[str], resource: str) -> Json:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource}


def _deny(sid: str, actions: list[str], condition: Json) -> Json:
    statement: Json = {"Sid": sid, "Effect": "Deny", "Principal": "*", "Action": actions, "Resource": "*"}
    return statement | ({"Condition": condition} if condition else {})


def _one_or_more(values: Iterable[str]) -> str | list[str]:
    found = list(values)
    return found[0] if len(found) == 1 else found


def _sid(number: int, name: str) -> str:
    """Sids are letters and digits and must differ; image names also have `-`, `_` and `.`."""
    return f"UseImage{number}" + "".join(c for c in name.title() if c.isalnum())
