"""The table of attacks is whole: every field is declared, every declared test exists, the page is the generated one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adytum_sim.hostile.declared import FIELDS, SCENARIOS, Stop, table, unattacked
from adytum_sim.hostile.report import declared_tests, report
from adytum_sim.hostile.surface import structs, surface
from adytum_verify import AttestationCode
from adytum_wire.errors import Code

ROOT = Path(__file__).resolve().parents[3]
ATTACKS = ROOT / "tests" / "attacks"
PAGE = ROOT / "docs" / "reference" / "attacks.md"


def test_there_is_no_field_that_nobody_attacks() -> None:
    """Declare a new field in adytum_sim.hostile.declared.FIELDS: which step stops it, and with which code."""
    assert unattacked() == []


def test_a_new_field_is_missed() -> None:
    """The check can fail: a field or a struct more, and one less."""
    wire = surface()
    assert unattacked([*wire, ("Execute", "operation")]) == ["Execute.operation"]
    assert unattacked([*wire, ("Cancel", "type")]) == ["Cancel.type"]
    assert unattacked([pair for pair in wire if pair != ("Stamp", "scheme")]) == ["Stamp.scheme"]


def test_the_surface_is_what_a_host_carries() -> None:
    assert {"Execute", "Header", "Receipt", "Manifest", "PolicyDocument", "Binding", "SignResult"} <= structs().keys()
    assert {"SessionStamp", "Statement", "SnapshotHeader", "RecoveryEnvelope", "UsageReset"} <= structs().keys()
    assert len(surface()) >= 690
    assert not FIELDS.keys() & {"Sign", "PolicyDocument"}  # declared by the signature that covers them


def test_every_code_that_is_declared_exists() -> None:
    known = {code.value for code in Code} | {code.value for code in AttestationCode}
    stops = [found for fields in table().values() for found in fields.values() if isinstance(found, Stop)]
    declared = {code for stop in stops for code in (*stop.codes, *stop.malformed)}
    declared |= {code for scenario in SCENARIOS for code in scenario.codes}
    assert declared <= known
    assert len(declared) >= 25


def test_every_test_that_is_declared_exists() -> None:
    for name in declared_tests():
        file, _, function = name.partition("::")
        defined = set(re.findall(r"^(?:async )?def (\w+)", (ROOT / file).read_text(), re.M))
        assert function in defined, name


def test_the_page_is_the_generated_one() -> None:
    """Run: python -m adytum_sim.hostile.report tests/attacks > docs/reference/attacks.md"""
    assert PAGE.read_text() == report(ATTACKS)


@pytest.mark.parametrize(
    "word", ["swap", "relocate", "roll back", "replay", "forge", "reorder", "downgrade", "truncate"]
)
def test_each_kind_of_attack_is_on_the_page(word: str) -> None:
    assert word in PAGE.read_text()
