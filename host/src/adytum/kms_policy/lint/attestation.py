"""Rules about what one Allow demands of the attestation document and of the EncryptionContext."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from adytum.kms_policy import keys
from adytum.kms_policy.lint.access import Found
from adytum.kms_policy.lint.reader import Condition, Statement

# SHA-384 of 48 zero bytes and SHA-384 of nothing: PCR2 of every image that has one ramdisk.
PCR2_OF_NOTHING: Final = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)
_HEX = re.compile(r"[0-9A-Fa-f]*")
_DIGITS: Final = 96
_MEASURED: Final = {0, 1, 2}


def values(statement: Statement) -> Iterator[Found]:
    """Operators and values of attestation conditions, in Allow and Deny."""
    for condition in statement.conditions:
        if not condition.about_attestation or condition.base == "Null":
            continue
        if condition.key.lower() in keys.NITROTPM_KEYS:
            yield "NITROTPM_KEY", f"{condition.key} is about an EC2 instance with NitroTPM, not about an enclave."
        if condition.base in ("StringEquals", "StringNotEquals", "StringLike", "StringNotLike"):
            yield "OPERATOR_CASE_SENSITIVE", f"{condition.operator} compares the digits of {condition.key} by case."
        if condition.pcr is not None:
            yield from _value(condition, condition.pcr, allows=statement.allows)


def _value(condition: Condition, index: int, *, allows: bool) -> Iterator[Found]:
    for value in condition.values:
        if any(c in value for c in "*?"):
            yield "PCR_PATTERN", f"PCR{index} is compared with a pattern, which other images can meet."
        elif len(value) != _DIGITS or not _HEX.fullmatch(value):
            hashed = " (64 digits look like a SHA-256 of it)" if len(value) == 64 else ""
            yield "PCR_LENGTH", f"A value of PCR{index} is not 96 hexadecimal digits{hashed}: no document shows it."
        elif not value.strip("0"):
            yield "PCR_ZERO", f"PCR{index} is zero, as an enclave in debug mode shows it, whose memory can be read."
        elif value != value.lower() and "IgnoreCase" not in condition.base:
            yield "PCR_UPPER_CASE", f"A value of PCR{index} has upper-case digits; KMS compares lower-case ones."
        elif allows and index == 2 and value.lower() == PCR2_OF_NOTHING:
            yield "PCR2_CONSTANT", "This PCR2 is the constant of every image without an application ramdisk."


def demands(statement: Statement, kind: str, closed: frozenset[str]) -> Iterator[Found]:
    """What an Allow demands. `closed`: the operations that are denied to everybody without a condition."""
    if not statement.allows:
        return
    attested = [c for c in statement.conditions if c.about_attestation]
    for condition in attested:
        yield from _operator(condition)
    useless = statement.operations & {*keys.NOT_ATTESTABLE}
    if useless and statement.demanded:
        yield "ATTESTATION_UNSUPPORTED", f"{', '.join(sorted(useless))} takes no Recipient: the condition is never met."
    open_ = statement.operations & {*keys.ATTESTABLE} - closed
    if not open_ or (kind == "key" and statement.names_account):  # the account has a finding of its own
        return
    yield from _context(statement)
    if not statement.demanded:
        named = ", ".join(sorted(open_))
        if any(c.base == "Null" for c in attested):
            yield "ATTESTATION_ANY_IMAGE", f"{named}: any enclave of anybody has an attestation document."
        else:
            yield "ATTESTATION_MISSING", f"{named}: no PCR is demanded, so no document of the enclave is needed."
        return
    yield from _pins(statement.demanded)


def _operator(condition: Condition) -> Iterator[Found]:
    if condition.base == "Null":
        return
    if condition.if_exists:
        yield (
            "ATTESTATION_IF_EXISTS",
            (f"{condition.operator} is met when {condition.key} is absent: by every call without a document."),
        )
    elif condition.quantifier == "ForAllValues":
        yield (
            "ATTESTATION_SET_OPERATOR",
            (f"{condition.operator} is met when {condition.key} is absent: by every call without a document."),
        )
    elif condition.negated:
        yield (
            "ATTESTATION_NEGATED",
            (f"{condition.operator} in an Allow is met when {condition.key} is absent, and by every other image."),
        )


def _pins(demanded: dict[int, set[str]]) -> Iterator[Found]:
    indexes = set(demanded)
    if not indexes & _MEASURED:
        yield (
            "PIN_NOT_THE_IMAGE",
            (
                f"Only {_list(indexes)} pinned. In debug mode PCR0 to 2 are zero and these are not, so an enclave "
                "whose memory can be read is accepted."
            ),
        )
    elif indexes & _MEASURED == {1}:
        yield "PIN_PCR1_ONLY", "Of the image only PCR1 is pinned, which is the kernel and the boot ramdisk."
    elif indexes & _MEASURED == {2}:
        yield "PIN_PCR2_ONLY", "Of the image only PCR2 is pinned, which is the application ramdisk or a constant."
    elif 0 not in indexes:
        yield "PIN_PCR0_MISSING", "PCR0, the whole image, is not pinned."
    elif not indexes >= _MEASURED:
        yield "PIN_INCOMPLETE", f"{_list(_MEASURED - indexes)} not pinned."
    if indexes & _MEASURED and 16 not in indexes:
        yield "PIN_MANIFEST_MISSING", "The same image with another manifest, other administrators, is accepted."
    if 4 in indexes:
        yield "PIN_INSTANCE", "PCR4 is one EC2 instance."
    several = [index for index, found in demanded.items() if len(found) > 1]
    if len(several) > 1:
        yield "IMAGES_MIXED", f"{_list(set(several))} have several values each, and any pair of them is accepted."


def _list(indexes: set[int]) -> str:
    names = [f"PCR{index}" for index in sorted(indexes)]
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _context(statement: Statement) -> Iterator[Found]:
    existing = [
        c
        for c in statement.conditions
        if c.key.lower().startswith((keys.ENCRYPTION_CONTEXT, keys.CONTEXT_KEYS))
        and not c.negated
        and not c.if_exists
        and c.quantifier != "ForAllValues"
        and (c.base != "Null" or c.values == ("false",))
    ]
    quantified = any(
        c.key.lower() == keys.CONTEXT_KEYS and c.quantifier == "ForAllValues" for c in statement.conditions
    )
    if quantified and not existing:
        yield "CONTEXT_FOR_ALL_VALUES", "ForAllValues is met by a request without an EncryptionContext."
    elif not any(c.key.lower().startswith(keys.ENCRYPTION_CONTEXT) and c.base != "Null" for c in existing):
        yield "CONTEXT_MISSING", "The PCRs identify code, not a tenant; no EncryptionContext is demanded."
