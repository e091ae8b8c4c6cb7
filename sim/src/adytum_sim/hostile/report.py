"""The page `docs/reference/attacks.md`, printed from `declared` and from the attack tests' names and docstrings.

python -m adytum_sim.hostile.report tests/attacks > docs/reference/attacks.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from adytum_sim.hostile.declared import SCENARIOS, Row, Stop, table, test_of
from adytum_sim.sources import parse

_FOLDER = "tests/attacks/hostile/test_hostile_"

_HEAD = """# What a hostile host can try, and what stops it

Generated from the attack tests: `python -m adytum_sim.hostile.report tests/attacks > docs/reference/attacks.md`.
A test compares this file with what that command prints.

The host is the adversary. It carries every message and stores every record, so each field of them is manipulated in
every way that its type has: *swap* (the same field of another request), *relocate* (another field's value), *roll back*
(an earlier one), *truncate*, *flip* (a bit or a character), *forge* (other words, other types, unknown fields, one
more), *reorder*, *drop*. After each attack the enclave has the same phase, boot and policies; the honest request still
has its one signature; and at the end the receipts are one chain from the first on under the attested key, each answer
is the one that its receipt names, and each request that was carried out is one that the policy allows, its content
decoded again.

The fields are found by introspection. A field that is added to the protocol and not declared fails the suite. What
one signature covers (the body of a request, the payload of a policy) is declared as a whole.

Where two codes stand with a slash between, the second is for values that the field's type does not allow.
"""


def report(attacks: Path) -> str:
    """The whole page. `attacks`: the folder of the attack tests. Errors: OSError, SyntaxError."""
    lines = [_HEAD, "## Fields", "", "| what is manipulated | stopped by | code | test |", "|---|---|---|---|"]
    for struct, fields in table().items():
        lines += [_line(struct, names, found) for names, found in _grouped(fields)]
    lines += ["", "## Sequences, frames and the pipe to KMS", ""]
    lines += ["| attack | what is manipulated | stopped by | code | test |", "|---|---|---|---|---|"]
    for scenario in SCENARIOS:
        cells = (scenario.attack, scenario.target, scenario.step, _codes(scenario.codes), f"`{_short(scenario.test)}`")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Tests by name", "", "Every attack test, also those that speak to the enclave directly.", ""]
    for path in sorted(attacks.rglob("test_*.py")):
        lines += ["", f"**{path.relative_to(attacks).as_posix()}**: {_first_line(path)}", ""]
        lines += [f"- {text}" for text in tests_in(path)]
    return "\n".join(lines) + "\n"


def tests_in(path: Path) -> list[str]:
    """Name and, where there is one, the docstring's first line of each test function."""
    found = []
    for node in ast.walk(parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            text = (ast.get_docstring(node) or "").partition("\n")[0]
            name = node.name.removeprefix("test_").replace("_", " ")
            found.append((node.lineno, f"{name}: {text}" if text else name))
    return [text for _, text in sorted(found)]


def declared_tests() -> set[str]:
    """Every `file::function` that the tables name."""
    fields = {test_of(struct, found) for struct, rows in table().items() for found in rows.values()}
    return fields | {_FOLDER + scenario.test for scenario in SCENARIOS}


def _grouped(fields: dict[str, Row]) -> list[tuple[list[str], Row]]:
    groups: list[tuple[list[str], Row]] = []
    for name, found in fields.items():
        for names, other in groups:
            if other == found:
                names.append(name)
                break
        else:
            groups.append(([name], found))
    return groups


def _line(struct: str, names: Iterable[str], found: Row) -> str:
    what = f"{struct}: " + ", ".join(f"`{name}`" for name in names)
    test = f"`{_short(test_of(struct, found))}`"
    if isinstance(found, Stop):
        note = f" ({found.note})" if found.note else ""
        codes = _codes(found.codes)
        if found.malformed and set(found.malformed) != set(found.codes):
            codes += " / " + _codes(found.malformed)
        return f"| {what} | {found.step}{note} | {codes} | {test} |"
    return f"| {what} | proves nothing; the truth is in {found.instead} | | {test} |"


def _short(test: str) -> str:
    return test.removeprefix(_FOLDER)


def _codes(codes: tuple[str, ...]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def _first_line(path: Path) -> str:
    return (ast.get_docstring(parse(path.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(report(Path(sys.argv[1])))
