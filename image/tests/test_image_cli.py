"""The commands that need neither network nor rig; the others are run by the tests marked `image`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from adytum_image.cli import image
from adytum_image.eif import SectionType, measure, read, write

PARTS = [
    (SectionType.KERNEL, b"k"),
    (SectionType.CMDLINE, b"c"),
    (SectionType.METADATA, b"{}"),
    (SectionType.RAMDISK, b"r0"),
    (SectionType.RAMDISK, b"r1"),
]


@pytest.fixture
def eif(tmp_path: Path) -> Path:
    path = tmp_path / "x.eif"
    path.write_bytes(write(PARTS))
    return path


def test_measure_prints_the_release_form(eif: Path) -> None:
    result = CliRunner().invoke(image, ["measure", "--json", str(eif)])
    assert result.exit_code == 0
    assert json.loads(result.output) == measure(read(eif.read_bytes())).as_release()
    plain = CliRunner().invoke(image, ["measure", str(eif)])
    assert [line.split()[0] for line in plain.output.splitlines()] == ["PCR0", "PCR1", "PCR2"]


@pytest.mark.parametrize("command", [["measure"], ["build", "--source"], ["rig", "--source"]])
def test_a_failure_is_one_line_with_a_code_and_no_stack_trace(tmp_path: Path, command: list[str]) -> None:
    argument = tmp_path / "file"
    argument.write_bytes(b"no image")
    result = CliRunner().invoke(image, [*command, str(argument if command == ["measure"] else tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(("Error: EIF_TOO_SHORT", "Error: SOURCE_MISSING"))
    assert result.output.count("\n") == 1


def test_wrong_usage_ends_with_2(eif: Path, tmp_path: Path) -> None:
    for arguments in (["measure", str(tmp_path / "none")], ["build", "--blobs", str(tmp_path), "--kernel", str(eif)]):
        assert CliRunner().invoke(image, arguments).exit_code == 2


def test_every_command_and_option_has_a_help_text() -> None:
    assert set(image.commands) == {"boot", "build", "describe", "diff", "lock", "measure", "rig", "sbom"}
    for command in image.commands.values():
        assert command.help
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, (command.name, option.name)
