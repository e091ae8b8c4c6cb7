"""What is valid and probably not meant: rules that never bite, rules wider than their author thinks, loose ends.

Warnings, not errors: each has a place, a short name and a sentence. An empty result is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from adytum_policy import shape
from adytum_policy.shape import PolicyDocument, RuleEntry

_DAY_MS = 86_400_000
_SOON_MS = 30 * _DAY_MS
_MAKING = {"generate_key", "generate_seed", "import_key", "import_file", "seal", "seal_anchor"}
_WITH_PATH = {"sign", "derive_key"}
_SIGNING = {"sign", "sign-raw"}


class Finding(NamedTuple):
    """`kind`: "never" (cannot match or allow), "wide" (allows more than most mean to), "loose" (is of no effect),
    "expiry". `path`: where in the document."""

    kind: Literal["never", "wide", "loose", "expiry"]
    path: str
    text: str


def lint(document: PolicyDocument, now_ms: int) -> list[Finding]:
    """Findings about a document that has been parsed, in its order."""
    found = list(_expiry(document, now_ms))
    for at, rule in enumerate(document.rules):
        path = f"$.rules[{at}]"
        found += _never(document, rule, path)
        if rule.effect == "allow":
            found += _wide(document, rule, path)
    return found + list(_loose(document))


def _expiry(document: PolicyDocument, now_ms: int) -> Iterator[Finding]:
    left = document.valid_until - now_ms
    if left < 0:
        yield Finding("expiry", "$.valid_until", "The policy has expired: it refuses everything.")
    elif left < _SOON_MS:
        yield Finding("expiry", "$.valid_until", f"The policy expires in {left // _DAY_MS} days; then it refuses all.")


def _never(document: PolicyDocument, rule: RuleEntry, path: str) -> Iterator[Finding]:
    for name in ("operations", "principals", "labels", "algorithms", "paths", "times", "content"):
        if getattr(rule, name) == []:
            yield Finding("never", f"{path}.{name}", "An empty list: the rule never matches.")
    if rule.times not in ("*", []) and not any(entry.days for entry in rule.times if not isinstance(entry, str)):
        yield Finding("never", f"{path}.times", "No entry has days: the rule never matches.")
    if rule.paths != "*" and "" not in rule.paths and not _WITH_PATH & set(rule.operations):
        yield Finding("never", f"{path}.paths", "None of the operations has a path; only sign and derive_key do.")
    if rule.content != "*":
        for at, matcher in enumerate(rule.content):
            yield from _impossible(matcher, f"{path}.content[{at}]")
    if rule.effect == "deny":
        return
    askers = _askers(document, rule)
    if not askers and rule.principals:
        yield Finding("never", f"{path}.principals", "Nobody of them has a stamp key, so nobody can ask.")
    if rule.approvals != "none" and askers:
        role, count = rule.approvals.role, rule.approvals.count
        able = {p.id for p in document.principals if role in p.roles and (p.keys or p.passkeys)}
        stuck = sorted(one for one in askers if len(able - {one}) < count)
        if stuck:
            text = f"Who asks does not count: for {', '.join(stuck)} there are fewer than {count} others with {role!r}."
            yield Finding("never", f"{path}.approvals", text)
    for limit in _limits(document, rule):
        if (limit.measure == "amount" or limit.asset != "*") and "sign" not in rule.operations:
            yield Finding("never", f"{path}.limits", f"{limit.id!r} measures content, and these operations have none.")
        elif limit.per == "key" and set(rule.operations) & _MAKING:
            text = f"{limit.id!r} counts per key, so what makes a new record can never be allowed."
            yield Finding("never", f"{path}.limits", text)


def _impossible(entry: object, path: str) -> Iterator[Finding]:
    """Empty lists in a matcher, and a least amount over the most."""
    for name in getattr(entry, "__struct_fields__", ()):
        value = getattr(entry, name)
        if value == []:
            yield Finding("never", f"{path}.{name}", "An empty list: nothing matches.")
        elif hasattr(value, "__struct_fields__"):
            yield from _impossible(value, f"{path}.{name}")
        elif name.startswith("min_"):
            most = getattr(entry, "max_" + name.removeprefix("min_"))
            if "*" not in (value, most) and int(value) > int(most):
                yield Finding("never", f"{path}.{name}", "The least is more than the most: nothing matches.")


def _wide(document: PolicyDocument, rule: RuleEntry, path: str) -> Iterator[Finding]:
    operations = set(rule.operations)
    if "sign-raw" in operations:
        text = "sign-raw signs any 32 bytes: whoever has it can have any transaction signed, past every other rule."
        yield Finding("wide", f"{path}.operations", text)
    if rule.labels == "*" and operations & (_SIGNING | _MAKING | {"unseal", "export", "delete_key"}):
        yield Finding("wide", f"{path}.labels", 'labels "*": every key of the tenant, those made later included.')
    if rule.principals == "*" and operations & (_SIGNING | {"unseal", "export"}):
        yield Finding("wide", f"{path}.principals", 'principals "*": everybody who has a key in this document.')
    if "sign" not in operations:
        return
    if rule.content == "*":
        text = 'content "*": every kind of content, those included that a later release decodes.'
        yield Finding("wide", f"{path}.content", text)
    limits = _limits(document, rule)
    if rule.approvals == "none" and not limits and (rule.content == "*" or any(_no_maximum(m) for m in rule.content)):
        yield Finding("wide", path, "No maximum, no limit and no approvals: one request can take everything.")
    for at, matcher in enumerate(rule.content if rule.content != "*" else ()):
        place = f"{path}.content[{at}]"
        if getattr(matcher, "max_fee", "") == "*":
            yield Finding("wide", f"{place}.max_fee", 'max_fee "*": fees can burn the whole balance.')
        if isinstance(matcher, shape.EthereumEntry):
            yield from _tokens(matcher, limits, place)


def _tokens(matcher: shape.EthereumEntry, limits: list[shape.LimitEntry], place: str) -> Iterator[Finding]:
    """What limits on an Ethereum rule do not see."""
    amounts = [limit.asset for limit in limits if limit.measure == "amount"]
    tokens = [asset for asset in amounts if "/erc20:" in asset]
    calls = matcher.selectors == "*" or any(text != "none" for text in matcher.selectors)
    if amounts and not tokens and calls:
        yield Finding("wide", f"{place}.selectors", "Calls move tokens, which the rule's limits do not count.")
    if tokens and matcher.to == "*":
        text = 'to "*" with a limit on a token: calls to other contracts do not count against it.'
        yield Finding("wide", f"{place}.to", text)
    if tokens and not any(asset.endswith("/native") for asset in amounts) and matcher.max_value != "0":
        yield Finding("wide", f"{place}.max_value", 'No limit counts ether: write max_value "0" if none is to move.')


def _no_maximum(matcher: shape.ContentEntry) -> bool:
    if isinstance(matcher, shape.EthereumEntry):
        return matcher.max_value == "*"
    if isinstance(matcher, shape.SolanaEntry):
        return "*" in (matcher.max_lamports, matcher.max_tokens)
    if isinstance(matcher, shape.BitcoinEntry):
        return matcher.max_amount == "*"
    if isinstance(matcher, shape.TypedDataEntry):
        return matcher.permit == "*" or matcher.permit.max_value == "*"
    return False


def _loose(document: PolicyDocument) -> Iterator[Finding]:
    rules = document.rules
    named = {who for rule in rules if rule.principals != "*" for who in rule.principals}
    everybody = any(rule.principals == "*" and rule.effect == "allow" for rule in rules)
    asked = {rule.approvals.role for rule in rules if rule.approvals != "none"}
    for at, person in enumerate(document.principals):
        names = {f"principal:{person.id}", *(f"role:{role}" for role in person.roles)}
        if not everybody and not names & named and not asked & set(person.roles):
            yield Finding(
                "loose", f"$.principals[{at}]", f"No rule names {person.id!r}, and nobody needs its approval."
            )
        elif not person.keys and not person.passkeys:
            yield Finding("loose", f"$.principals[{at}]", f"{person.id!r} has no key: it can neither ask nor approve.")
    used = {name for rule in rules if rule.limits != "none" for name in rule.limits}
    for at, limit in enumerate(document.limits):
        if limit.id not in used:
            yield Finding("loose", f"$.limits[{at}]", f"No rule counts against {limit.id!r}.")
    if document.recipients and not any("export" in rule.operations for rule in rules if rule.effect == "allow"):
        yield Finding("loose", "$.recipients", "No rule allows export.")
    if document.passkeys != "none":
        if not document.passkeys.origins:
            yield Finding("never", "$.passkeys.origins", "Without origins no passkey counts.")
        for at, origin in enumerate(document.passkeys.origins):
            host = origin.split("://")[-1].split(":")[0]
            rp_id = document.passkeys.rp_id
            if origin.startswith("http") and host != rp_id and not host.endswith("." + rp_id):
                text = f"Browsers let only {rp_id!r} and what is below it use its passkeys."
                yield Finding("never", f"$.passkeys.origins[{at}]", text)


def _askers(document: PolicyDocument, rule: RuleEntry) -> set[str]:
    return {
        person.id
        for person in document.principals
        if person.keys
        and (
            rule.principals == "*"
            or f"principal:{person.id}" in rule.principals
            or any(f"role:{role}" in rule.principals for role in person.roles)
        )
    }


def _limits(document: PolicyDocument, rule: RuleEntry) -> list[shape.LimitEntry]:
    return [] if rule.limits == "none" else [limit for limit in document.limits if limit.id in rule.limits]
