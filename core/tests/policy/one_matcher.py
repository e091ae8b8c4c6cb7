"""A policy of one rule that asks for one thing: that the content matches. For tests of the matchers."""

from __future__ import annotations

import json
from typing import Any

from adytum_policy.decide import decide
from adytum_policy.document import Policy, parse_policy
from adytum_policy.facts import ContentFacts
from adytum_policy.rules import Subject

NOBODY: dict[str, Any] = {  # a document without principals; rules are to be added
    "v": 1,
    "tenant": "acme",
    "version": 1,
    "valid_until": 1,
    "records": {"generation": 1, "min_generation": 1},
    "recovery": "none",
    "passkeys": "none",
    "recipients": [],
    "limits": [],
    "principals": [],
}
OPEN: dict[str, Any] = {  # a rule that restricts nothing but its operations and content
    "principals": "*",
    "labels": "*",
    "algorithms": "*",
    "paths": "*",
    "times": "*",
    "approvals": "none",
    "limits": "none",
}


def parse(matcher: dict[str, Any], effect: str = "allow") -> Policy:
    """Errors: what `parse_policy` raises."""
    rule = OPEN | {"id": "r", "effect": effect, "operations": ["sign"], "content": [matcher]}
    return parse_policy(json.dumps(NOBODY | {"rules": [rule]}).encode())


def said(facts: ContentFacts, matcher: dict[str, Any], effect: str = "allow") -> str:
    """What came of the rule for a request to sign what `facts` says, with a key of any algorithm."""
    subject = Subject(operation="sign", principal_id="a", roles=(), algorithm="secp256k1", labels=(), facts=facts)
    return decide(subject, parse(matcher, effect), 1).rules[0].outcome
