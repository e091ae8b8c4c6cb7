"""Key policies and IAM policies, as `adytum.kms_policy` reads and decides them; refusals in KMS's shape.

There is one evaluator: `adytum kms-policy explain` says what this KMS does. Left out, and refused by name:
NotPrincipal, federated principals, policy variables, condition keys that do not exist, grants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adytum.kms_policy import document, evaluate
from adytum.kms_policy.document import MAX_KEY_POLICY, Kind
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.evaluate import Question, Verdict, why
from adytum_sim.kms.errors import KmsFault

__all__ = ["MAX_KEY_POLICY", "Question", "Verdict", "decide", "parse", "why"]


def parse(text: str, *, kind: Kind) -> dict[str, Any]:
    """Read a policy. Errors: MalformedPolicyDocumentException with a sentence that names what is wrong."""
    try:
        return document.parse(text, kind=kind)
    except KmsPolicyError as error:
        raise KmsFault("MalformedPolicyDocumentException", error.sentence) from None


def decide(question: Question, key_policy: Mapping[str, Any] | None) -> Verdict:
    """`key_policy` is None for operations without a key (CreateKey, GenerateRandom), where IAM alone decides."""
    return evaluate.decide(question, key_policy).verdict
