"""The how-to names every code, every defect and only options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import adytum_verify
from adytum_verify import AttestationCode, Defect, attestation
from adytum_verify.cli import main

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "verify-us.md"
NOT_FROM_A_DOCUMENT = {AttestationCode.ANCHOR_INVALID}


@pytest.fixture(scope="module")
def text() -> str:
    return HOW_TO.read_text(encoding="utf-8")


def test_every_code_is_explained(text: str) -> None:
    named = re.findall(r"`([A-Z_]+)(…)?`", text)
    whole = {name for name, more in named if not more}
    prefixes = tuple(name for name, more in named if more)
    unexplained = {code for code in AttestationCode if code not in whole and not code.startswith(prefixes)}
    assert unexplained == NOT_FROM_A_DOCUMENT
    assert whole - {"VERIFIED"} <= set(AttestationCode)


def test_every_code_has_a_sentence() -> None:
    assert all(code.text.endswith(".") for code in AttestationCode)


def test_every_defect_is_explained(text: str) -> None:
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == {defect.value for defect in Defect}


def test_steps_are_those_of_the_code(text: str) -> None:
    in_text = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    in_code = {int(number) for number in re.findall(r"(?:^ {4}| {2,})(\d+) ", str(attestation.__doc__), re.MULTILINE)}
    assert in_text == sorted(in_code) == list(range(12))


@pytest.mark.parametrize("command", ["attestation", "receipt", "audit"])
def test_options_exist(text: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = re.findall(rf"^adytum-verify {command} [^`]*", text, re.MULTILINE)
    options = set(re.findall(r"--[a-z-]+", block))
    assert options
    main([command, "--help"])
    assert options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_public_names_exist() -> None:
    assert adytum_verify.__all__ == sorted(adytum_verify.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(adytum_verify, name) for name in adytum_verify.__all__)
