"""Which condition keys and which operations exist, as far as policies about attested keys are concerned.

Sources: Service Authorization Reference, "Actions, resources, and condition keys for AWS Key Management Service";
KMS Developer Guide, "Condition keys for AWS Nitro Enclaves". There are exactly these attestation keys: ImageSha384
(which is PCR0), PCR0 to PCR31, and NitroTPMPCR0 to 23 (which are about an EC2 instance, not about an enclave).
"""

from __future__ import annotations

import re
from typing import Final

RECIPIENT: Final = "kms:recipientattestation:"
ENCRYPTION_CONTEXT: Final = "kms:encryptioncontext:"
CONTEXT_KEYS: Final = "kms:encryptioncontextkeys"
PCR_KEYS: Final = (RECIPIENT + "imagesha384", *(f"{RECIPIENT}pcr{index}" for index in range(32)))
NITROTPM_KEYS: Final = tuple(f"{RECIPIENT}nitrotpmpcr{index}" for index in range(24))

# What the evaluator (and the stand-in KMS) can compare.
EVALUATED: Final = frozenset({
    "aws:principalarn", "aws:principalaccount", "aws:principaltype", "aws:userid", "aws:securetransport",
    "aws:requestedregion", "aws:useragent", "aws:viaawsservice", "aws:principalisawsservice",
    "kms:bypasspolicylockoutsafetycheck", "kms:calleraccount", "kms:datakeypairspec", "kms:encryptionalgorithm",
    CONTEXT_KEYS, "kms:keyorigin", "kms:keyspec", "kms:keyusage", "kms:multiregion",
    "kms:reencryptonsamekey", "kms:requestalias", "kms:resourcealiases",
    "kms:schedulekeydeletionpendingwindowindays", "kms:customermasterkeyspec", "kms:customermasterkeyusage",
    *PCR_KEYS,
})  # fmt: skip
MULTI_VALUED: Final = frozenset({CONTEXT_KEYS, "kms:resourcealiases"})
# Real keys that no request here ever carries.
REAL_BUT_ABSENT: Final = frozenset({
    "kms:viaservice", "kms:expirationmodel", "kms:grantconstrainttype", "kms:grantisforawsresource",
    "kms:grantoperations", "kms:granteeprincipal", "kms:keyagreementalgorithm", "kms:macalgorithm", "kms:messagetype",
    "kms:multiregionkeytype", "kms:primaryregion", "kms:replicaregion", "kms:retiringprincipal",
    "kms:rotationperiodindays", "kms:signingalgorithm", "kms:validto", "kms:wrappingalgorithm", "kms:wrappingkeyspec",
    *NITROTPM_KEYS,
})  # fmt: skip

# Operations on a key that take a Recipient, so that attestation can be demanded of them.
ATTESTABLE: Final = ("Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "DeriveSharedSecret")
# Operations that use a key and take none: a condition on attestation is never met (or, negated, always).
NOT_ATTESTABLE: Final = (
    "Decapsulate", "Encapsulate", "Encrypt", "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPairWithoutPlaintext", "GenerateMac", "ReEncryptFrom", "ReEncryptTo", "Sign", "Verify", "VerifyMac",
)  # fmt: skip
# Operations that open other ways to the key.
CONTROL: Final = ("CreateGrant", "ImportKeyMaterial", "PutKeyPolicy", "ReplicateKey")
HARMLESS: Final = (
    "CancelKeyDeletion", "CreateAlias", "DeleteAlias", "DescribeKey", "DisableKey", "DisableKeyRotation", "EnableKey",
    "EnableKeyRotation", "GetKeyLastUsage", "GetKeyPolicy", "GetKeyRotationStatus", "GetPublicKey", "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations", "ListResourceTags", "RetireGrant", "RevokeGrant", "RotateKeyOnDemand", "ScheduleKeyDeletion",
    "TagResource", "UntagResource", "UpdateAlias", "UpdateKeyDescription", "UpdatePrimaryRegion",
    "DeleteImportedKeyMaterial", "GetParametersForImport",
)  # fmt: skip
OPERATIONS: Final = (*ATTESTABLE, *NOT_ATTESTABLE, *CONTROL, *HARMLESS)

_PCR: Final = re.compile(re.escape(RECIPIENT) + r"pcr(0|[1-9][0-9]?)")


def exists(name: str) -> bool:
    """Is `name` (any case) a condition key that can be written in a policy, evaluated here or not?"""
    key = name.lower()
    if key.startswith(ENCRYPTION_CONTEXT):
        return len(key) > len(ENCRYPTION_CONTEXT)
    return key in EVALUATED or key in REAL_BUT_ABSENT


def pcr_index(name: str) -> int | None:
    """Which PCR a condition key is about; ImageSha384 is PCR0. None for every other key."""
    key = name.lower()
    if key == RECIPIENT + "imagesha384":
        return 0
    match = _PCR.fullmatch(key)
    return int(match[1]) if match and int(match[1]) < 32 else None


def pcr_key(index: int) -> str:
    """As the AWS documentation writes it."""
    return f"kms:RecipientAttestation:PCR{index}"
