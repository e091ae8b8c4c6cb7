"""Policies worth having: AWS's default key policy, and one that only an attested enclave can use.

`attested_key_policy` is what deployments should look like (KMS Developer Guide, "Condition keys for Nitro Enclaves",
and what is known to go around it): an explicit Deny closes the way through IAM policies, grants and ReEncrypt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATTESTED = ["kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"]


def default_key_policy(account: str) -> dict[str, Any]:
    """What CreateKey puts without a Policy. It lets IAM policies decide, so by itself it attests nothing."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return {"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}


def attested_key_policy(
    *, account: str, role_arn: str, pcrs: Mapping[int, bytes], administrators: list[str] | None = None
) -> dict[str, Any]:
    """A key policy under which `role_arn` may use the key with a document that shows exactly `pcrs`.

    Args: `pcrs` index to 48 bytes, all of them must match; `administrators` ARNs that may manage the key (the account
    itself when None). Errors: ValueError for no PCRs, which would allow everybody.
    """
    if not pcrs or any(len(value) != 48 for value in pcrs.values()):
        raise ValueError("at least one PCR of 48 bytes is needed")
    wanted = {f"kms:RecipientAttestation:PCR{i}": value.hex() for i, value in sorted(pcrs.items())}
    everybody = {"AWS": "*"}
    denials = [
        {
            "Sid": f"DenyUnlessPCR{index}",
            "Effect": "Deny",
            "Principal": everybody,
            "Action": _ATTESTED,
            "Resource": "*",
            "Condition": {"StringNotEqualsIgnoreCase": {f"kms:RecipientAttestation:PCR{index}": value.hex()}},
        }
        for index, value in sorted(pcrs.items())
    ]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Administration",
                "Effect": "Allow",
                "Principal": {"AWS": administrators or [f"arn:aws:iam::{account}:root"]},
                "Action": [
                    "kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy", "kms:ListKeyPolicies",
                    "kms:EnableKey", "kms:DisableKey", "kms:GetKeyRotationStatus", "kms:EnableKeyRotation",
                    "kms:DisableKeyRotation", "kms:RotateKeyOnDemand", "kms:ListKeyRotations",
                    "kms:CreateAlias", "kms:UpdateAlias", "kms:DeleteAlias",
                    "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion",
                ],
                "Resource": "*",
            },
            {
                "Sid": "AttestedUse",
                "Effect": "Allow",
                "Principal": {"AWS": role_arn},
                "Action": _ATTESTED,
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": wanted},
            },
            *denials,
            {
                "Sid": "NoWayAround",
                "Effect": "Deny",
                "Principal": everybody,
                "Action": ["kms:ReEncrypt*", "kms:CreateGrant", "kms:Encrypt", "kms:*WithoutPlaintext"],
                "Resource": "*",
            },
        ],
    }  # fmt: skip
