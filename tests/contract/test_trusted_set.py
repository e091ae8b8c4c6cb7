"""The trusted set stands alone: its two wheels and its own lock are enough to import the production entry point."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = re.compile(r"(^|[/_.-])(sim|mock|fake|host|test|tests|conftest)([/_.-]|$)", re.IGNORECASE)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """adytum-core and adytum-enclave, built as they ship."""
    out = tmp_path_factory.mktemp("wheels")
    for dist in ("core", "enclave"):
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(ROOT / dist)]
        subprocess.run(command, check=True, capture_output=True)
    built = sorted(out.glob("*.whl"))
    assert len(built) == 2
    return built


@pytest.fixture(scope="module")
def alone(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two wheels and the distributions of enclave/requirements.lock, and nothing else."""
    folder = tmp_path_factory.mktemp("trusted")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    pins = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "enclave/requirements.lock").read_text(), re.MULTILINE)
    for name, version in pins:
        dist = importlib.metadata.distribution(name)
        assert dist.version == version, name
        for file in dist.files or []:
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(file.locate())))
    return folder


def test_the_wheels_hold_nothing_that_is_not_shipped(wheels: list[Path]) -> None:
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        assert any(name.endswith(".py") for name in names)
        assert [name for name in names if FORBIDDEN.search(name)] == []
    assert FORBIDDEN.search("adytum_sim/nsm.py")


def test_the_production_entry_point_imports_with_the_trusted_set_alone(alone: Path) -> None:
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1]]\n"
        "import adytum_enclave.shell.main\n"
        "bad = sorted(n for n in sys.modules if n.split('.')[0] in ('adytum', 'adytum_sim', 'adytum_verify'))\n"
        "print(len(sys.modules), bad)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(alone)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


def test_the_production_entry_point_refuses_a_machine_that_is_no_enclave(alone: Path) -> None:
    """No flag and no variable makes it serve here: the console names the checks, in codes."""
    code = "import sys; sys.path.append(sys.argv.pop()); from adytum_enclave.shell.main import main; sys.exit(main())"
    command = [sys.executable, "-I", "-S", "-c", code, "--insecure", str(alone)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"ADYTUM_DEBUG": "1"}, timeout=60)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "adytum-enclave: admission-failed nsm-device" in lines
    assert all(line.startswith("adytum-enclave: admission-failed ") for line in lines)
    assert done.stderr == ""
