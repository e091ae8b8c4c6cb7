"""spec/policy.md and spec/policy.schema.json against the code: the example parses, the schema agrees, numbers exist."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.document import parse_policy
from adytum_policy.rules import CONDITIONS
from adytum_policy.shape import json_schema
from adytum_wire.errors import AdytumError

ROOT = Path(__file__).resolve().parents[3]
SPEC = (ROOT / "spec" / "policy.md").read_text()
SCHEMA: dict[str, Any] = json.loads((ROOT / "spec" / "policy.schema.json").read_text())
EXAMPLE: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", SPEC, re.DOTALL)[0])


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """JSON Schema 2020-12, the keywords that our schema uses; an unknown one fails the test."""
    checks = {
        "$ref": lambda name: conforms(value, SCHEMA["$defs"][name.removeprefix("#/$defs/")]),
        "anyOf": lambda options: any(conforms(value, option) for option in options),
        "enum": lambda options: any(type(value) is type(option) and value == option for option in options),
        "type": lambda name: _is(value, name),
        "required": lambda names: not isinstance(value, dict) or set(names) <= set(value),
        "additionalProperties": lambda _: not isinstance(value, dict) or set(value) <= set(schema["properties"]),
        "properties": lambda parts: (
            not isinstance(value, dict)
            or all(conforms(part, parts[name]) for name, part in value.items() if name in parts)
        ),
        "items": lambda item: not isinstance(value, list) or all(conforms(part, item) for part in value),
        "maxItems": lambda count: not isinstance(value, list) or len(value) <= count,
        "minItems": lambda count: not isinstance(value, list) or len(value) >= count,
        "discriminator": lambda _: True,  # for tools that generate code; `anyOf` says the same
        "pattern": lambda text: not isinstance(value, str) or re.search(text.replace("$", r"\Z"), value) is not None,
        "maxLength": lambda count: not isinstance(value, str) or len(value) <= count,
        "minimum": lambda least: not _is(value, "integer") or value >= least,
        "maximum": lambda most: not _is(value, "integer") or value <= most,
    }
    words = set(schema) - {"title", "description", "$defs", "$schema"}
    assert words <= set(checks), words - set(checks)
    return all(checks[word](schema[word]) for word in words)


def _is(value: Any, name: str) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    return isinstance(value, kinds[name]) and not (name == "integer" and isinstance(value, bool))


def parses(value: Any) -> bool:
    try:
        parse_policy(json.dumps(value).encode())
    except AdytumError:
        return False
    return True


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads(json.dumps(json_schema())) == SCHEMA
    text = json.dumps(SCHEMA)
    assert "\\\\A" not in text
    assert "\\\\Z" not in text


def test_the_example_parses_and_conforms(document: dict[str, Any]) -> None:
    for good in (EXAMPLE, document):
        assert parses(good)
        assert conforms(good, SCHEMA)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for step, part in parts for place in places(part, (*path, step))]


def spoil(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    spoiled = copy.deepcopy(value)
    target = spoiled
    for step in path[:-1]:
        target = target[step]
    if by is spoil:
        del target[path[-1]]
    else:
        target[path[-1]] = by
    return spoiled


STRANGE = [None, True, 0, -1, 2**60, "", "*", "0x", "a\n", [], ["*"], [None], {}, {"x": 1}, spoil]


@settings(max_examples=300)
@given(st.sampled_from(places(EXAMPLE)), st.sampled_from(STRANGE))
def test_what_the_parser_takes_conforms_to_the_schema(path: tuple[Any, ...], by: Any) -> None:
    spoiled = spoil(EXAMPLE, path, by)
    if parses(spoiled):
        assert conforms(spoiled, SCHEMA)


def test_the_schema_refuses_what_is_unknown_missing_or_of_another_type(document: dict[str, Any]) -> None:
    refused = 0
    for path in places(document):
        for by in (None, {"x": 1}, "a\n"):
            spoiled = spoil(document, path, by)
            assert not conforms(spoiled, SCHEMA)
            assert not parses(spoiled)
            refused += 1
        if isinstance(path[-1], str):
            assert not conforms(spoil(document, path, spoil), SCHEMA)
            assert not conforms(spoil(document, (*path[:-1], "comment"), 1), SCHEMA)
    assert refused > 100


def test_each_number_that_the_code_cites_is_in_the_spec_once() -> None:
    numbers = re.findall(r"\*\*(P-\d+)\*\*", SPEC)
    assert sorted(numbers, key=lambda name: int(name[2:])) == [f"P-{n}" for n in range(1, len(numbers) + 1)]
    sources = list((ROOT / "core" / "src" / "adytum_policy").rglob("*.py"))
    assert len(sources) > 10
    cited = {name for source in sources for name in re.findall(r"(?<![A-Z])P-\d+", source.read_text())}
    cited.discard("P-256")  # the curve
    assert cited
    assert cited <= set(numbers)


def test_the_spec_names_every_outcome() -> None:
    listed = re.findall(r"`([a-z0-9_.]+)`", SPEC[SPEC.index("**P-9**") : SPEC.index("## The document")])
    assert ["content" + name if name.startswith(".") else name for name in listed[2:]] == list(CONDITIONS)


@pytest.mark.parametrize("name", ["operations", "effect"])
def test_no_wildcard_where_the_spec_has_none(name: str) -> None:
    assert not parses(spoil(EXAMPLE, ("rules", 0, name), "*"))
