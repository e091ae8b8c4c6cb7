"""Key policies under which only attested enclaves use a KMS key: write them, find their traps, explain their decisions.

    render      the key policy and IAM policies of a deployment (`deployment.py` reads it from a file)
    lint        every known way in which such a policy goes wrong, with the mend
    decide      what KMS answers to one request, and which statement said so

Pure: no network and no AWS credentials; what AWS has put in force is fetched with `aws kms get-key-policy`.
"""

from adytum.kms_policy.deployment import Deployment, Image, Roles, parent_role_pcr, parse_deployment
from adytum.kms_policy.document import parse
from adytum.kms_policy.errors import KmsPolicyError
from adytum.kms_policy.evaluate import Decision, Question, StatementResult, decide
from adytum.kms_policy.lint import Finding, has_errors, lint
from adytum.kms_policy.people import Principal
from adytum.kms_policy.render import key_policy, render, to_json

__all__ = [
    "Decision",
    "Deployment",
    "Finding",
    "Image",
    "KmsPolicyError",
    "Principal",
    "Question",
    "Roles",
    "StatementResult",
    "decide",
    "has_errors",
    "key_policy",
    "lint",
    "parent_role_pcr",
    "parse",
    "parse_deployment",
    "render",
    "to_json",
]
