"""The house rules that a machine can check. Each has a test that breaks it on purpose, so that it can fail."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adytum_sim import sources as sources_of_trees
from adytum_sim.sources import parse

ROOT = Path(__file__).resolve().parents[2]
DISTS = ("core", "enclave", "verify", "host", "image", "sim")
TRUSTED = ("core/src", "enclave/src")
MAX_LINES = 600


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, folders
    return found


def names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def forbidden_names(source: str) -> set[str]:
    """What the measured program must not touch: its behaviour is decided by measured bytes alone."""
    bad = re.compile(
        r"\A(os\.environ|os\.getenv|sys\.argv|argparse|getopt|click|pickle|logging|random|unittest\.mock)\b"
    )
    return {name for name in names_used(parse(source)) if bad.match(name)}


def has_assert(source: str) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(parse(source)))


def test_a_parser_that_fails_by_itself_is_asked_again_and_a_wrong_source_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython 3.11 does: without the repeat, the rules below and the page of attacks fail at random."""
    asked: list[str] = []
    failures = [SystemError("AST constructor recursion depth mismatch (before=140, after=48)")] * 2

    def flaky(source: str) -> ast.Module:
        asked.append(source)
        if failures:
            raise failures.pop()
        return ast.parse(source)

    monkeypatch.setattr(sources_of_trees, "ast", SimpleNamespace(parse=flaky))  # pytest uses the real one
    assert has_assert("assert x")
    assert len(asked) == 3
    with pytest.raises(SyntaxError):
        has_assert("assert (")
    assert len(asked) == 4
    failures.extend([SystemError()] * 99)
    with pytest.raises(SystemError):
        has_assert("assert x")


def test_the_trusted_program_reads_no_environment_no_flags_and_no_log() -> None:
    found = {str(path): names for path in sources(*TRUSTED) if (names := forbidden_names(path.read_text()))}
    assert found == {}
    assert forbidden_names("import os\nx = os.environ['A']") == {"os.environ"}


def test_shipped_code_does_not_rely_on_assert() -> None:
    shipped = sources(*(f"{dist}/src" for dist in DISTS))
    assert [str(path) for path in shipped if has_assert(path.read_text())] == []
    assert has_assert("assert x")


def test_no_file_is_longer_than_allowed() -> None:
    everything = [*sources(*(f"{dist}/src" for dist in DISTS)), *sources("tests", *(f"{d}/tests" for d in DISTS))]
    assert {str(p): n for p in everything if (n := len(p.read_text().splitlines())) > MAX_LINES} == {}


def test_nothing_is_left_unfinished() -> None:
    bad = re.compile("TO" + "DO|FIX" + "ME|NotImplemented" + "Error")
    assert [str(p) for p in sources(*(f"{d}/src" for d in DISTS)) if bad.search(p.read_text())] == []


def test_only_the_stand_ins_speak_of_stand_ins() -> None:
    """A mock that ships is a back door with a friendly name."""
    bad = re.compile(r"\b(mock|fake|simulator|adytum_sim)\b", re.IGNORECASE)
    shipped = sources(*TRUSTED, "verify/src")
    assert [str(p) for p in shipped if bad.search(p.read_text())] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources with their wall configuration."""
    for dist in DISTS:
        for path in sources(f"{dist}/src"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    return tmp_path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    path = ":".join(str(tree / dist / "src") for dist in DISTS)
    code = (
        "import sys; from importlinter.cli import lint_imports_command\n"
        "sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_the_import_walls_hold_and_a_broken_one_fails_the_build(tree: Path) -> None:
    whole = lint_imports(tree)
    assert whole.returncode == 0, whole.stdout
    victim = tree / "enclave/src/adytum_enclave/core/replay.py"
    victim.write_text(victim.read_text() + "\nimport adytum_sim\nimport socket\n")
    broken = lint_imports(tree)
    assert broken.returncode != 0
    assert "the enclave imports nothing of the untrusted side BROKEN" in broken.stdout
    assert "no I/O, no clock, no randomness BROKEN" in broken.stdout


def test_the_trusted_lock_and_the_development_lock_agree() -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==\S+)", path.read_text(), re.MULTILINE))

    trusted, everything = pins(ROOT / "enclave/requirements.lock"), pins(ROOT / "requirements-dev.lock")
    assert len(trusted) >= 7
    assert trusted <= everything
