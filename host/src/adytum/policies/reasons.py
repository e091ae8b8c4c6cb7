"""Why a draft is refused, in a sentence that names what to do. The enclave says only where; an author needs more."""

from __future__ import annotations

import json
import re

import msgspec

from adytum_policy.document import Policy, parse_policy
from adytum_policy.shape import PolicyDocument
from adytum_wire.errors import AdytumError, Code

# The parser's paths, most particular first.
_REASONS = (
    (r"principals\[\d+\]\.id", "Another principal has this id already."),
    (r"passkeys\[\d+\]\.credential_id", "Another principal has it already, or `passkeys` of the document is \"none\"."),
    (r"passkeys\[\d+\]\.scheme", "Authenticators have p256 or ed25519 keys."),
    (r"public_key", "No public key of its scheme, or it stands in the document twice: each key is one person's."),
    (r"records\.min_generation", "It must not be above `generation`: no record could be used."),
    (r"recovery\.threshold", "There are fewer keys than that."),
    (r"recovery\.keys", "The keys must be distinct X25519 public keys, each in its one spelling."),
    (r"(limits|recipients)\[\.\.\.\]\.id", "Two of them have the same id."),
    (r"limits\[\d+\]\.asset", "An amount needs one asset (\"*\" is for counting requests), and a mint is 32 bytes."),
    (r"approvals\.count", "Fewer principals than that have the role and a key or passkey to approve with."),
    (r"rules\[\d+\]\.approvals", "A deny rule asks for no approvals; an allow rule for `export` must ask for some."),
    (r"rules\[\d+\]\.limits", "A limit that is not in `limits`, or twice in this rule, or in a deny rule."),
    (r"times\[\d+\]\.end", "The end must be after the start; what goes over midnight is two entries."),
    (r"paths\[\d+\]", "No request can name such a path."),
    (r"rules\[\d+\]\.id", "Another rule has this id already."),
    (r"rules\[\d+\]\.principals", "A principal that is not in the document, or a role that nobody in it has."),
    (r"content\[\d+\]\.delegates", "An allow rule must list the delegates, each a correct address."),
    (r"rules\[\d+\]\.content$", "Conditions on content need a rule for `sign` alone; else write \"*\"."),
    (r"(amount|value)$", "The number is larger than 256 bits."),
    (r"content\[\d+\]\.", "An address here is not one, or its checksum is wrong (EIP-55; all lower case has none)."),
)  # fmt: skip


class DraftError(AdytumError):
    """POLICY_INVALID with a `reason` for a person."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(Code.POLICY_INVALID, field)
        self.reason = reason

    def __str__(self) -> str:
        return f"{super().__str__()} {self.reason}"


def parse_draft(payload: bytes) -> Policy:
    """`parse_policy` for an author's own document. Errors: DraftError."""
    try:
        return parse_policy(payload)
    except AdytumError as error:
        raise DraftError(error.field, _reason(payload, error.field)) from None


def _reason(payload: bytes, field: str) -> str:
    if "(not strict JSON)" in field:
        return _json_fault(payload)
    if field.endswith("(too large)"):
        return "The document is larger than the enclave reads."
    if field.endswith("(too deep)"):
        return "Something is nested more deeply than any field needs."
    try:
        msgspec.json.decode(payload, type=PolicyDocument)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at `")[0]
        return text + ("." if "regex" not in text else ": see spec/policy.md for how it is written.")
    except msgspec.DecodeError:
        pass
    return next((reason for pattern, reason in _REASONS if re.search(pattern, field)), "See spec/policy.md.")


def _json_fault(payload: bytes) -> str:
    try:
        json.loads(payload)
    except json.JSONDecodeError as error:
        return f"JSON ends or breaks at line {error.lineno}, column {error.colno}: {error.msg}."
    except (ValueError, RecursionError):
        return "This is not JSON in UTF-8."
    return "A name stands twice in an object, or a number is not a whole one."
