"""The findings that `lint` can have: how bad each is, and what to do about it. The reference in docs lists the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`mend`: a sentence that tells what to write instead."""

    severity: Severity
    mend: str


_PIN: Final = "pin PCR0, PCR1, PCR2 and PCR16 of kms:RecipientAttestation with StringEqualsIgnoreCase"
_NAME_THEM: Final = "name each operation that is meant"

RULES: Final[dict[str, Rule]] = {
    # form
    "POLICY_MALFORMED": Rule("error", "write a policy as the IAM User Guide describes it; begin with `render`"),
    "VERSION_OLD": Rule("note", 'write "Version": "2012-10-17"'),
    "ELEMENT_UNKNOWN": Rule("error", "use Sid, Effect, Principal, Action, Resource and Condition"),
    "OPERATOR_UNKNOWN": Rule("error", "use an operator of the IAM User Guide, for PCRs StringEqualsIgnoreCase"),
    "CONDITION_KEY_UNKNOWN": Rule("error", f"delete the key and {_PIN}"),
    "NOT_ABOUT_KMS": Rule("note", "lint the key policy and the identity policies that name kms operations"),
    # who
    "PRINCIPAL_WILDCARD": Rule("error", "name the ARN of the one role that needs it"),
    "PRINCIPAL_NEGATED": Rule("error", "write Principal; in a Deny, Principal * with a condition on aws:PrincipalArn"),
    "PRINCIPAL_INVALID": Rule("error", "write the ARN of an existing user, role or account"),
    "PRINCIPAL_SERVICE": Rule("error", "name the role of the parent instance: services cannot attest"),
    "PRINCIPAL_GONE": Rule("warning", "write the ARN again: this is the unique id of a principal that was deleted"),
    "ROOT_DELEGATION": Rule(
        "error", "delete the statement and name roles: naming the account lets IAM policies go around attestation"
    ),
    # what
    "ACTION_WILDCARD": Rule("error", _NAME_THEM),
    "ACTION_NEGATED": Rule("error", f"write Action and {_NAME_THEM}"),
    "RESOURCE_WILDCARD": Rule("error", "write the full ARN of the one key"),
    "RESOURCE_NEGATED": Rule("error", "write Resource with the full ARN of the one key"),
    "RESOURCE_NOT_THIS_KEY": Rule("warning", 'write "Resource": "*", which in a key policy means this key'),
    "REENCRYPT_ALLOWED": Rule("error", "delete kms:ReEncrypt* here and deny it to everybody"),
    "GRANT_ALLOWED": Rule("error", "delete kms:CreateGrant here and deny it to everybody"),
    "COPY_ALLOWED": Rule("error", "delete kms:ReplicateKey and kms:ImportKeyMaterial here"),
    "POLICY_CHANGE_WIDE": Rule("error", "allow kms:PutKeyPolicy to a break-glass role alone, which cannot use the key"),
    "POLICY_CHANGE_NOBODY": Rule("error", "allow kms:PutKeyPolicy to a break-glass role"),
    "UNATTESTED_USE_ALLOWED": Rule("warning", "delete the operation: the enclave needs Decrypt and GenerateDataKey"),
    # attestation
    "ATTESTATION_MISSING": Rule("error", _PIN),
    "ATTESTATION_UNSUPPORTED": Rule("error", "use Decrypt or GenerateDataKey, which take a Recipient"),
    "ATTESTATION_IF_EXISTS": Rule("error", "write the operator without IfExists"),
    "ATTESTATION_SET_OPERATOR": Rule("error", "write the operator without ForAllValues or ForAnyValue"),
    "ATTESTATION_NEGATED": Rule("error", "write StringEqualsIgnoreCase in the Allow; negate in a Deny"),
    "ATTESTATION_ANY_IMAGE": Rule("error", _PIN),
    "NITROTPM_KEY": Rule("warning", _PIN),
    "OPERATOR_CASE_SENSITIVE": Rule("warning", "write StringEqualsIgnoreCase or StringNotEqualsIgnoreCase"),
    "PCR_UPPER_CASE": Rule("error", "write the value in lower case and use the IgnoreCase operator"),
    "PCR_ZERO": Rule("error", "write the value that the image has when it does not run in debug mode"),
    "PCR_LENGTH": Rule("error", "write the whole PCR, 96 hexadecimal digits, and not a hash of it"),
    "PCR_PATTERN": Rule("error", "write whole values with StringEqualsIgnoreCase, one for each image"),
    "PCR2_CONSTANT": Rule("warning", "build an image with an application ramdisk, or rely on PCR0 and PCR1"),
    "PIN_NOT_THE_IMAGE": Rule("error", f"{_PIN}; those that are there may stay"),
    "PIN_PCR1_ONLY": Rule("error", f"{_PIN}: PCR1 is the kernel, which unrelated products share"),
    "PIN_PCR2_ONLY": Rule("error", f"{_PIN}: PCR2 is the same constant for many images"),
    "PIN_PCR0_MISSING": Rule("warning", "pin PCR0 as well"),
    "PIN_INCOMPLETE": Rule("warning", "pin PCR1 and PCR2 as well: PCR0 hashes its parts without their lengths"),
    "PIN_MANIFEST_MISSING": Rule("warning", "pin PCR16 as well: the manifest names the administrators"),
    "PIN_INSTANCE": Rule("note", "pin PCR3 (the role) instead of PCR4: the key is lost with the instance"),
    "IMAGES_MIXED": Rule("error", "write one Allow for each image"),
    "CONTEXT_MISSING": Rule("warning", "demand kms:EncryptionContext:adytum:tenant with StringEquals"),
    "CONTEXT_FOR_ALL_VALUES": Rule("error", "demand kms:EncryptionContext:adytum:tenant with StringEquals beside it"),
    # denials
    "DENY_UNATTESTED_MISSING": Rule(
        "warning", "deny it to Principal * with StringNotEqualsIgnoreCase over the PCR0 of every image"
    ),
    "DENY_REENCRYPT_MISSING": Rule("warning", "deny kms:ReEncrypt* to Principal * without a condition"),
    "DENY_GRANT_MISSING": Rule("warning", "deny kms:CreateGrant to Principal * without a condition"),
    "DENY_POLICY_CHANGE_MISSING": Rule(
        "warning", "deny kms:PutKeyPolicy to Principal * unless aws:PrincipalArn is the break-glass role"
    ),
    "DENY_ANDED": Rule("error", "write one Deny statement for each condition: those of one statement are ANDed"),
    "DENY_MISSES_UNATTESTED": Rule("error", "write StringNotEqualsIgnoreCase alone: it is met by an absent key"),
    "ALLOW_NEVER_USED": Rule("error", "list the values of every image in each Deny, and deny nothing that is needed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`statement`: its index from 0, None for the policy as a whole; `sid` is "" where it has none."""

    code: str
    severity: Severity
    statement: int | None
    sid: str
    sentence: str
    mend: str
