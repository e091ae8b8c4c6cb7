"""A policy in a few lines and a rule in one, for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from adytum.cli.output import table
from adytum.client.policy import read_policy
from adytum.policies.reasons import parse_draft
from adytum_policy.document import Policy
from adytum_policy.shape import LimitEntry, PolicyDocument, RuleEntry
from adytum_wire.types import sha256


def described(parsed: Policy, payload: bytes) -> dict[str, Any]:
    return {
        "tenant": parsed.tenant,
        "version": parsed.version,
        "valid_until": day(parsed.valid_until),
        "rules": len(parsed.rules),
        "digest": sha256(payload).hex(),
    }


def day(ms: int) -> str:
    """UTC; far dates that no calendar has stay numbers."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def is_envelope(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "payloadType" in found


def read_either(path: Path) -> tuple[bytes, Policy]:
    """(payload, policy) of a draft or of a signed envelope. Errors: POLICY_INVALID, for a draft with the reason."""
    data = path.read_bytes()
    if is_envelope(data):
        payload, parsed, _ = read_policy(data)
        return payload, parsed
    return data, parse_draft(data)


def rules_table(document: PolicyDocument) -> Table:
    rows = [
        (
            rule.id,
            rule.effect,
            _list(rule.operations),
            _list(rule.principals),
            _list(rule.labels),
            _conditions(rule),
            "" if rule.approvals == "none" else f"{rule.approvals.count} {rule.approvals.role}",
            "" if rule.limits == "none" else _list(rule.limits),
        )
        for rule in document.rules
    ]
    return table("RULE", "EFFECT", "OPERATIONS", "WHO", "LABELS", "ONLY", "APPROVALS", "LIMITS", rows=rows)


def people_table(document: PolicyDocument) -> Table:
    rows = [(p.id, _list(p.roles), len(p.keys), len(p.passkeys)) for p in document.principals]
    return table("PRINCIPAL", "ROLES", "KEYS", "PASSKEYS", rows=rows)


def limits_table(document: PolicyDocument) -> Table:
    rows = [
        (limit.id, limit.max, _measured(limit), f"{limit.window_seconds} s", limit.per) for limit in document.limits
    ]
    return table("LIMIT", "AT MOST", "OF", "IN ANY", "PER", rows=rows)


def _measured(limit: LimitEntry) -> str:
    if limit.measure == "amount":
        return limit.asset
    return "requests" if limit.asset == "*" else f"requests that move {limit.asset}"


def _conditions(rule: RuleEntry) -> str:
    parts = []
    if rule.algorithms != "*":
        parts.append(_list([str(one.value) for one in rule.algorithms]))
    if rule.paths != "*":
        parts.append("paths " + _list([one or '""' for one in rule.paths]))
    if rule.times != "*":
        parts.append("; ".join(f"{'/'.join(t.days)} {t.start}-{t.end} UTC" for t in rule.times) or "never")
    if rule.content != "*":
        parts.append(_list([str(one.__struct_config__.tag) for one in rule.content]))
    return "; ".join(parts)


def _list(listed: Any) -> str:
    return "any" if listed == "*" else ", ".join(map(str, listed)) or "(none)"
