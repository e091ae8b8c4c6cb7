"""Helpers that several test files share are imported by their name: `from interleaving import Site`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
