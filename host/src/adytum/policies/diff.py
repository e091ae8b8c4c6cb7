"""What a new document changes, and whether it may allow what the old one did not.

Each change is "more" (it may allow more), "less" (it can only allow less), "same", or "unclear". What this cannot
decide it never calls less. Rejections are not weighed: asking for approvals is called less, though a role that is asked
no more can reject no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from adytum_policy.shape import PolicyDocument

Effect = Literal["more", "less", "same", "unclear"]
Json = Mapping[str, Any]

_SETS = ("operations", "principals", "labels", "algorithms")
_OPPOSITE: dict[Effect, Effect] = {"more": "less", "less": "more", "same": "same", "unclear": "unclear"}


class Change(NamedTuple):
    """`where`: `rules.<id>.<field>` and the like."""

    where: str
    text: str
    effect: Effect


def diff(old: PolicyDocument, new: PolicyDocument) -> list[Change]:
    """Changes from `old` to `new`, both parsed. Empty when they mean the same under the same version."""
    before: Json = msgspec.to_builtins(old)
    after: Json = msgspec.to_builtins(new)
    return [
        *_top(before, after),
        *_principals(before, after),
        *_limits(before, after),
        *_rules(before, after),
    ]


def may_allow_more(changes: Sequence[Change]) -> bool:
    return any(change.effect in ("more", "unclear") for change in changes)


def _top(old: Json, new: Json) -> Iterator[Change]:
    if old["tenant"] != new["tenant"]:
        yield Change("tenant", _from_to(old["tenant"], new["tenant"]), "unclear")
    if old["version"] != new["version"]:
        yield Change("version", _from_to(old["version"], new["version"]) + "; approvals given before are void", "same")
    if old["valid_until"] != new["valid_until"]:
        later = new["valid_until"] > old["valid_until"]
        yield Change("valid_until", _from_to(old["valid_until"], new["valid_until"]), "more" if later else "less")
    for name in ("generation", "min_generation"):
        if old["records"][name] != new["records"][name]:
            rises = new["records"][name] > old["records"][name]
            effect: Effect = "same" if name == "generation" else "less" if rises else "more"
            yield Change(f"records.{name}", _from_to(old["records"][name], new["records"][name]), effect)
    for name in ("recovery", "passkeys"):
        if old[name] != new[name]:
            effect = "unclear"
            if name == "passkeys" and new[name] == "none":
                effect = "less"
            elif name == "passkeys" and old[name] != "none" and old[name]["rp_id"] == new[name]["rp_id"]:
                effect = _compare(old[name]["origins"], new[name]["origins"])
            yield Change(name, _from_to(old[name], new[name]), effect)
    for one in _entries("recipients", old, new):
        name, was, now = one
        effect = "more" if was is None else "less" if now is None else "unclear"
        yield Change(f"recipients.{name}", _what(was, now), effect)


def _principals(old: Json, new: Json) -> Iterator[Change]:
    denied = {
        who
        for rule in (*old["rules"], *new["rules"])
        if rule["effect"] == "deny" and rule["principals"] != "*"
        for who in rule["principals"]
    }
    for name, was, now in _entries("principals", old, new):
        where = f"principals.{name}"
        if was is None or now is None:
            yield Change(where, _what(was, now), "more" if was is None else "less")
            continue
        for field in ("keys", "passkeys"):
            if was[field] != now[field]:
                yield Change(f"{where}.{field}", _from_to(was[field], now[field]), _compare(was[field], now[field]))
        if set(was["roles"]) != set(now["roles"]):
            moved = set(was["roles"]) ^ set(now["roles"])
            effect = (
                "unclear" if any(f"role:{role}" in denied for role in moved) else _compare(was["roles"], now["roles"])
            )
            yield Change(f"{where}.roles", _from_to(was["roles"], now["roles"]), effect)


def _limits(old: Json, new: Json) -> Iterator[Change]:
    for name, was, now in _entries("limits", old, new):
        where = f"limits.{name}"
        if was is None or now is None:
            yield Change(where, _what(was, now), "same")  # what lists it is a change of its own
            continue
        if was["max"] != now["max"]:
            effect: Effect = "more" if int(now["max"]) > int(was["max"]) else "less"
            yield Change(f"{where}.max", _from_to(was["max"], now["max"]), effect)
        if was["window_seconds"] != now["window_seconds"]:
            effect = "more" if now["window_seconds"] < was["window_seconds"] else "less"
            yield Change(f"{where}.window_seconds", _from_to(was["window_seconds"], now["window_seconds"]), effect)
        for field in ("measure", "asset", "per"):
            if was[field] != now[field]:
                text = _from_to(was[field], now[field]) + "; what was used before stays under the id"
                yield Change(f"{where}.{field}", text, "unclear")


def _rules(old: Json, new: Json) -> Iterator[Change]:
    for name, was, now in _entries("rules", old, new):
        where = f"rules.{name}"
        if was is None or now is None:
            rule = was or now or {}
            effect: Effect = "more" if (rule["effect"] == "allow") == (was is None) else "less"
            yield Change(where, f"{_what(was, now)} ({rule['effect']})", effect)
            continue
        if was["effect"] != now["effect"]:
            yield Change(f"{where}.effect", _from_to(was["effect"], now["effect"]), "unclear")
        allow = was["effect"] == now["effect"] == "allow"
        for field, effect in _conditions(was, now):
            if was["effect"] != now["effect"]:
                effect = "unclear"
            elif not allow:
                effect = _OPPOSITE[effect]
            text = _from_to(was[field], now[field])
            if field == "content":
                text = "; ".join(_content_text(was[field], now[field])) or "addresses in another case"
            yield Change(f"{where}.{field}", text, effect)
    order = [rule["id"] for rule in old["rules"]]
    kept = [rule["id"] for rule in new["rules"] if rule["id"] in order]
    limited = any(rule["limits"] != "none" for rule in (*old["rules"], *new["rules"]))
    if limited and kept != [name for name in order if name in kept]:
        yield Change("rules", "their order, which says whose limits are charged", "unclear")


def _conditions(was: Json, now: Json) -> Iterator[tuple[str, Effect]]:
    """Of a rule in both: each field that differs, and whether more or less **matches** it."""
    for field in _SETS:
        if _key(was[field]) != _key(now[field]):
            yield field, _compare(was[field], now[field])
    for field in ("paths", "times"):
        if _key(was[field]) != _key(now[field]):
            yield field, _compare(was[field], now[field])
    if was["content"] != now["content"]:
        yield "content", _content(was["content"], now["content"])
    if was["approvals"] != now["approvals"]:
        yield "approvals", _approvals(was["approvals"], now["approvals"])
    if _key(was["limits"]) != _key(now["limits"]):
        one, two = ([] if rule["limits"] == "none" else rule["limits"] for rule in (was, now))
        yield "limits", _OPPOSITE[_compare(one, two)]


def _approvals(was: Any, now: Any) -> Effect:
    if was == "none" or now == "none":
        return "less" if was == "none" else "more"
    if was["role"] != now["role"]:
        return "unclear"
    return "less" if now["count"] > was["count"] else "more"


def _content(was: Any, now: Any) -> Effect:
    found = _compare(was, now)
    if found != "unclear" or len(was) != len(now):
        return found
    each: set[Effect] = {_matcher(one, two) for one, two in zip(was, now, strict=True)} - {"same"}
    return "same" if not each else each.pop() if len(each) == 1 else "unclear"


def _content_text(was: Any, now: Any, where: str = "") -> Iterator[str]:
    """What differs between two contents, condition by condition where both have the same matchers."""
    if _key(was) == _key(now):
        return
    if isinstance(was, Mapping) and isinstance(now, Mapping) and was.keys() == now.keys():
        for name in was:
            yield from _content_text(was[name], now[name], f"{where}.{name}" if where else name)
    elif _is_matchers(was) and _is_matchers(now) and len(was) == len(now):
        for at, (one, two) in enumerate(zip(was, now, strict=True)):
            yield from _content_text(one, two, f"[{at}]")
    elif _is_matchers(was) or _is_matchers(now):
        yield f"{_matchers(was)} -> {_matchers(now)}"
    else:
        yield f"{where} {_from_to(was, now)}"


def _is_matchers(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, Mapping) for one in value)


def _matchers(value: Any) -> str:
    return value if isinstance(value, str) else "[" + ", ".join(one["type"] for one in value) + "]"


def _matcher(was: Json, now: Json) -> Effect:
    if was.keys() != now.keys() or was.get("type") != now.get("type"):
        return "unclear"
    each: set[Effect] = {_part(name, was[name], now[name]) for name in was} - {"same"}
    return "same" if not each else each.pop() if len(each) == 1 else "unclear"


def _part(name: str, was: Any, now: Any) -> Effect:
    if _key(was) == _key(now):
        return "same"
    if was == "*" or now == "*":
        return "less" if was == "*" else "more"
    if isinstance(was, Mapping):
        return _matcher(was, now)
    if isinstance(was, list):
        return _compare(was, now)
    if name.startswith(("min_", "max_")):
        return "more" if (int(now) > int(was)) == name.startswith("max_") else "less"
    return "unclear"


def _compare(was: Any, now: Any) -> Effect:
    """Two lists as sets; "*" holds everything."""
    if was == "*" or now == "*":
        return "same" if was == now else "less" if was == "*" else "more"
    one, two = _key(was), _key(now)
    if one == two:
        return "same"
    return "more" if one < two else "less" if two < one else "unclear"


def _key(value: Any) -> Any:
    """Lists without order and repetition; addresses without the case of their checksum."""
    if isinstance(value, list):
        return frozenset(
            json.dumps(one, sort_keys=True) if not isinstance(one, str) else _address(one) for one in value
        )
    return value


def _address(text: str) -> str:
    return text.lower() if text.startswith("0x") else text


def _entries(name: str, old: Json, new: Json) -> Iterator[tuple[str, Json | None, Json | None]]:
    """(id, old, new) of a list whose entries have ids: those of the old document in its order, then new ones."""
    before, after = ({entry["id"]: entry for entry in document[name]} for document in (old, new))
    for key in (*before, *(key for key in after if key not in before)):
        yield key, before.get(key), after.get(key)


def _what(was: object, _now: object) -> str:
    return "added" if was is None else "removed"


def _from_to(was: Any, now: Any) -> str:
    if isinstance(was, list) and isinstance(now, list) and all(isinstance(one, str) for one in (*was, *now)):
        gone, come = [one for one in was if one not in now], [one for one in now if one not in was]
        return " ".join([*(f"-{one}" for one in gone), *(f"+{one}" for one in come)]) or "another order"
    return f"{_short(was)} -> {_short(now)}"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
