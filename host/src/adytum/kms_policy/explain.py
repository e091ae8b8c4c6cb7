"""`explain`: one request against policies, from what a person knows: an action, a principal, PCRs, a context.

The condition keys are filled in as KMS does for a call to a symmetric key. Left out: grants, SCPs, VPC endpoints,
aliases; and whether the ciphertext belongs to the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adytum.kms_policy import keys
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.evaluate import Decision, Question, StatementResult, decide, why
from adytum.kms_policy.people import Principal

_SYMMETRIC = "SYMMETRIC_DEFAULT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`sentence` is the outcome; `remarks` what a reader must know about how it was reached."""

    question: Question
    decision: Decision
    remarks: tuple[str, ...]

    @property
    def sentence(self) -> str:
        who, action = self.question.caller.arn, self.question.action
        if self.decision.allowed:
            return f"{who} may perform {action}"
        return f"{who} is not authorized to perform {action} {why(self.decision.verdict, action)}"

    @property
    def others(self) -> tuple[StatementResult, ...]:
        """The statements that did not decide, in their order."""
        decided = self.decision.decided_by
        return tuple(s for s in self.decision.statements if s not in decided)


def explain(
    *,
    key_policy: Mapping[str, Any],
    principal: Principal,
    action: str,
    key: str | None = None,
    pcrs: Mapping[int, bytes] | None = None,
    context: Mapping[str, str] | None = None,
) -> Explanation:
    """Decide and say why. Policies are as `document.parse` returns them, the principal carries the identity policies.

    `key`: the full ARN, needed where a Resource names one; None stands for a key of the principal's account.
    `pcrs`: what the attestation document shows (48 bytes each), None for a call without Recipient. `context`: the
    EncryptionContext. Errors: KmsPolicyError for an action that is no `kms:<operation>`.
    """
    name = operation(action)
    remarks = []
    given = principal.context() | _of_key() | _encryption_context(context or {})
    if pcrs is not None and name in keys.NOT_ATTESTABLE:
        remarks.append(f"{name} takes no Recipient, so KMS compares no PCR.")
    elif pcrs is not None:
        given |= attestation_context(pcrs)
        if not any(any(pcrs.get(index, b"")) for index in (0, 1, 2)):
            remarks.append("PCR0 to 2 are zero: this enclave runs in debug mode.")
    resource = key or f"arn:{principal.partition}:kms:us-east-1:{principal.account}:key/any"
    if key is None:
        remarks.append("No key was named; statements whose Resource is one key do not match.")
    question = Question(caller=principal, action=action, resource=resource, context=given)
    return Explanation(question=question, decision=decide(question, key_policy), remarks=tuple(remarks))


def operation(action: str) -> str:
    """`Decrypt` of `kms:Decrypt`. Errors: KmsPolicyError for anything else than one operation of KMS."""
    service, _, name = action.partition(":")
    if service.lower() != "kms" or not name.isalnum():
        raise KmsPolicyError("The action is kms:<operation>, without wildcards.")
    return name


def attestation_context(pcrs: Mapping[int, bytes]) -> dict[str, list[str]]:
    """The condition keys of a document that shows these PCRs; one that it does not show is absent."""
    found = {f"{keys.RECIPIENT}pcr{index}": [value.hex()] for index, value in pcrs.items()}
    if 0 in pcrs:
        found[f"{keys.RECIPIENT}imagesha384"] = [pcrs[0].hex()]
    return found


def _of_key() -> dict[str, list[str]]:
    return {
        "kms:encryptionalgorithm": [_SYMMETRIC],
        "kms:keyspec": [_SYMMETRIC],
        "kms:customermasterkeyspec": [_SYMMETRIC],
        "kms:keyusage": ["ENCRYPT_DECRYPT"],
        "kms:customermasterkeyusage": ["ENCRYPT_DECRYPT"],
        "kms:keyorigin": ["AWS_KMS"],
        "kms:multiregion": ["false"],
        "kms:bypasspolicylockoutsafetycheck": ["false"],
    }


def _encryption_context(context: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {keys.CONTEXT_KEYS: sorted(context)} if context else {}
    for name, value in context.items():
        found.setdefault(keys.ENCRYPTION_CONTEXT + name.lower(), []).append(value)
    return found


def described(results: Sequence[StatementResult]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [
        {
            "policy": "key" if s.policy == "key" else f"identity {s.number}",
            "statement": s.index,
            "sid": s.sid,
            "effect": s.effect,
            "matches": s.matches,
            "reasons": list(s.reasons),
        }
        for s in results
    ]
