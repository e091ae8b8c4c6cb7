"""The table of operations: what each takes, which function does it, whether it changes anything.

An operation that KMS has and this stand-in has not is refused by its name; one that KMS has not is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adytum_sim.kms import ops_aliases, ops_crypto, ops_keys
from adytum_sim.kms.call import Answer, Call
from adytum_sim.kms.quotas import CRYPTOGRAPHIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    run: Callable[[Call], Answer]
    members: frozenset[str]
    changes: bool = False
    quota: str = CRYPTOGRAPHIC


def _use(run: Callable[[Call], Answer], members: str) -> Operation:
    return Operation(run=run, members=frozenset(members.split()))


def _manage(run: Callable[[Call], Answer], members: str, *, changes: bool = False) -> Operation:
    return Operation(run=run, members=frozenset(members.split()), changes=changes, quota=run.__name__)


# `Recipient` stands with operations that do not take it as well, so that they can say so by name.
_DATA_KEY: Final = "KeyId EncryptionContext NumberOfBytes KeySpec DryRun Recipient"
_DATA_KEY_PAIR: Final = "KeyId EncryptionContext KeyPairSpec DryRun Recipient"
_RE_ENCRYPT: Final = (
    "CiphertextBlob SourceEncryptionContext SourceKeyId DestinationKeyId DestinationEncryptionContext "
    "SourceEncryptionAlgorithm DestinationEncryptionAlgorithm DryRun Recipient"
)
_POLICY: Final = "KeyId PolicyName Policy BypassPolicyLockoutSafetyCheck"
_CREATE: Final = "Policy Description KeyUsage KeySpec Origin BypassPolicyLockoutSafetyCheck Tags"

OPERATIONS: Final[dict[str, Operation]] = {
    "CancelKeyDeletion": _manage(ops_keys.cancel_key_deletion, "KeyId", changes=True),
    "CreateAlias": _manage(ops_aliases.create_alias, "AliasName TargetKeyId", changes=True),
    "CreateKey": _manage(ops_keys.create_key, _CREATE, changes=True),
    "Decrypt": _use(ops_crypto.decrypt, "CiphertextBlob KeyId EncryptionContext EncryptionAlgorithm DryRun Recipient"),
    "DeleteAlias": _manage(ops_aliases.delete_alias, "AliasName", changes=True),
    "DescribeKey": _manage(ops_keys.describe_key, "KeyId"),
    "DisableKey": _manage(ops_keys.disable_key, "KeyId", changes=True),
    "DisableKeyRotation": _manage(ops_aliases.disable_key_rotation, "KeyId", changes=True),
    "EnableKey": _manage(ops_keys.enable_key, "KeyId", changes=True),
    "EnableKeyRotation": _manage(ops_aliases.enable_key_rotation, "KeyId RotationPeriodInDays", changes=True),
    "Encrypt": _use(ops_crypto.encrypt, "KeyId Plaintext EncryptionContext EncryptionAlgorithm DryRun Recipient"),
    "GenerateDataKey": _use(ops_crypto.generate_data_key, _DATA_KEY),
    "GenerateDataKeyPair": _use(ops_crypto.generate_data_key_pair, _DATA_KEY_PAIR),
    "GenerateDataKeyPairWithoutPlaintext": _use(ops_crypto.generate_data_key_pair_without_plaintext, _DATA_KEY_PAIR),
    "GenerateDataKeyWithoutPlaintext": _use(ops_crypto.generate_data_key_without_plaintext, _DATA_KEY),
    "GenerateRandom": _use(ops_crypto.generate_random, "NumberOfBytes Recipient"),
    "GetKeyPolicy": _manage(ops_keys.get_key_policy, "KeyId PolicyName"),
    "GetKeyRotationStatus": _manage(ops_aliases.get_key_rotation_status, "KeyId"),
    "ListAliases": _manage(ops_aliases.list_aliases, "KeyId Limit Marker"),
    "ListKeyPolicies": _manage(ops_keys.list_key_policies, "KeyId Limit Marker"),
    "ListKeyRotations": _manage(ops_aliases.list_key_rotations, "KeyId Limit Marker IncludeKeyMaterial"),
    "ListKeys": _manage(ops_keys.list_keys, "Limit Marker"),
    "PutKeyPolicy": _manage(ops_keys.put_key_policy, _POLICY, changes=True),
    "ReEncrypt": _use(ops_crypto.re_encrypt, _RE_ENCRYPT),
    "RotateKeyOnDemand": _manage(ops_aliases.rotate_key_on_demand, "KeyId", changes=True),
    "ScheduleKeyDeletion": _manage(ops_keys.schedule_key_deletion, "KeyId PendingWindowInDays", changes=True),
    "UpdateAlias": _manage(ops_aliases.update_alias, "AliasName TargetKeyId", changes=True),
}

_UNSUPPORTED_NAMES: Final = """
    ConnectCustomKeyStore CreateCustomKeyStore CreateGrant Decapsulate DeleteCustomKeyStore DeleteImportedKeyMaterial
    DeriveSharedSecret DescribeCustomKeyStores DisconnectCustomKeyStore Encapsulate GenerateMac GetKeyLastUsage
    GetParametersForImport GetPublicKey ImportKeyMaterial ListGrants ListResourceTags ListRetirableGrants ReplicateKey
    RetireGrant RevokeGrant Sign TagResource UntagResource UpdateCustomKeyStore UpdateKeyDescription
    UpdatePrimaryRegion Verify VerifyMac
"""
UNSUPPORTED: Final = frozenset(_UNSUPPORTED_NAMES.split())
