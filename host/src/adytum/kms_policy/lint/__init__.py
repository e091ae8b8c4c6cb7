"""`lint`: find in a key policy or an identity policy each way in which attestation policies are known to go wrong.

Sources: KMS Developer Guide, "Condition keys for AWS Nitro Enclaves"; IAM User Guide on condition operators; issues
100, 127 and 157 of aws-nitro-enclaves-sdk-c. Left out: grants, SCPs, and whatever else of the account no file shows.

Example: lint('{"Version": "2012-10-17", "Statement": [...]}') -> (Finding(code="ROOT_DELEGATION", ...), ...)
"""

from __future__ import annotations

import dataclasses

from adytum.kms_policy.document import load_json
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.lint import access, attestation, denials
from adytum.kms_policy.lint.catalogue import RULES, Finding, Rule, Severity
from adytum.kms_policy.lint.reader import Kind, Statement, kind_of, read

__all__ = ["RULES", "Finding", "Kind", "Rule", "Severity", "has_errors", "lint"]


def lint(text: str, *, kind: Kind | None = None) -> tuple[Finding, ...]:
    """Everything found, statement by statement, then about the policy as a whole; empty for a clean policy.

    `kind`: "key" or "identity"; None looks whether there are principals. Raises nothing for any text: what cannot be
    read is the finding POLICY_MALFORMED.
    """
    try:
        policy = load_json(text)
        version, statements = read(policy)
    except KmsPolicyError as error:
        return (_finding("POLICY_MALFORMED", None, error.sentence),)
    found: list[Finding] = []
    if version != "2012-10-17":
        found.append(_finding("VERSION_OLD", None, "The Version is absent or that of 2008."))
    about = [s for s in statements if s.operations]
    if not about:
        return (*found, _finding("NOT_ABOUT_KMS", None, "No statement is about a KMS operation on keys."))
    found.extend(_statements(statements, kind or kind_of(policy)))
    return tuple(dict.fromkeys(found))


def has_errors(findings: tuple[Finding, ...]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _statements(statements: tuple[Statement, ...], kind: Kind) -> list[Finding]:
    found: list[Finding] = []
    shut = denials.closed(statements) if kind == "key" else frozenset()
    for statement in statements:
        rules = [*access.form(statement)]
        if statement.operations:
            rules += [*access.who(statement)] if kind == "key" else []
            rules += [*access.what(statement, kind, shut)]
            rules += [*attestation.values(statement), *attestation.demands(statement, kind, shut)]
            rules += [*denials.shapes(statement)]
            rules += [*denials.never_used(statement, statements)] if kind == "key" else []
        found += [_finding(code, statement, sentence) for code, sentence in rules]
    if kind == "identity":
        return [_milder(f) for f in found]
    found += [_finding(code, s, sentence) for s, (code, sentence) in denials.policy_change(statements)]
    root = any(f.code == "ROOT_DELEGATION" for f in found)
    for code, sentence in denials.missing(statements, shut):
        finding = _finding(code, None, sentence)
        # With the account allowed, the Deny is not a second lock but the only one.
        found.append(dataclasses.replace(finding, severity="error") if root else finding)
    return found


def _milder(finding: Finding) -> Finding:
    """An identity policy gives nothing that the key policy does not give: there attestation must be demanded."""
    return dataclasses.replace(finding, severity="warning") if finding.code == "ATTESTATION_MISSING" else finding


def _finding(code: str, statement: Statement | None, sentence: str) -> Finding:
    rule = RULES[code]
    return Finding(
        code=code,
        severity=rule.severity,
        statement=None if statement is None else statement.index,
        sid="" if statement is None else _printable(statement.sid),
        sentence=_printable(sentence),
        mend=rule.mend,
    )


def _printable(text: str) -> str:
    """Names come from the policy, and a terminal obeys control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:400])
