"""For every test of the tree: what its deployments leave is searched for the secrets that they used (tests/leaks)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests"))

pytest_plugins = ["leaks.plugin"]
